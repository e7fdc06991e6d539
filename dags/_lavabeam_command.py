"""One command in a process group of its own: its lines are passed on as they come; it does not outlive its caller."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

GRACE_S = 60.0
"""From SIGTERM to SIGKILL: a training run writes a checkpoint meanwhile."""
ENDS_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux's prctl(2)."""
LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded before any fork


class Command:
    """`Command(words).run(say)`; `stop()` from a signal handler ends it early."""

    def __init__(self, words: Sequence[str]):
        self.words = list(words)
        self.process: subprocess.Popen[str] | None = None
        self.complaint = ""
        """The last line that the command wrote on stderr: its own message where it failed."""

    def run(self, say: Callable[[str], None]) -> tuple[int, str]:
        """(exit code, what stdout held). Every line of stderr is given to `say` at once.

        Raises OSError for a program that cannot be started. Whatever interrupts the wait ends the command first.
        """
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        self.process = subprocess.Popen(
            self.words,
            **pipes,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            preexec_fn=_end_with_parent if LIBRARY else None,  # noqa: PLW1509 - one system call, loaded before the fork
        )
        printed: list[str] = []
        reader = threading.Thread(target=lambda: printed.append(self.process.stdout.read()), daemon=True)
        reader.start()
        try:
            for line in self.process.stderr:
                self.complaint = line.rstrip() or self.complaint
                say(line.rstrip())
            code = self.process.wait()
        finally:
            self.stop()
        reader.join()
        return code, "".join(printed)

    def stop(self) -> None:
        """End the process group: SIGTERM, a while to finish, SIGKILL. Returns when the command is gone."""
        if self.process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_S)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def _end_with_parent() -> None:
    """A caller that is killed without a chance to clean up takes its command along."""
    LIBRARY.prctl(ENDS_WITH_PARENT, signal.SIGTERM)
