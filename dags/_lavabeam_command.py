"""Run a command in its own process group: stream its lines, and end it with the caller."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, cast

GRACE_S = 60.0
"""From SIGTERM to SIGKILL: a training run writes a checkpoint meanwhile."""
ENDS_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl(2)."""
PRCTL = ctypes.CDLL(None).prctl if sys.platform == "linux" else None  # looked up before any fork


class Command:
    """`Command(words).run(say)`; `ask_to_stop()` from a signal handler ends it early."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self.process: subprocess.Popen[str] | None = None
        self.complaint = ""
        """The last line that the command wrote on stderr: its own message where it failed."""

    def run(self, say: Callable[[str], None]) -> tuple[int, str]:
        """(exit code, what stdout held). Every line of stderr is given to `say` at once.

        Raises OSError for a program that cannot be started. Whatever interrupts the wait ends the command first.
        """
        process = subprocess.Popen(
            self.words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent if PRCTL else None,  # noqa: PLW1509 - one system call, looked up before the fork
        )
        self.process = process
        stdout, stderr = cast(IO[str], process.stdout), cast(IO[str], process.stderr)
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(stdout.read()), daemon=True)
        reader.start()
        try:
            for line in stderr:
                self.complaint = line.rstrip() or self.complaint
                say(line.rstrip())
            code = process.wait()
        finally:
            self._stop(process)
        reader.join()
        return code, "".join(printed)

    def ask_to_stop(self) -> None:
        """For a signal handler: SIGTERM now, SIGKILL after a while, and no waiting, which is what it interrupts."""
        if self.process is None:
            return
        _signal(self.process, signal.SIGTERM)
        later = threading.Timer(GRACE_S, _signal, (self.process, signal.SIGKILL))
        later.daemon = True
        later.start()

    def _stop(self, process: subprocess.Popen[str]) -> None:
        """End what is left of the process group: SIGTERM, a while to finish, SIGKILL."""
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """To the whole group, which may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _end_with_parent() -> None:
    """A caller that is killed without a chance to clean up takes its command along."""
    cast(Callable[[int, int], int], PRCTL)(ENDS_WITH_PARENT, signal.SIGTERM)
