"""kill -9 in the middle of asking, again and again: only requests in flight at a kill are sent twice."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines.llm import cache
from tests.pipelines.llm.faulty import FaultyServer

ROOT = Path(__file__).parents[3]
COUNT = 120
KILLS = 3
CONCURRENCY = 8


def test_only_requests_in_flight_at_a_kill_are_repeated(tmp_path):
    folder = tmp_path / "cache"
    moments = random.Random(7)
    with FaultyServer(latency_s=0.05) as server:
        command = [sys.executable, "-m", "tests.pipelines.llm.asker", server.base_url, str(folder)]
        command += ["--count", str(COUNT)]
        for _ in range(KILLS):
            wanted = server.arrivals.total() + moments.randint(10, 30)
            with subprocess.Popen(command, cwd=ROOT) as worker:
                while server.arrivals.total() < wanted and worker.poll() is None:
                    time.sleep(0.002)
                os.kill(worker.pid, signal.SIGKILL)
        assert subprocess.run(command, cwd=ROOT, timeout=60, check=False).returncode == 0
        repeated = server.arrivals.total() - COUNT
        assert len(server.arrivals) == COUNT
    held = cache.summary(folder)
    assert held["answers"] == COUNT
    # Claims that a kill left open are the requests in flight at it, at most as many as the window is wide.
    assert repeated <= held["budgets"]["b"]["lost_requests"] <= KILLS * CONCURRENCY
    assert list(folder.glob("starting-*")) == list(folder.glob("worker-*")) == []
