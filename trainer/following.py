"""A rank exits when its launcher dies, for whatever reason. Does not load torch."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

OPTION = "--follow-stdin"
"""Given to a rank whose standard input is a pipe that its launcher holds open."""

SECONDS = 1.0


def follow_launcher(arguments: Sequence[str]) -> None:
    """End this process when its launcher is gone, even if the launcher was killed without a chance to signal us.

    Our own launcher holds a pipe that closes with it, even before this is called. For other launchers the parent's
    process id is watched, which misses one that was killed while this process was still loading.
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
