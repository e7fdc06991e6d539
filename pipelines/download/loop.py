"""One event loop per worker process, in its own thread, shared by all users.

Fragments run in several threads of one process. With one loop, limits per host and in total hold across them.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any


class SharedLoop:
    """`acquire` starts the loop for the first user, `release` ends it after the last one.

    A forked child starts its own: a loop's thread does not survive a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._users, self._process = 0, os.getpid()

    def acquire(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._process != os.getpid():
                self._loop, self._users, self._process = None, 0, os.getpid()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="lavabeam-loop", daemon=True)
                self._thread.start()
            self._users += 1
            return self._loop

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users or self._loop is None:
                return
            self._loop.call_soon_threadsafe(self._loop.stop)
            assert self._thread is not None
            self._thread.join()
            self._loop.close()
            self._loop = None


SHARED_LOOP = SharedLoop()


def submit(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Future:
    """Run `work` on the loop from another thread; the future has its result."""
    return asyncio.run_coroutine_threadsafe(work, loop)
