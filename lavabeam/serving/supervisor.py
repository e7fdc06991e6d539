"""Supervises an external server: forwards its output, ends it when stdin closes, and exits after all its processes.

Run as a file by any Python, with the command behind it. So a server does not outlive a gateway that was killed, and
processes that it started itself (vLLM's engine) do not outlive it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

POLITE_S = 60.0
"""Seconds that a server gets after SIGTERM. vLLM takes long."""
GONE_S = 10.0


def main(command: list[str]) -> int:
    """Run `command` in its own process group; returns its exit code, negative for a signal."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, process_group=0)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _ask_to_end(server.pid))

    def end_with_stdin() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock a thread that waits would hold at the end
            pass
        _ask_to_end(server.pid)
        time.sleep(POLITE_S)
        _kill(server.pid)

    threading.Thread(target=end_with_stdin, daemon=True).start()
    code = server.wait()
    _kill(server.pid)
    last = time.monotonic() + GONE_S  # what was killed stays a zombie where init reaps nothing
    while _is_there(server.pid) and time.monotonic() < last:
        time.sleep(0.05)
    return code


def _ask_to_end(group: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(group, signal.SIGTERM)  # the server alone: it ends its own processes


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


if __name__ == "__main__":
    ended = main(sys.argv[1:])
    sys.exit(128 - ended if ended < 0 else ended)
