"""Connections restricted by the guard: a filtering resolver, a refusing socket factory, one TLS context.

Names are resolved once (aiohttp caches the answer for `DNS_TTL_S`), the addresses are checked, and exactly those are
connected to: there is no second look-up that a rebinding name server could answer differently.
"""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from pipelines.download.guard import Guard
from pipelines.download.statuses import DownloadStatus, Failure
from schemas.errors import InputError

DNS_TTL_S = 300
KEEP_ALIVE_S = 0.5
"""How long an idle connection waits for the next row of its host. aiohttp bounds connections in use, not idle ones: at
its 15 seconds, a list of a thousand hosts would use up the 1,024 files that a process may usually open."""
OTHER_FILES = (256, 4096)
"""Open files besides the connections in use (idle ones, look-ups, datasets): the least, and what is asked for."""

Resolved = Callable[[str, list[str]], None]


class GuardedError(OSError):
    """The guard's refusal, as the kind of error that aiohttp passes through from a resolver or a socket factory."""

    def __init__(self, failure: Failure):
        super().__init__(str(failure))
        self.failure = failure


class GuardedResolver(AbstractResolver):
    """Looks names up with the system's resolver and returns only addresses that the guard allows."""

    def __init__(self, guard: Guard, limit: int, resolved: Resolved | None = None):
        self._guard, self._resolved = guard, resolved
        # getaddrinfo blocks, for many seconds when a name server is dead: a thread for each connection, so that no
        # look-up queues behind such a one, with its row's deadline running.
        self._threads = ThreadPoolExecutor(limit, thread_name_prefix="lavabeam-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises GuardedError when no address is allowed, OSError when there is none."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, _look_up, host, port, family)
        try:
            allowed = set(self._guard.vet(host, port, [address for _, address in found]))
        except Failure as failure:
            raise GuardedError(failure) from None
        if self._resolved:
            self._resolved(host, sorted(allowed))
        return [
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for kind, address in found
            if address in allowed
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def guarded_connector(
    guard: Guard, limit: int, context: ssl.SSLContext, resolved: Resolved | None = None
) -> aiohttp.TCPConnector:
    """A pool of at most `limit` connections in use, each to an address that `guard` allows.

    Raises InputError when the process may not open that many files.
    """
    _allow_open_files(limit)

    def make_socket(info: tuple) -> socket.socket:
        family, kind, protocol, _, target = info
        if not guard.may_connect(target[0]):
            # Nothing should get here: URLs and look-ups are checked before. This holds whatever changes above.
            refusal = Failure(DownloadStatus.private_address, "refused to connect to a private or special address")
            raise GuardedError(refusal)
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        resolver=GuardedResolver(guard, limit, resolved),
        ttl_dns_cache=DNS_TTL_S,
        keepalive_timeout=KEEP_ALIVE_S,
        limit=limit,
        ssl=context,
        socket_factory=make_socket,
    )


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """One context for every connection: loading the authorities costs 25 ms of CPU each time."""
    context = ssl.create_default_context()
    if ca_file:
        context.load_verify_locations(ca_file)
    return context


def _allow_open_files(connections: int) -> None:
    """Raise this process's own limit of open files to what is wanted, as far as the system lets it."""
    needed, wanted = (connections + others for others in OTHER_FILES)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if hard != unlimited and hard < needed:
        raise InputError(
            f"thread_count: this many concurrent downloads need {needed} open files, but this process is limited to "
            f"{hard}. Lower thread_count, or raise the limit (ulimit -n)."
        )
    if soft != unlimited and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == unlimited else min(wanted, hard), hard))


def _look_up(host: str, port: int, family: int) -> list[tuple[int, str]]:
    """(family, address) pairs without repetition, in the system's order."""
    found = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
    return list(dict.fromkeys((info[0], str(info[4][0])) for info in found))
