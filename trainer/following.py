"""A rank ends with its launcher, however that ended. Loads no torch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

OPTION = "--follow-stdin"
"""Told to a rank whose standard input is a pipe that its launcher holds open."""

SECONDS = 1.0


def follow_launcher(arguments: Sequence[str]) -> None:
    """End this process when the launcher is gone, even if that was killed without a chance to tell us.

    Our own launcher's end of the pipe closes with it, also before this is called; of others the parent's number is
    watched, which is too late for one that was killed while this process was still loading.
    """
    parent = os.getppid()

    def watch() -> None:
        if OPTION in arguments:
            os.read(0, 1)
        else:
            while os.getppid() == parent:
                time.sleep(SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
