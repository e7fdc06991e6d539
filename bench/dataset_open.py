"""Opening a training set of 665k rows and reading every row's length: our dataset beside LLaVA's JSON list.

`python bench/dataset_open.py [--rows 665000]`. Each side runs in a process of its own; memory is private memory
(what no other rank on the machine can share), seconds are CPU time. Goals: 1 s and 60 MB.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

WORK = Path(__file__).parent / "output" / "dataset_open"
FRAGMENT_ROWS = 1024
WORDS_PER_ROW = 180
"""About 1.2 KB of text per row, as in llava_v1_5_mix665k.json (1.03 GB, 665k rows)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=665_000)
    parser.add_argument("--side", choices=["arrow", "json"])
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side)))
        return
    make(arguments.rows)
    ours, theirs = run("arrow"), run("json")
    shutil.rmtree(WORK)
    for name, side in (("lavabeam", ours), ("json list", theirs)):
        print(f"{name:10} {side['rows']} rows  {side['cpu']:.2f} s CPU  {side['private_mb']:.0f} MB private")
    figures = [
        figure("open 665k rows with lengths, CPU s", ours["cpu"], theirs["cpu"], 1.0),
        figure("open 665k rows with lengths, private MB", ours["private_mb"], theirs["private_mb"], 60.0),
    ]
    print(json.dumps(figures))


def figure(name: str, value: float, peer: float, goal: float) -> dict:
    return {
        "figure": name,
        "value": round(value, 3),
        "peer": round(peer, 3),
        "ratio": round(value / peer, 5),
        "goal": goal,
        "ok": value <= goal,
    }


def make(rows: int) -> None:
    """The same rows as a samples dataset and as one JSON list. Image bytes are left out on both sides."""
    from schemas.records import SAMPLES
    from schemas.writing import write_dataset

    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(97, 123, 5))) for _ in range(5000)]
    with (WORK / "rows.json").open("w") as file:
        file.write("[")

        def fragments():
            for start in range(0, rows, FRAGMENT_ROWS):
                part = [row(number, words, random) for number in range(start, min(start + FRAGMENT_ROWS, rows))]
                file.write(("," if start else "") + json.dumps([as_json(one) for one in part])[1:-1])
                yield pa.Table.from_pylist(part, SAMPLES)

        write_dataset(WORK / "samples", "samples", fragments(), batch_rows=256)
        file.write("]")


def row(number: int, words: list[str], random: np.random.Generator) -> dict:
    start = int(random.integers(len(words) - WORDS_PER_ROW))
    text = " ".join(words[start : start + WORDS_PER_ROW])
    parts = [{"type": "image", "text": None}, {"type": "text", "text": text[:600]}]
    return {
        "key": f"{number:09d}",
        "images": [{"bytes": b"", "path": None}],
        "widths": [336],
        "heights": [336],
        "messages": [
            {"role": "user", "content": parts},
            {"role": "assistant", "content": [{"type": "text", "text": text[600:]}]},
        ],
        "kind": "conversation",
        "source": "bench",
        "image_count": 1,
        "image_tokens": 576,
        "tokens": 576 + len(text) // 4,
        "supervised_tokens": 50,
    }


def as_json(sample: dict) -> dict:
    user, assistant = sample["messages"]
    turns = [
        {"from": "human", "value": f"<image>\n{user['content'][1]['text']}"},
        {"from": "gpt", "value": assistant["content"][0]["text"]},
    ]
    return {"id": sample["key"], "image": f"coco/train2017/{sample['key']}.jpg", "conversations": turns}


def run(side: str) -> dict:
    command = [sys.executable, __file__, "--side", side]
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": ""}
    return json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)


def measure(side: str) -> dict:
    """CPU seconds and private memory that opening and reading all lengths adds to this process."""
    from schemas.dataset import Dataset

    before, started = private_mb(), time.process_time()
    if side == "arrow":
        dataset = Dataset.open(WORK / "samples")
        lengths, images = dataset.numeric(["tokens", "image_count"])
        assert len(images) == len(lengths)
    else:
        # What llava/train/train.py's LazySupervisedDataset does: the whole list, then the words of every turn.
        listed = json.loads((WORK / "rows.json").read_text())
        lengths = [sum(len(turn["value"].split()) for turn in one["conversations"]) for one in listed]
    return {
        "rows": len(lengths),
        "cpu": time.process_time() - started,
        "private_mb": private_mb() - before,
    }


def private_mb() -> float:
    """Private dirty memory. Mapped file pages are clean: the kernel drops them at will and shares them among ranks."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_Dirty")) / 1024


if __name__ == "__main__":
    main()
