"""The statuses of `download`."""

from __future__ import annotations

from enum import StrEnum

from pipelines.engine.choosing import NOT_CHOSEN
from pipelines.engine.retry import is_transient_http


class DownloadStatus(StrEnum):
    """One word per outcome; `download_detail` says more. The groups follow the order of the checks."""

    ok = "ok"

    not_chosen = NOT_CHOSEN  # limit or sample leaves this row for a later run

    no_url = "no_url"
    bad_url = "bad_url"
    bad_scheme = "bad_scheme"  # file:, ftp:, data: and whatever else is not http or https
    private_address = "private_address"  # refused by the guard, on any hop

    robots_disallowed = "robots_disallowed"
    robots_unreachable = "robots_unreachable"  # RFC 9309: treated as "disallow all" until it can be read
    opt_out_header = "opt_out_header"  # X-Robots-Tag
    opt_out_tdm = "opt_out_tdm"  # TDM reservation

    dns = "dns"
    connection = "connection"  # refused, reset, unreachable
    tls = "tls"
    timeout = "timeout"  # no byte in time, or not complete before the deadline
    incomplete = "incomplete"  # the connection ended before the promised length
    bad_response = "bad_response"  # not HTTP, or a content encoding that cannot be read

    not_found = "not_found"  # 404
    gone = "gone"  # 410
    forbidden = "forbidden"  # 401, 403, 451
    rate_limited = "rate_limited"  # 429
    client_error = "client_error"  # any other 4xx, and answers that are no answer (204, 304, ...)
    server_error = "server_error"  # 5xx, 408, 425
    too_many_redirects = "too_many_redirects"

    too_large = "too_large"  # bytes, before or after content decoding
    empty = "empty"
    hash_mismatch = "hash_mismatch"
    not_image = "not_image"
    unsupported_format = "unsupported_format"  # a picture, of a kind that is not taken: SVG, HEIC, PSD, ...
    truncated = "truncated"
    corrupt = "corrupt"
    too_many_pixels = "too_many_pixels"
    too_slow = "too_slow"  # a worker process had to be ended while it decoded
    too_small = "too_small"
    aspect_ratio = "aspect_ratio"

    error = "error"  # a defect of ours; the detail names the exception


TRANSIENT = frozenset(
    {
        DownloadStatus.robots_unreachable,
        DownloadStatus.dns,
        DownloadStatus.connection,
        DownloadStatus.timeout,
        DownloadStatus.incomplete,
        DownloadStatus.rate_limited,
        DownloadStatus.server_error,
        DownloadStatus.error,
    }
)
"""Failures that may pass: tried again within a run, and by `--retry transient` in a later one."""


class Failure(Exception):
    """A row that ends without a picture.

    `detail` is a function of what the server did: no times, no addresses, no numbers of tries. `retry_after` is what
    the server asked to wait, in seconds.
    """

    def __init__(self, status: DownloadStatus, detail: str, retry_after: float | None = None):
        super().__init__(f"{status}: {detail}")
        self.status, self.detail, self.retry_after = status, detail, retry_after

    @property
    def transient(self) -> bool:
        return self.status in TRANSIENT


_BY_CODE = {
    404: DownloadStatus.not_found,
    410: DownloadStatus.gone,
    401: DownloadStatus.forbidden,
    403: DownloadStatus.forbidden,
    451: DownloadStatus.forbidden,
    429: DownloadStatus.rate_limited,
}


def http_status(code: int) -> DownloadStatus:
    """The status of an HTTP answer that is neither 200 nor a redirect."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    return DownloadStatus.server_error if is_transient_http(code) else DownloadStatus.client_error
