"""The `download` step. In: the `url` of each row. Out: the picture, its sizes and hashes, and the outcome.

Read from the outside in: `step.py` (columns), `client.py` (one row: guard, politeness, tries), `fetch.py` (one try),
`pictures.py` (bytes to a checked picture). `config.py` holds every option, `statuses.py` every outcome. `single.py`
fetches one picture for `chat`.
"""

from pipelines.download.config import DownloadConfig
from pipelines.download.statuses import DownloadStatus
from pipelines.download.step import Download

__all__ = ["Download", "DownloadConfig", "DownloadStatus"]
