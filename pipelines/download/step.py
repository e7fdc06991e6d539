"""The `download` step: columns in, columns out. Fetching is in `client.py`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

import pyarrow as pa

from pipelines.download.client import Client, Picture
from pipelines.download.config import DownloadConfig
from pipelines.download.hostclass import host_class
from pipelines.download.img2dataset_engine import Img2datasetEngine
from pipelines.download.loop import SHARED_LOOP, submit
from pipelines.download.memory import Line, Row
from pipelines.download.statuses import TRANSIENT, DownloadStatus, Failure
from pipelines.engine.step import Context, Needs, Step
from schemas.dataset import Dataset, Fragment
from schemas.errors import InputError
from schemas.records import STORED_IMAGE
from schemas.standing import NOT_OK

_BATCHES_AHEAD = 32
"""Batches of a fragment under way at a time: 2,048 rows, so that one slow row does not stop the others."""


ADDED = (
    *STORED_IMAGE,
    pa.field("original_width", pa.int32()),
    pa.field("original_height", pa.int32()),
    pa.field("mime", pa.string()),
    pa.field("download_host", pa.string()),
)


class Download(Step[DownloadConfig]):
    """Fetches `url` and keeps the picture.

    `width` and `height` are of what is kept, `original_*` and `sha256` of what was received, `phash` of what is kept.
    """

    name = "download"
    takes = "images"
    version = 1
    Config = DownloadConfig
    statuses = DownloadStatus
    transient = TRANSIENT
    unfinished = frozenset({DownloadStatus.not_chosen})
    passed_over = unfinished
    leaves_out = NOT_OK
    counted_by = "download_host"

    def __init__(self, config: DownloadConfig):
        super().__init__(config)
        if config.verify_hash and config.verify_hash[0] in self.output_schema.names:
            raise InputError(
                f"verify_hash: {config.verify_hash[0]!r} is a column that download writes itself. "
                f"Import the list's column under another name: --extra '{{hash_of_list: {config.verify_hash[0]}}}'."
            )

    @property
    def reads(self) -> tuple[str, ...]:
        return ("key", "url", *(self.config.verify_hash or ())[:1])

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        kind = self.config.compute_hash
        return ADDED if kind == "sha256" else (*ADDED, pa.field(kind, pa.string()))

    @property
    def needs(self) -> Needs:
        """Each worker process asks a host for one picture at a time at least."""
        files = (self.config.ca_file,) if self.config.ca_file else ()
        return Needs(most_workers=self.config.host_limit, memory_gb=2, model_files=files)

    def fragments(self, dataset: Dataset) -> Sequence[Fragment]:
        """Not those of a source that brought its pictures: the columns of this step would hide them.

        Raises InputError when all are such.
        """
        fetched = [fragment for fragment in dataset.fragments if fragment.owner.get("image") != "base"]
        if dataset.fragments and not fetched:
            raise InputError(
                f"{dataset.path}: its pictures came with the import, and the columns of download would hide them. "
                "To fetch them again, import the list of their URLs into another dataset."
            )
        return fetched

    def setup(self, context: Context) -> None:
        self.context = context
        if self.config.engine == "img2dataset":
            self.peer = Img2datasetEngine(self.config)
            return
        self.loop = SHARED_LOOP.acquire()
        self.client = Client(self.config, context)
        submit(self.loop, self.client.open()).result()

    def teardown(self) -> None:
        if self.config.engine == "img2dataset":
            return
        submit(self.loop, self.client.close()).result()
        SHARED_LOOP.release()

    def process_fragment(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Rows leave in their order; up to `_BATCHES_AHEAD` batches are fetched at a time."""
        return self._by_img2dataset(batches) if self.config.engine == "img2dataset" else self._natively(batches)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return next(self.process_fragment(iter([batch])))

    def _natively(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        line = Line()
        ahead: deque[tuple[Future, list[Row]]] = deque()
        try:
            for batch in batches:
                ahead.append(self._start(batch, line))
                if len(ahead) >= _BATCHES_AHEAD:
                    yield self._finish(*ahead.popleft())
            while ahead:
                yield self._finish(*ahead.popleft())
        finally:
            for future, rows in ahead:
                future.cancel()
                self.loop.call_soon_threadsafe(self._release, rows)
        self.context.log({"event": "fragment", **self.client.counts, "memory_peak": self.client.memory.peak})

    def _by_img2dataset(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        urls, expected = [], []
        for batch in batches:
            urls += batch.column("url").to_pylist()
            expected += self._expected(batch)
        rows = zip(urls, self.peer.download(urls, expected), strict=True)
        while part := [{"download_host": host_class(url), **row} for url, row in islice(rows, self.batch_rows)]:
            yield self.rows_to_batch(part)

    def _expected(self, batch: pa.RecordBatch) -> list[str | None]:
        """The hashes to verify, or None for each row."""
        if not self.config.verify_hash:
            return [None] * batch.num_rows
        return batch.column(self.config.verify_hash[0]).to_pylist()

    def _start(self, batch: pa.RecordBatch, line: Line) -> tuple[Future, list[Row]]:
        keys, urls = batch.column("key").to_pylist(), batch.column("url").to_pylist()
        rows = [line.join() for _ in keys]
        return submit(self.loop, self._download_all(keys, urls, self._expected(batch), rows)), rows

    async def _download_all(self, keys: list, urls: list, expected: list, rows: list[Row]) -> list[dict[str, Any]]:
        one = self.client.download
        outcomes = await asyncio.gather(*(one(*row) for row in zip(keys, urls, expected, rows, strict=True)))
        return [self._columns(url, outcome) for url, outcome in zip(urls, outcomes, strict=True)]

    def _finish(self, future: Future, rows: list[Row]) -> pa.RecordBatch:
        batch = self.rows_to_batch(future.result())
        self.loop.call_soon_threadsafe(self._release, rows)
        return batch

    def _release(self, rows: list[Row]) -> None:
        for row in rows:
            self.client.memory.resize(row, 0)

    def _columns(self, url: str | None, outcome: Picture | Failure) -> dict[str, Any]:
        host = host_class(url)
        if isinstance(outcome, Failure):
            return {"download_host": host, "status": outcome.status.value, "detail": outcome.detail}
        kept = outcome.kept
        columns = {
            "image": {"bytes": kept.data, "path": None},
            "width": kept.width,
            "height": kept.height,
            "sha256": outcome.hashes["sha256"],
            "phash": kept.phash,
            "original_width": kept.original_width,
            "original_height": kept.original_height,
            "mime": kept.mime,
            "download_host": host,
            "status": DownloadStatus.ok.value,
        }
        if self.config.compute_hash != "sha256":
            columns[self.config.compute_hash] = outcome.hashes[self.config.compute_hash]
        return columns
