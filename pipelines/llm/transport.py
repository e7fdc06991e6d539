"""HTTP transport over aiohttp to a single server; replies are complete, bounded and text.

In: a request of the openai client. Out: its reply, or an error of httpx2, or MalformedResponse. Whatever a server sends
instead of HTTP, in whatever encoding, nothing else comes out. aiohttp takes a third of the CPU time of httpx2's own
transport; what is not needed is not there: redirects, cookies, streams, encodings that were not asked for.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import aiohttp
import httpx2
from yarl import URL

from pipelines.llm.answer import MalformedResponse
from pipelines.llm.masking import Secrets, shown

_MIB = 2**20
# Shorter than servers keep idle connections (uvicorn: 5 s): one that they close just then would count as a lost answer.
_IDLE_S = 4.0
# What is read of the reply's head.
_HEADERS = ("retry-after", "retry-after-ms", "location")
# Compressed replies are unpacked in pieces of this size, so that a bomb is noticed after one of them.
_PIECE = 2**16
# JSON is UTF-8 (RFC 8259 section 8.1); some servers say otherwise. Codecs of Python that are no encodings of text
# (idna, rot13, undefined) or that make half characters (utf-7) are not among them.
_CHARSETS = frozenset(
    {"utf-8", "utf8", "utf-8-sig", "us-ascii", "ascii", "utf-16", "utf-16le", "utf-16be", "utf-32", "latin-1", "latin1"}
    | {f"iso-8859-{part}" for part in (1, 2, 5, 7, 9, 15)}
    | {f"windows-{page}" for page in range(1250, 1259)}
    | {"gbk", "gb2312", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr", "koi8-r", "koi8-u"}
)


_file_limit: ContextVar[int | None] = ContextVar("file_limit", default=None)


@contextmanager
def expecting_file(most_bytes: int) -> Iterator[None]:
    """Replies inside are files of up to `most_bytes`, taken as they are; they may take longer, as long as they come."""
    before = _file_limit.set(most_bytes)
    try:
        yield
    finally:
        _file_limit.reset(before)


@dataclass(frozen=True)
class Limits:
    """`reply_bytes` of a body, as it travels and unpacked; `timeout_s` for the whole exchange (uploads and files have
    so many more for each MiB); `connections` at a time."""

    reply_bytes: int
    timeout_s: float
    connections: int


class ReplyTransport(httpx2.AsyncBaseTransport):
    """Lives on one event loop. `proxy` is the address of an HTTP proxy, or None to connect directly."""

    def __init__(self, limits: Limits, secrets: Secrets, proxy: str | None = None):
        self._limits, self._secrets, self._proxy = limits, secrets, proxy
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises httpx2.TransportError, or MalformedResponse for what is no HTTP, too long, or no text."""
        timeout_s = self._limits.timeout_s * (1 + int(request.headers.get("content-length", 0)) // _MIB)
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                return await self._exchange(request, deadline)
        except TimeoutError as error:
            raise httpx2.ReadTimeout("no complete reply in time", request=request) from error
        except aiohttp.ClientConnectorError as error:
            raise httpx2.ConnectError(str(error), request=request) from error
        except aiohttp.ClientResponseError as error:
            # aiohttp's parser found no HTTP, or more headers than a reply has.
            raise MalformedResponse(f"the reply is not HTTP: {self._words(error.message)}") from error
        except aiohttp.ClientError as error:
            raise httpx2.ReadError(self._words(str(error)), request=request) from error
        except (MalformedResponse, httpx2.HTTPError):
            raise
        except Exception as error:
            # The border: whatever a library raises about a hostile reply (RuntimeError, EOFError, ...) is this row's.
            raise httpx2.TransportError(self._words(str(error)), request=request) from error

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, request: httpx2.Request, deadline: asyncio.Timeout) -> httpx2.Response:
        headers = [(name, value) for name, value in request.headers.multi_items() if name != "transfer-encoding"]
        headers = [*(pair for pair in headers if pair[0] != "accept-encoding"), ("Accept-Encoding", "gzip, deflate")]
        response = await self._open(request).request(
            request.method,
            URL(str(request.url), encoded=True),
            headers=headers,
            data=_body(request),
            allow_redirects=False,
            proxy=self._proxy,
        )
        try:
            body = await self._read(response, deadline)
        finally:
            # Not `release`, which waits until the server has read the whole request.
            response.release() if response.content.at_eof() else response.close()
        kept = {name: self._secrets.hide(value) for name in _HEADERS if (value := response.headers.get(name))}
        if _file_limit.get() is None:
            body = self._secrets.hide(_decoded(body, response, self._words)).encode()
            kept["content-type"] = "application/json"
        return httpx2.Response(response.status, headers=kept, content=body, request=request)

    async def _read(self, response: aiohttp.ClientResponse, deadline: asyncio.Timeout) -> bytes:
        """The unpacked body. A file gets more time with each MiB that comes."""
        file_limit = _file_limit.get()
        limit = file_limit or self._limits.reply_bytes
        unpacked = _Unpacker.of(response, self._words)
        parts, travelled, length = [], 0, 0
        if (response.content_length or 0) > limit:
            raise _too_long(limit)
        async for chunk in response.content.iter_any():
            if file_limit and (travelled + len(chunk)) // _MIB > travelled // _MIB:
                deadline.reschedule(asyncio.get_running_loop().time() + self._limits.timeout_s)
            travelled += len(chunk)
            for part in unpacked.pieces(chunk):
                length += len(part)
                if max(length, travelled) > limit:
                    raise _too_long(limit)
                parts.append(part)
            if travelled > limit:
                raise _too_long(limit)
        unpacked.end()
        return b"".join(parts)

    def _words(self, words: str) -> str:
        """What a reply's head or a library says about it, on one line: either may repeat the key. Masked, then cut."""
        words = " ".join(shown(self._secrets.hide(words)).split())
        return words if len(words) <= 120 else words[:117] + "..."

    def _open(self, request: httpx2.Request) -> aiohttp.ClientSession:
        if self._session is None:
            tls = httpx2.create_ssl_context() if request.url.scheme == "https" else True
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._limits.connections, ssl=tls, keepalive_timeout=_IDLE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session


