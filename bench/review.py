"""A review of 90 questions, killed and resumed: what was asked of the judge, and what of it twice.

    python -m bench.review [--questions Q --answers A --reference R --context C]

The judge is the scripted teacher (lavabeam/demo/teacher.py). Without files the questions are made up. The goal is that
nothing is asked again whose answer had arrived: what was in flight at a kill is sent a second time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lavabeam.demo.teacher import Teacher
from pipelines.llm import cache

KILLS, CONCURRENCY, LATENCY_S = 3, 8, 0.05
_FILES = ("questions", "answers", "reference", "context")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in _FILES:
        parser.add_argument(f"--{name}", type=Path)
    given = vars(parser.parse_args())
    with tempfile.TemporaryDirectory() as folder:
        files = given if given["questions"] else _made(Path(folder))
        figures = measure(files, Path(folder))
    print(f"{figures['asked']} judgements, {figures['kills']} kills, {figures['sent']} requests at the judge:")
    print(f"{figures['twice']} sent twice, {figures['paid_twice']} of them after their answer had arrived")
    ok = figures["paid_twice"] == 0 and figures["ok"] == figures["asked"]
    print(json.dumps({"figure": "a killed review asks nothing twice", **figures, "ok": ok}))


def measure(files: dict[str, Any], folder: Path) -> dict[str, int]:
    """Start the review, kill it `KILLS` times, let it end; counts of what the judge saw."""
    command = [sys.executable, "-m", "lavabeam", "review", *(str(files[name]) for name in _FILES[:3])]
    command += ["--context", str(files["context"]), "--output", str(folder / "out"), "--cache", str(folder / "cache")]
    command += ["--model", "scripted-teacher", "--provider", "scripted", "--concurrency", str(CONCURRENCY), "--json"]
    asked = sum(1 for line in Path(files["questions"]).read_text(encoding="utf-8").splitlines() if line.strip())
    paid_twice = 0
    with Teacher(latency_s=LATENCY_S) as teacher:
        command += ["--base-url", teacher.base_url]
        for kill in range(1, KILLS + 1):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while len(teacher.requests) < asked * kill // (KILLS + 1) and process.poll() is None:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        kept, before = cache.summary(folder / "cache")["answers"], len(teacher.requests)
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        counted = [one["id"] for one in teacher.requests]
        left = set(counted[before:])
        paid_twice = len(left) - (asked - kept) if kept else 0
        again = len(teacher.requests)
        subprocess.run(command, check=True, capture_output=True)
        paid_twice += len(teacher.requests) - again
    statuses = json.loads(done.stdout)["statuses"]
    twice = len(counted) - len(set(counted))
    return {
        "asked": asked,
        "ok": statuses.get("ok", 0),
        "kills": KILLS,
        "sent": len(counted),
        "twice": twice,
        "paid_twice": max(0, paid_twice),
    }


def _made(folder: Path) -> dict[str, Path]:
    """90 questions about 30 pictures with captions and boxes, and two answers each."""
    pictures = [f"{number}.jpg" for number in range(30)]
    box = {"category": "boat", "bbox": [0.1, 0.2, 0.3, 0.4]}
    rows: dict[str, list[dict[str, Any]]] = {
        "questions": [
            {"question_id": number, "image": pictures[number // 3], "text": f"What about {number}?", "category": kind}
            for number, kind in enumerate(("conv", "detail", "complex") * 30)
        ],
        "answers": [{"question_id": number, "text": f"A boat, {number}."} for number in range(90)],
        "reference": [{"question_id": number, "text": f"A red boat, the {number}th."} for number in range(90)],
        "context": [{"image": one, "captions": [f"A boat in {one}."], "instances": [box]} for one in pictures],
    }
    for name, some in rows.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in some), encoding="utf-8")
    return {name: folder / name for name in rows}


if __name__ == "__main__":
    main()
