"""A way to run the step on some URLs without a dataset around it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pipelines.download.config import DownloadConfig
from pipelines.download.step import Download
from pipelines.engine.step import Context

FAST = {"retries": 1, "retry_wait": 0.01, "timeout": 5.0, "deadline": 10.0, "allow_private_hosts": ["localhost"]}


@pytest.fixture
def download():
    """download(urls, **options) -> the rows, in order; `download.log` holds the run log."""

    def run(urls, rows=None, **options):
        step = Download(DownloadConfig(**FAST | options))
        context = Context(run="test", dataset="none")
        columns = {"key": [str(number) for number in range(len(urls))], "url": urls} | (rows or {})
        schema = pa.schema([(name, pa.string()) for name in columns])
        table = pa.table(columns, schema=schema)
        step.setup(context)
        try:
            with context.task() as run.log:
                made = list(step.process_fragment(iter(table.to_batches(max_chunksize=64))))
        finally:
            step.teardown()
        return pa.Table.from_batches(made, step.output_schema).to_pylist()

    return run
