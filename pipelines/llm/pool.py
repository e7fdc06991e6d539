"""One event loop per worker process, and one client per endpoint on it, shared by all fragments and threads."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import sys
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.llm.ledger import budget_of
from pipelines.llm.settings import EndpointConfig

if TYPE_CHECKING:
    from pipelines.llm.client import LlmClient

# At the end of a process nobody waits long for a server to say goodbye.
_CLOSING_S = 2.0
# Items started and not yet handed on, per request in flight: enough that a slow one does not leave the others idle.
_AHEAD_PER_REQUEST = 4
# The Batch API answers all requests of a batch together.
_AHEAD_IN_BATCH_MODE = 10_000

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lease:
    """A share in a client: it is opened for the first holder and closed after the last.

    The caps count what `dataset` (the path of the dataset that is made, or written beside) has cost in all its runs.
    """

    def __init__(self, settings: EndpointConfig, dataset: str, workers: int):
        budget = budget_of(dataset)
        self._ahead = _AHEAD_IN_BATCH_MODE if settings.mode == "batch" else settings.concurrency * _AHEAD_PER_REQUEST
        self._name = (settings.model_dump_json(), budget, workers)
        self.client = _POOL.take(self._name, lambda: _open(settings, budget, workers))

    def in_order(self, items: Iterable[Item], work: Callable[[Item], Coroutine[Any, Any, Result]]) -> Iterator[Result]:
        """`work` of each item, in the items' order; many are started before the first is handed on."""
        started: deque[Future[Result]] = deque()
        try:
            for item in items:
                started.append(asyncio.run_coroutine_threadsafe(work(item), _POOL.loop))
                if len(started) >= self._ahead:
                    yield started.popleft().result()
            while started:
                yield started.popleft().result()
        finally:
            for future in started:
                future.cancel()

    def close(self) -> None:
        if _POOL.is_own_thread():  # a generator's end, collected there by chance: to wait there would be for ever
            threading.Thread(target=_POOL.give_back, args=(self._name,), daemon=True).start()
        else:
            _POOL.give_back(self._name)


class _Pool:
    """The process's event loop, in its own thread, and its clients with their numbers of holders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._clients: dict[tuple, tuple[LlmClient, int]] = {}
        self._said: set[str] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            return self._running_loop()

    def is_own_thread(self) -> bool:
        """Whether this is the loop's thread, which must not wait for the loop."""
        return self._thread is threading.current_thread()

    def take(self, name: tuple, make: Callable[[], LlmClient]) -> LlmClient:
        with self._lock:
            if name not in self._clients:
                self._clients[name] = (self._call(_made(make)), 0)
                self._say(self._clients[name][0].route)
            client, holders = self._clients[name]
            self._clients[name] = (client, holders + 1)
            return client

    def give_back(self, name: tuple) -> None:
        with self._lock:
            client, holders = self._clients.pop(name)
            if holders > 1:
                self._clients[name] = (client, holders - 1)
            else:
                self._call(client.close())

    def close_all(self) -> None:
        """Close what is still held at the end of the process: a cluster's worker gets no other sign."""
        with self._lock:
            clients, self._clients = self._clients, {}
            for client, _ in clients.values():
                with contextlib.suppress(TimeoutError):
                    self._call(client.close(), timeout=_CLOSING_S)

    def _say(self, route: str) -> None:
        """Once in a process: a proxy reads along with what is sent."""
        if route and route not in self._said:
            self._said.add(route)
            print(route, file=sys.stderr, flush=True)

    def _call(self, coroutine: Coroutine[Any, Any, Result], timeout: float | None = None) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop()).result(timeout)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
            self._thread.start()
        return self._loop


def _open(settings: EndpointConfig, budget: str, workers: int) -> LlmClient:
    # Here, because importing openai takes a second.
    from pipelines.llm.batch import BatchClient
    from pipelines.llm.client import LlmClient

    kind = BatchClient if settings.mode == "batch" else LlmClient
    return kind(settings, budget, workers)


async def _made(make: Callable[[], LlmClient]) -> LlmClient:
    return make()


_POOL = _Pool()
atexit.register(_POOL.close_all)
