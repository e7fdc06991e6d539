"""The page as a child process: what `lavabeam serve --ui` starts and ends."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

from lavabeam.serving.client import KEY_VARIABLE
from lavabeam.serving.page.settings import PageSettings
from schemas.errors import InputError

END_S = 60.0
"""Seconds that the last rows may take to be recorded."""

STEADY_S, GIVEN_UP = 10.0, 3
"""A page that ended so often in a row before so many seconds is not started again."""

_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from lavabeam.serving.page.child import main; "
    "sys.exit(main(sys.argv[2]))"
)


def check(settings: PageSettings) -> None:
    """Raises InputError where Gradio is not installed, or the page's port is taken. Loads nothing."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("--ui needs Gradio, which is not installed. Install it with `pip install 'lavabeam[ui]'`.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            where = f"{settings.host}:{settings.port}"
            raise InputError(
                f"the page cannot listen on {where} ({error.strerror}). Give another --ui-port."
            ) from error


class Page:
    """A page that runs at `address` until `stop`, or until this process ends.

    `key`: of the gateway, where it asks for one. Raises InputError with the reason when the page does not start.
    """

    def __init__(self, settings: PageSettings, key: str | None = None):
        check(settings)
        self._uploads = tempfile.mkdtemp(prefix="lavabeam-page-")
        # A process group of its own: a terminal's Ctrl-C is the parent's affair.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path), settings.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                **({} if key is None else {KEY_VARIABLE: key}),
                "GRADIO_ANALYTICS_ENABLED": "False",
                "GRADIO_TEMP_DIR": self._uploads,
                "HF_HUB_OFFLINE": "1",
            },
            process_group=0,
        )
        self.address = self._begin()

    def _begin(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        said = json.loads(line) if line.startswith(b"{") else {"error": "the page ended before it said why."}
        if "error" in said:
            self.stop()
            raise InputError(said["error"])
        return str(said["address"])

    def wait(self) -> str:
        """How it ended, once it has."""
        code = self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def stop(self) -> None:
        """End it, after what it has was recorded. A second call does nothing."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._uploads, ignore_errors=True)


class KeptPage:
    """A page that is started again where it was when it is lost. `say` gets its address, and what happens to it.

    Raises InputError when the page does not start.
    """

    def __init__(self, settings: PageSettings, key: str | None, say: Callable[[str], None]):
        self._key, self._say = key, say
        self._ending = False
        self._changing = threading.Lock()
        self._page = Page(settings, key)
        self._settings = settings.model_copy(update={"port": urlsplit(self._page.address).port})
        say(f"{self._page.address} is the page")

    def keep(self) -> None:
        """Until `stop` is called, or the page has ended too soon too often."""
        quick = 0
        while True:
            began = time.monotonic()
            reason = self._page.wait()
            with self._changing:
                if self._ending:
                    return
                quick = quick + 1 if time.monotonic() - began < STEADY_S else 0
                if quick == GIVEN_UP:
                    self._say(f"the page has ended {quick} times in a row ({reason}), and stays away")
                    return
                self._say(f"the page has ended ({reason}); it is started again")
                self._page.stop()
                try:
                    self._page = Page(self._settings, self._key)
                except InputError as error:
                    self._say(f"the page stays away: {error}")
                    return

    def stop(self) -> None:
        with self._changing:
            self._ending = True
            self._page.stop()
