"""`engine: img2dataset`: img2dataset's own Downloader on a fragment, for people who need its exact pictures.

What is ours around it: URLs are checked by the guard and so is every address that it connects to; one TLS context
instead of one per request; its rows come back as our columns and statuses, in order. robots.txt, TDM headers, byte
caps, per-host limits and backoff are the native engine's alone. Works with img2dataset 1.47 on Python 3.11 and 3.12.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa

from pipelines.download.config import DownloadConfig
from pipelines.download.connect import tls_context
from pipelines.download.guard import Guard
from pipelines.download.opener import guarded_opener
from pipelines.download.statuses import DownloadStatus, Failure, http_status
from schemas.errors import InputError
from schemas.phash import hash_picture
from schemas.pictures import PictureError

_MIMES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


class Img2datasetEngine:
    """Downloads whole fragments. Raises InputError when img2dataset is not installed."""

    def __init__(self, config: DownloadConfig):
        self.config = config
        self._guard = Guard(config.allow_private_hosts)
        if config.verify_hash and config.verify_hash[1] != config.compute_hash:
            raise InputError(
                f"engine img2dataset: verify_hash uses {config.verify_hash[1]} and compute_hash {config.compute_hash}; "
                "img2dataset requires both to be the same."
            )
        self._downloader_class, self._resizer = self._prepared()

    def download(self, urls: list[str | None], expected: list[str | None]) -> Iterator[dict[str, Any]]:
        """One dictionary of our columns per URL, in order; `expected` are hashes to verify, or None."""
        checked = [self._checked(url) for url in urls]
        sent = [number for number, url in enumerate(checked) if isinstance(url, str)]
        with tempfile.TemporaryDirectory() as folder:
            rows: dict[int, dict[str, Any]] = {}
            if sent:
                self._run(folder, [str(checked[number]) for number in sent], [expected[number] for number in sent])
                rows = {sent[index]: row for index, row in _read(Path(folder, ArrowSampleWriter.FILE))}
            for number, url in enumerate(checked):
                if isinstance(url, Failure):
                    yield {"status": url.status.value, "detail": url.detail}
                else:
                    yield self._columns(rows.get(number))

    def _checked(self, url: str | None) -> str | Failure:
        if not url or not url.strip():
            return Failure(DownloadStatus.no_url, "the url is empty")
        try:
            return str(self._guard.check_url(url))
        except Failure as failure:
            return failure

    def _run(self, folder: str, urls: list[str], expected: list[str | None]) -> None:
        config, columns = self.config, {"url": urls}
        if config.verify_hash:
            columns[config.verify_hash[1]] = [text or "" for text in expected]
        table = pa.table(columns)
        shard = f"{folder}/urls.feather"
        with pa.OSFile(shard, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
        downloader = self._downloader_class(
            sample_writer_class=ArrowSampleWriter,
            resizer=self._resizer,
            thread_count=config.thread_count,
            save_caption=False,
            extract_exif=False,
            output_folder=folder,
            column_list=list(columns),
            timeout=config.timeout,
            # At least 2: img2dataset takes the logarithm of it for the width of its keys.
            number_sample_per_shard=max(2, len(urls)),
            oom_shard_count=1,
            compute_hash=config.compute_hash,
            verify_hash_type=config.verify_hash[1] if config.verify_hash else None,
            encode_format=config.encode_format,
            retries=config.retries,
            user_agent_token=config.user_agent_token,
            disallowed_header_directives=list(config.disallowed_header_directives) or None,
        )
        downloader.download_shard((0, shard))

    def _columns(self, row: dict[str, Any] | None) -> dict[str, Any]:
        if row is None:
            return {"status": DownloadStatus.error.value, "detail": "img2dataset returned no row"}
        if row["status"] != "success":
            status = status_of(row["status"], row["error_message"] or "")
            return {"status": status.value, "detail": " ".join((row["error_message"] or "").split())}
        data = row[self.config.encode_format]
        try:
            phash = hash_picture(data)
        except PictureError as error:
            return {"status": error.defect.value, "detail": error.detail}
        columns = {name: row[name] for name in ("width", "height", "original_width", "original_height")}
        columns |= {"image": {"bytes": data, "path": None}, "status": DownloadStatus.ok.value}
        columns |= {"mime": _mime(data, self.config.encode_format), "phash": phash}
        return columns | {self.config.compute_hash: row[self.config.compute_hash]}

    def _prepared(self) -> tuple[Any, Any]:
        """img2dataset's Downloader class, and a Resizer, with our opener and without its file-descriptor tricks."""
        # One of its libraries would otherwise ask the internet for a newer version of itself.
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        try:
            from img2dataset import downloader, resizer
        except ImportError as error:
            raise InputError(
                f"engine img2dataset: it cannot be imported ({error}). "
                "Install lavabeam[img2dataset] with Python 3.11 or 3.12, or use the native engine."
            ) from error
        opener = guarded_opener(self._guard, tls_context(self.config.ca_file))
        request = SimpleNamespace(Request=downloader.urllib.request.Request, urlopen=opener.open)
        # Its module's own view of urllib is replaced, not urllib's opener: that would be everyone's in this process.
        downloader.urllib = SimpleNamespace(request=request)
        # It points file descriptors 1 and 2 at /dev/null around each picture; with several threads they stay there.
        resizer.SuppressStdoutStderr = contextlib.nullcontext
        config = self.config
        made = resizer.Resizer(
            image_size=config.image_size,
            resize_mode=config.resize_mode,
            resize_only_if_bigger=config.resize_only_if_bigger,
            upscale_interpolation=config.upscale_interpolation,
            downscale_interpolation=config.downscale_interpolation,
            encode_quality=config.encode_quality,
            encode_format=config.encode_format,
            skip_reencode=config.skip_reencode,
            min_image_size=config.min_image_size,
            max_image_area=config.max_image_area,
            max_aspect_ratio=config.max_aspect_ratio,
        )
        return downloader.Downloader, made


