"""One attempt at one URL: every hop guarded, every byte counted. Raises Failure unless the body is complete."""

from __future__ import annotations

import asyncio
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urljoin

import aiohttp
from yarl import URL

from pipelines.download.connect import GuardedError
from pipelines.download.guard import Guard
from pipelines.download.statuses import DownloadStatus, Failure, http_status
from pipelines.engine.retry import parse_retry_after

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 2**16
# IANA's HTTP content coding registry, without `identity`, and the old names of two.
_COMPRESSIONS = frozenset({"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress", "dcb", "dcz", "exi"})

Turn = Callable[[URL], AbstractAsyncContextManager[None]]
BeforeHop = Callable[[URL], Awaitable[None]]
OnHeaders = Callable[[Any], None]
OnBytes = Callable[[bytes, int], None]


async def fetch(
    session: aiohttp.ClientSession,
    guard: Guard,
    url: URL,
    *,
    max_bytes: int,
    max_redirects: int,
    deadline: float,
    turn: Turn,
    before_hop: BeforeHop | None = None,
    on_headers: OnHeaders | None = None,
    on_bytes: OnBytes | None = None,
) -> bytes:
    """The body at `url`, content-decoded, from an answer of 200.

    Each hop waits for its `turn` at its own host. `before_hop` may refuse each redirect's target, `on_headers` the
    answer, `on_bytes` the body as it arrives: it gets each chunk and the bytes before it. They raise what they like.
    `deadline` is in seconds, for all hops together, without the waiting for turns.
    """
    left = deadline
    for hop in range(max_redirects + 1):
        if hop and before_hop:
            await before_hop(url)
        async with turn(url):
            started = asyncio.get_running_loop().time()
            answer = await _hop(session, guard, url, max(left, 0.0), max_bytes, on_headers, on_bytes)
            left -= asyncio.get_running_loop().time() - started
        if isinstance(answer, bytes):
            return answer
        url = answer
    raise Failure(DownloadStatus.too_many_redirects, f"more than {max_redirects} redirects")


async def _hop(
    session: aiohttp.ClientSession,
    guard: Guard,
    url: URL,
    deadline: float,
    max_bytes: int,
    on_headers: OnHeaders | None,
    on_bytes: OnBytes | None,
) -> bytes | URL:
    """The body, or where a redirect leads."""
    try:
        async with asyncio.timeout(deadline), session.get(url, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                return _target(response, url, guard)
            return await _body(response, max_bytes, on_headers, on_bytes)
    except TimeoutError as error:
        # aiohttp's own timeouts (connecting, silence) are TimeoutErrors as well.
        quiet = isinstance(error, aiohttp.ServerTimeoutError)
        raise Failure(DownloadStatus.timeout, "no answer in time" if quiet else "not complete in time") from None
    except (aiohttp.ClientError, ValueError, OSError) as error:
        raise _failure(error) from None


def _target(response: aiohttp.ClientResponse, url: URL, guard: Guard) -> URL:
    location = response.headers.get("Location", "").strip()
    if not location:
        raise Failure(DownloadStatus.bad_response, f"HTTP {response.status} without a Location")
    try:
        target = urljoin(str(url), location)
    except ValueError:
        raise Failure(DownloadStatus.bad_url, "redirect to something that is not a URL") from None
    try:
        return guard.check_url(target)
    except Failure as failure:
        raise Failure(failure.status, f"redirect: {failure.detail}") from None


async def _body(
    response: aiohttp.ClientResponse, max_bytes: int, on_headers: OnHeaders | None, on_bytes: OnBytes | None
) -> bytes:
    if response.status != 200:
        wait = parse_retry_after(response.headers) if response.status >= 400 else None
        raise Failure(http_status(response.status), f"HTTP {response.status}", wait)
    if on_headers:
        on_headers(response.headers)
    if (response.content_length or 0) > max_bytes:
        raise Failure(DownloadStatus.too_large, "Content-Length beyond max_bytes")
    decode = _decoder(response.headers.get("Content-Encoding", ""))
    parts, size = [], 0
    async for part in _decoded(response.content.iter_any(), decode, max_bytes):
        if on_bytes:
            on_bytes(part, size)
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise Failure(DownloadStatus.too_large, "body beyond max_bytes")
    if not size:
        raise Failure(DownloadStatus.empty, "the body is empty")
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _decoded(chunks: AsyncIterator[bytes], decode: Any, max_bytes: int) -> AsyncIterator[bytes]:
    """The chunks without their content encoding, in small pieces: a bomb is noticed long before it has unfolded."""
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > max_bytes:
            raise Failure(DownloadStatus.too_large, "body beyond max_bytes")
        if decode is None:
            yield chunk
            continue
        for part in _inflate(decode, chunk):
            yield part
    if decode is not None and not decode.eof:
        raise Failure(DownloadStatus.incomplete, "the compressed body ends early")


def _decoder(encoding: str) -> Any:
    """None for a plain body, else a zlib object. We ask for `identity`; some servers compress all the same.

    Words that name no compression ("none", "utf-8", S3's "aws-chunked") are ignored, as browsers do.
    """
    kinds = [kind for kind in re.split(r"[\s,]+", encoding.lower()) if kind in _COMPRESSIONS]
    if not kinds:
        return None
    if kinds == ["deflate"]:
        return zlib.decompressobj()
    if kinds in (["gzip"], ["x-gzip"]):
        return zlib.decompressobj(16 + zlib.MAX_WBITS)
    raise Failure(DownloadStatus.bad_response, f"Content-Encoding {' '.join(kinds)[:20]!r} was not asked for")


def _inflate(decode: Any, chunk: bytes) -> Iterator[bytes]:
    while chunk and not decode.eof:
        try:
            part = decode.decompress(chunk, _CHUNK)
        except zlib.error:
            raise Failure(DownloadStatus.bad_response, "the content encoding is broken") from None
        chunk = decode.unconsumed_tail
        if part:
            yield part


def _failure(error: Exception) -> Failure:
    """The outcome that an error of the transport means; the detail has no address, port or time in it."""
    refusal = _refusal(error)
    if refusal is not None:
        return refusal
    for kinds, status, detail in _MEANINGS:
        if isinstance(error, kinds):
            return Failure(status, detail)
    return Failure(DownloadStatus.connection, "refused, reset or unreachable")


# The first match counts: aiohttp's errors inherit from each other, from OSError and from ValueError.
_MEANINGS: tuple[tuple[tuple[type[Exception], ...], DownloadStatus, str], ...] = (
    ((aiohttp.ClientConnectorDNSError,), DownloadStatus.dns, "the host name cannot be resolved"),
    ((aiohttp.ClientSSLError, ssl.SSLError), DownloadStatus.tls, "no secure connection: certificate or protocol"),
    ((aiohttp.ClientPayloadError,), DownloadStatus.incomplete, "the body ends early"),
    ((aiohttp.ClientResponseError,), DownloadStatus.bad_response, "not a valid HTTP answer"),
    ((aiohttp.InvalidURL, ValueError), DownloadStatus.bad_url, "cannot be requested as a URL"),
)


def _refusal(error: BaseException | None) -> Failure | None:
    """The guard's own failure inside what aiohttp made of it."""
    while error is not None:
        if isinstance(error, GuardedError):
            return error.failure
        error = getattr(error, "os_error", None) or error.__cause__
    return None