class _Unpacker:
    """A body as it was before it was compressed (RFC 9110 section 8.4), at most 64 KiB at a time."""

    def __init__(self, encoding: str):
        self._encoding, self._first = encoding, True
        # 32: zlib's or gzip's head, whichever is there. Some servers send deflate without either (`pieces`).
        self._inner = None if encoding == "identity" else zlib.decompressobj(32 + zlib.MAX_WBITS)

    @classmethod
    def of(cls, response: aiohttp.ClientResponse, words: Callable[[str], str]) -> _Unpacker:
        said = ",".join(response.headers.getall("content-encoding", ())).lower().replace("x-gzip", "gzip")
        encodings = [name.strip() for name in said.split(",") if name.strip() not in ("", "identity")]
        if len(encodings) > 1 or (encodings and encodings[0] not in ("gzip", "deflate")):
            raise MalformedResponse(f"the reply is compressed as {words(said)}: only gzip or deflate was asked for")
        return cls(encodings[0] if encodings else "identity")

    def pieces(self, chunk: bytes) -> Iterator[bytes]:
        """Raises MalformedResponse for what does not unpack."""
        if self._inner is None:
            yield chunk
            return
        try:
            part = self._first_piece(chunk)
            while part:
                yield part
                part = self._inner.decompress(self._inner.unconsumed_tail, _PIECE)
        except zlib.error as error:
            raise MalformedResponse(f"the reply does not unpack as {self._encoding}: {error}") from error

    def end(self) -> None:
        """Raises MalformedResponse when the compressed body was cut."""
        if self._inner is not None and not self._inner.eof and not self._first:
            raise MalformedResponse(f"the reply was cut within its {self._encoding} stream")

    def _first_piece(self, chunk: bytes) -> bytes:
        assert self._inner is not None
        first, self._first = self._first, False
        try:
            return self._inner.decompress(chunk, _PIECE)
        except zlib.error:
            if not first or self._encoding != "deflate":
                raise
            self._inner = zlib.decompressobj(-zlib.MAX_WBITS)
            return self._inner.decompress(chunk, _PIECE)


def _decoded(body: bytes, response: aiohttp.ClientResponse, words: Callable[[str], str]) -> str:
    """The body as text. An error's words may be damaged; an answer that is no text raises MalformedResponse."""
    errors = "strict" if response.status == 200 else "replace"
    charset = (response.charset or "utf-8").strip("\"' ").lower().replace("_", "-").replace("shift-jis", "shift_jis")
    if charset not in _CHARSETS:
        if errors == "strict":
            raise MalformedResponse(f"the reply is in {words(charset)!r}, which is no encoding of text known here")
        charset = "utf-8"
    try:
        # RFC 8259 lets readers pass over a byte order mark.
        return body.decode("utf-8-sig" if charset in ("utf-8", "utf8") else charset, errors)
    except UnicodeDecodeError as error:
        raise MalformedResponse(f"the reply is not {charset} text: {error.reason} at byte {error.start}") from error


def _body(request: httpx2.Request) -> bytes | httpx2.AsyncByteStream | None:
    try:
        return request.content or None
    except httpx2.RequestNotRead:
        assert isinstance(request.stream, httpx2.AsyncByteStream)
        return request.stream


def _too_long(limit: int) -> MalformedResponse:
    return MalformedResponse(f"the reply is longer than {limit} bytes (max_reply_bytes)")