class ArrowSampleWriter:
    """img2dataset's writer interface, onto one Arrow stream; its four own writers know tar, parquet and files."""

    FILE = "samples.arrow"
    _ROWS = 64

    def __init__(
        self,
        shard_id: int,
        output_folder: str,
        save_caption: bool,
        oom_shard_count: int,
        schema: pa.Schema,
        format: str,
    ):
        self._schema = schema.append(pa.field(format, pa.binary()))
        self._format = format
        self._rows: list[dict[str, Any]] = []
        self._file = pa.OSFile(f"{output_folder}/{self.FILE}", "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)

    def write(self, data: bytes | None, key: str, caption: str | None, meta: dict[str, Any]) -> None:
        self._rows.append({**meta, "key": key, self._format: data})
        if len(self._rows) >= self._ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_batch(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def _read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place in the shard, row): img2dataset writes rows as they finish, with the place as their key."""
    with pa.memory_map(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            for row in batch.to_pylist():
                yield int(row["key"]), row


# img2dataset tells its reasons in words only: its own, those of urllib, and of the operating system.
_REASONS: tuple[tuple[str, DownloadStatus], ...] = (
    (r"private_address", DownloadStatus.private_address),
    (r"infinite loop", DownloadStatus.too_many_redirects),
    (r"X-Robots-Tag", DownloadStatus.opt_out_header),
    (r"hash mismatch", DownloadStatus.hash_mismatch),
    (r"unknown url type|[Rr]edirection to url", DownloadStatus.bad_scheme),
    (r"[Nn]ame or service not known|name resolution|No address associated|nodename", DownloadStatus.dns),
    (r"timed out", DownloadStatus.timeout),
    (r"SSL|CERTIFICATE", DownloadStatus.tls),
    (r"IncompleteRead", DownloadStatus.incomplete),
    (r"refused|reset|unreachable|[Rr]emote end closed|Errno", DownloadStatus.connection),
    (r"image too small", DownloadStatus.too_small),
    (r"image area too large", DownloadStatus.too_many_pixels),
    (r"aspect ratio too large", DownloadStatus.aspect_ratio),
)


def status_of(kind: str, message: str) -> DownloadStatus:
    """Our status for img2dataset's `status` and `error_message`."""
    for pattern, status in _REASONS:
        if re.search(pattern, message):
            return status
    code = re.match(r"HTTP Error (\d{3})", message)
    if code:
        return http_status(int(code.group(1)))
    return DownloadStatus.corrupt if kind == "failed_to_resize" else DownloadStatus.bad_response


def _mime(data: bytes, encode_format: str) -> str:
    """The type of kept bytes: with skip_reencode they are what came, which is of the encode format as well."""
    return "image/png" if data[:4] == b"\x89PNG" else _MIMES[encode_format]
