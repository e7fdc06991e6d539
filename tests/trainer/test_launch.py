"""The launcher and its ranks' signals, with ranks that are small scripts."""

import os
import signal
import sys
import threading
import time

from trainer import launch

RANK = """#!{python}
import os, pathlib, signal, sys, time
folder, rank = pathlib.Path(sys.argv[-1]), os.environ["RANK"]

def stop(*_):
    (folder / f"stopped-{{rank}}").touch()
    os._exit(0)

signal.signal(signal.SIGTERM, stop)
(folder / f"ready-{{rank}}").touch()
time.sleep(60)
"""


def test_sigterm_reaches_every_rank_and_is_no_failure(tmp_path, monkeypatch):
    script = tmp_path / "rank"
    script.write_text(RANK.format(python=sys.executable))
    script.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(script))
    before = signal.getsignal(signal.SIGTERM)

    def stop_when_ready():
        while len(list(tmp_path.glob("ready-*"))) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_when_ready, daemon=True).start()
    launch.start_ranks(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.glob("stopped-*")) == ["stopped-0", "stopped-1"]
    assert signal.getsignal(signal.SIGTERM) == before
