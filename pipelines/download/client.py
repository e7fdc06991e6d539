"""One row from URL to outcome: guard, robots.txt, queueing, retries, and image verification."""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp
from yarl import URL

from pipelines.download import headers as picture_headers
from pipelines.download.config import DownloadConfig
from pipelines.download.connect import guarded_connector, tls_context
from pipelines.download.fetch import fetch
from pipelines.download.guard import Guard
from pipelines.download.hosts import HostLimits
from pipelines.download.memory import Memory, MemoryFull, Row
from pipelines.download.optout import MAX_ROBOTS_BYTES, check_headers
from pipelines.download.pictures import Kept, keep, single_threaded
from pipelines.download.robots import RobotsCache
from pipelines.download.statuses import DownloadStatus, Failure
from pipelines.engine.step import Context

_MAX_HEADER = 16_384
"""Bytes of one response header line; long redirect targets exceed aiohttp's 8,190."""


class _Enough(Exception):
    """As much of a robots.txt was read as is parsed."""


@dataclass(frozen=True)
class Picture:
    """A row that ended well."""

    kept: Kept
    hashes: dict[str, str]
    """Kind -> hex hash of the bytes as received."""


class Client:
    """Connections, limits and caches of one worker process. `open` and `close` run on its event loop."""

    def __init__(self, config: DownloadConfig, context: Context):
        self.config, self.context = config, context
        self.counts: Counter[str] = Counter()
        self.memory = Memory(config.memory)
        self._guard = Guard(config.allow_private_hosts)
        self._retry = config.retry_policy
        self._limits = HostLimits(
            config.thread_count, config.host_limit, config.host_delay, context.workers, self._retry
        )
        self._robots = RobotsCache(self._get_robots, config.user_agent_token)
        self._threads = ThreadPoolExecutor(config.decode_threads, "lavabeam-decode", initializer=single_threaded)

    async def open(self) -> None:
        config = self.config
        connector = guarded_connector(
            self._guard, config.thread_count + 8, tls_context(config.ca_file), self._log_addresses
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=config.timeout, sock_read=config.timeout),
            headers={"User-Agent": config.user_agent, "Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
        )

    async def close(self) -> None:
        await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def download(self, key: str, url: str | None, expected: str | None, row: Row) -> Picture | Failure:
        """The outcome of one row. Only a cancelled task raises; whatever else goes wrong is a Failure."""
        started = asyncio.get_running_loop().time()
        tries = [0]
        try:
            outcome: Picture | Failure = await self._download(url, expected, row, tries)
        except Failure as failure:
            outcome = failure
        except Exception as error:  # the promise that one row never stops a run; the type goes into the detail
            self.context.log({"event": "defect", "key": key, "error": repr(error)})
            outcome = Failure(DownloadStatus.error, f"defect: {type(error).__name__}")
        self.memory.resize(row, len(outcome.kept.data) if isinstance(outcome, Picture) else 0)
        row.line.finish(row)
        self.counts["rows"] += 1
        if tries[0] > 1 or isinstance(outcome, Failure):
            seconds = round(asyncio.get_running_loop().time() - started, 3)
            status = outcome.status if isinstance(outcome, Failure) else DownloadStatus.ok
            self.context.log({"event": "row", "key": key, "status": status, "tries": tries[0], "seconds": seconds})
        return outcome

    async def _download(self, url: str | None, expected: str | None, row: Row, tries: list[int]) -> Picture:
        if not url or not url.strip():
            raise Failure(DownloadStatus.no_url, "the url is empty")
        target = self._guard.check_url(url)
        body = await self._patiently(target, row, tries)
        return await asyncio.get_running_loop().run_in_executor(self._threads, _judge, body, expected, self.config)

    async def _patiently(self, url: URL, row: Row, tries: list[int]) -> bytes:
        """The body, after as many tries as the retry policy grants; raises the last Failure."""
        while True:
            try:
                await self._obey_robots(url)
                tries[0] += 1
                return await self._fetch(url, row)
            except MemoryFull:
                self.counts["given_up_for_memory"] += 1
                tries[0] -= 1
                self.memory.resize(row, 0)
            except Failure as failure:
                self.memory.resize(row, 0)
                wait = self._retry.delay(max(tries[0], 1), failure.retry_after, random.random)
                if not failure.transient or wait is None or not tries[0]:
                    raise
                self.counts["retries"] += 1
                await asyncio.sleep(wait)

    @asynccontextmanager
    async def _turn(self, row: Row, url: URL) -> AsyncIterator[None]:
        """A place at the URL's host, when there is room for what may come; the host hears how it went."""
        host = url.raw_host or ""
        while True:
            await self.memory.room(row)
            async with self._limits.slot(host):
                if self.memory.may_start(row):
                    self.counts["requests"] += 1
                    try:
                        yield
                    except Failure as failure:
                        if failure.status is DownloadStatus.rate_limited or failure.retry_after is not None:
                            self._limits.refused(host, failure)
                        elif not failure.transient:
                            self._limits.answered(host)
                        raise
                    self._limits.answered(host)
                    return
            # Others filled the memory while this row stood in line.

    async def _fetch(self, url: URL, row: Row) -> bytes:
        """One try, redirects and all."""
        config = self.config

        def on_headers(headers: Any) -> None:
            check_headers(headers, config.user_agent_token, config.disallowed_header_directives, config.respect_tdm)

        def on_bytes(part: bytes, before: int) -> None:
            self.memory.take(row, len(part))
            if not before and len(part) >= picture_headers.MAGIC_BYTES:
                picture_headers.check_magic(part)

        body = await fetch(
            self._session,
            self._guard,
            url,
            max_bytes=config.max_bytes,
            max_redirects=config.max_redirects,
            deadline=config.deadline,
            turn=partial(self._turn, row),
            before_hop=self._obey_robots,
            on_headers=on_headers,
            on_bytes=on_bytes,
        )
        self.counts["bytes"] += len(body)
        return body

    async def _obey_robots(self, url: URL) -> None:
        if not self.config.respect_robots_txt:
            return
        rules = await self._robots.rules(url)
        rules.check(str(url), self.config.user_agent_token)
        if rules.crawl_delay:
            self._limits.slow_down(url.raw_host or "", rules.crawl_delay)

    async def _get_robots(self, url: URL) -> bytes:
        """robots.txt of an origin, with the same guard, limits and patience as a picture."""
        tried = 0
        start: list[bytes] = []

        def on_bytes(part: bytes, before: int) -> None:
            start.append(part)
            if before + len(part) >= MAX_ROBOTS_BYTES:
                raise _Enough

        while True:
            try:
                tried += 1
                start.clear()
                self.counts["robots"] += 1
                return await fetch(
                    self._session,
                    self._guard,
                    url,
                    max_bytes=sys.maxsize,  # on_bytes ends it
                    max_redirects=5,  # RFC 9309 section 2.3.1.2: at least five
                    deadline=self.config.deadline,
                    turn=lambda hop: self._limits.slot(hop.raw_host or ""),
                    on_bytes=on_bytes,
                )
            except _Enough:
                return b"".join(start)
            except Failure as failure:
                wait = self._retry.delay(tried, failure.retry_after, random.random)
                if not failure.transient or wait is None:
                    raise
                await asyncio.sleep(wait)

    def _log_addresses(self, host: str, addresses: list[str]) -> None:
        self.context.log({"event": "resolved", "host": host, "addresses": addresses})


def _judge(body: bytes, expected: str | None, config: DownloadConfig) -> Picture:
    """Hash what was received, check it, and make what is kept. Runs in a decoding thread."""
    kinds: set[str] = {"sha256", config.compute_hash, config.verify_hash[1] if config.verify_hash else "sha256"}
    hashes = {kind: hashlib.new(kind, body).hexdigest() for kind in sorted(kinds)}
    if config.verify_hash and hashes[config.verify_hash[1]] != (expected or "").strip().lower():
        raise Failure(DownloadStatus.hash_mismatch, f"{config.verify_hash[1]} of the body differs")
    return Picture(keep(body, config), hashes)
