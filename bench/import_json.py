"""Importing LLaVA's JSON: rows checked, cut, and made into Arrow, beside a bare `json.loads` of the same rows.

`python -m bench.import_json [--rows 100000]`. Rows have the shape of llava_v1_5_mix665k.json: 1.4 KB and twelve turns
on average. Each side runs in a process of its own, in one thread; seconds are CPU time, memory is the peak of the
process beyond what it had with its imports. Goals: 20,000 rows/s on a machine that does nothing else, and 80 MB
whatever the number of rows.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

WORK = Path(__file__).parent / "output" / "import_json"
GOAL_US, GOAL_MB = 50.0, 80.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--side", choices=SIDES)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measured(arguments.side)))
        return
    make(arguments.rows)
    sides = {name: run(name) for name in SIDES}
    shutil.rmtree(WORK)
    for name, side in sides.items():
        print(f"{name:10} {side['cpu'] / arguments.rows * 1e6:6.1f} us CPU per row  {side['mb']:6.0f} MB peak")
    ours, bare, whole = (sides[name]["cpu"] / arguments.rows * 1e6 for name in ("lavabeam", "per row", "json.load"))
    print(f"{1e6 / ours:.0f} rows/s per core, {ours / bare:.1f} times json.loads alone, {ours / whole:.1f} json.load")
    figures = [
        figure("import of LLaVA JSON, CPU us per row", ours, bare, GOAL_US),
        figure("import of LLaVA JSON, peak MB", sides["lavabeam"]["mb"], sides["json.load"]["mb"], GOAL_MB),
    ]
    print(json.dumps(figures))


def figure(name: str, value: float, peer: float, goal: float) -> dict:
    ratio = round(value / peer, 3)
    return {"figure": name, "value": round(value, 2), "peer": round(peer, 2), "ratio": ratio, "goal": goal} | {
        "ok": value <= goal
    }


def make(rows: int) -> None:
    """The same rows as a list, and one per line."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(3000)]
    with (WORK / "rows.json").open("w") as listed, (WORK / "rows.jsonl").open("w") as lines:
        for number in range(rows):
            text = json.dumps(row(number, chance, words))
            listed.write(("[" if number == 0 else ", ") + text)
            lines.write(text + "\n")
        listed.write("]")


def row(number: int, chance: random.Random, words: list[str]) -> dict:
    """A third of the rows are LLaVA's own, with long answers; the others have many short ones."""
    talks = chance.random() < 0.3
    turns = []
    for turn in range(chance.randint(1, 5 if talks else 14)):
        asked, answered = (chance.randint(8, 90), chance.randint(20, 150)) if talks else (chance.randint(6, 12), 1)
        question = " ".join(chance.choices(words, k=asked))
        turns.append({"from": "human", "value": ("" if turn else "<image>\n") + question})
        turns.append({"from": "gpt", "value": " ".join(chance.choices(words, k=answered))})
    return {"id": f"{number:012d}", "image": f"coco/train2017/{number:012d}.jpg", "conversations": turns}


def run(side: str) -> dict:
    command = [sys.executable, "-m", "bench.import_json", "--side", side]
    done = subprocess.run(command, capture_output=True, check=True, cwd=Path(__file__).parent.parent)
    return json.loads(done.stdout)


def measured(side: str) -> dict:
    work = SIDES[side]
    work(0)
    before, started = _peak_mb(), time.process_time()
    work(1)
    return {"cpu": time.process_time() - started, "mb": _peak_mb() - before}


def imported(times: int) -> None:
    from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig

    importer = LlavaJson(LlavaJsonConfig(path=str(WORK / "rows.json")))
    for _ in range(times):
        for part in importer.slices():
            importer.rows(part)


def loaded_per_row(times: int) -> None:
    for _ in range(times):
        with (WORK / "rows.jsonl").open() as file:
            for line in file:
                json.loads(line)


def loaded_whole(times: int) -> None:
    """What the original's dataset does (llava/train/train.py: LazySupervisedDataset)."""
    for _ in range(times):
        with (WORK / "rows.json").open() as file:
            json.load(file)


SIDES = {"lavabeam": imported, "per row": loaded_per_row, "json.load": loaded_whole}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
