"""`export`: a dataset in; files out that other tools read: LLaVA's JSON, parquet, webdataset, energon.

`run.py` walks through the rows once, in order, and writes shards; `source.py` says what a row is; a module per format
says how it is written.
"""

from pipelines.exporters.config import ExportConfig
from pipelines.exporters.run import ExportSummary, run_export

__all__ = ["ExportConfig", "ExportSummary", "run_export"]
