"""`kill -9` at random moments of the demo's data run, restarted each time, beside an undisturbed run.

`python -m bench.demo_kills [--kills 10]`. The figure is the number of column files that differ between the two; no
temporary file may be left, and only LLM requests that were in flight at a kill may have been sent again.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from schemas import Dataset

WORK = Path(__file__).parent / "output" / "demo_kills"
NAMES = ("photos", "talks", "questions", "pretrain", "finetune")
RUN = (
    "import sys; from pathlib import Path\n"
    "from lavabeam.demo.run import run_data; from pipelines.engine.runners import Runner\n"
    "run_data(Path(sys.argv[1]), Runner('local', 2), lambda text: None)"
)
IN_FLIGHT = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    kills = parser.parse_args().kills
    shutil.rmtree(WORK, ignore_errors=True)
    began = time.monotonic()
    start(WORK / "calm").wait()
    seconds = time.monotonic() - began
    print(f"calm run: {seconds:.1f} s, {len(column_files(WORK / 'calm'))} column files", flush=True)
    (WORK / "killed").mkdir()
    # The port is part of every URL: the killed run has to meet the same website.
    shutil.copy(WORK / "calm" / "port", WORK / "killed" / "port")
    chosen = random.Random(0)
    for number in range(kills):
        process = start(WORK / "killed")
        # Short lives: together about three calm runs, so that they end in every step and not only after the last.
        time.sleep(chosen.uniform(0.15, 0.5) * seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        print(f"kill {number + 1}: {len(column_files(WORK / 'killed'))} column files committed", flush=True)
    if start(WORK / "killed").wait() != 0:
        raise SystemExit("the last run failed")
    calm, killed = column_files(WORK / "calm"), column_files(WORK / "killed")
    different = sorted(set(calm.items()) ^ set(killed.items()))
    left = [str(path) for path in (WORK / "killed").rglob("*.tmp-*")]
    sent = Counter(json.loads(line)["id"] for line in (WORK / "killed" / "teacher.jsonl").read_text().splitlines())
    again = sum(count - 1 for count in sent.values())
    print(f"{len(calm)} column files, {len(different)} differ: {different[:4]}; temporary files left: {left}")
    print(f"{len(sent)} requests, {again} sent again (at most {kills * IN_FLIGHT} were in flight)")
    ok = not different and not left and again <= kills * IN_FLIGHT
    figure = {"figure": f"column files that differ after {kills} kills", "value": len(different), "peer": len(calm)}
    print(json.dumps({**figure, "ratio": 0.0 if ok else 1.0, "goal": 0, "ok": ok}))
    shutil.rmtree(WORK)


def start(work: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", RUN, str(work)], cwd=Path(__file__).parent.parent)


def column_files(work: Path) -> dict[str, str]:
    """Path -> sha256 of every column file that a manifest names."""
    found = {}
    for name in NAMES:
        if Dataset.exists(work / name):
            for fragment in Dataset.open(work / name).fragments:
                found |= {f"{name}/{file.path}": file.sha256 for file in fragment.entry.files.values()}
    return found


if __name__ == "__main__":
    main()
