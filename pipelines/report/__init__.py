"""Reports: datasets and training metrics in, one self-contained HTML page out.

Counts per step and status, sample pictures with what was said about them, clusters of copies, loss curves,
accuracy. Pictures are in the page as thumbnails; there is no script and nothing is fetched.
"""

from pipelines.report.page import write_report

__all__ = ["write_report"]
