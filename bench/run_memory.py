"""Memory of the data road: 100k images of 60 KB through two steps and a mix, beside images as Beam elements.

`python -m bench.run_memory [--images 100000] [--peer-images 4000]`. Peak RSS of the process that does the work. Ours is
measured at a tenth of the rows too, to show that it is flat. The peer is the usual Beam pipeline whose elements are
the images, at fewer images (its memory grows with them; 100k do not fit in 24 GB).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa

from pipelines.engine.runners import Runner
from pipelines.engine.step import Config, Step
from pipelines.engine.work import run_step
from pipelines.mix import MixRecipe, MixSource, run_mix
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

WORK = Path(__file__).parent / "output" / "run_memory"
IMAGE_BYTES = 60_000
FRAGMENT_ROWS = 512


class Status(StrEnum):
    ok = "ok"


class Store(Step[Config]):
    """Writes 60 KB per row, as `download` does."""

    name, version, Config, statuses = "store", 1, Config, Status
    reads = ("key",)
    adds = STORED_IMAGE

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        random = np.random.default_rng(0)
        rows = []
        for _ in range(batch.num_rows):
            image = {"bytes": random.bytes(IMAGE_BYTES), "path": None}
            rows.append({"image": image, "width": 64, "height": 64, "status": "ok"})
        return self.rows_to_batch(rows)


class Look(Step[Config]):
    """Reads every image, as `caption` does."""

    name, version, Config, statuses = "look", 1, Config, Status
    reads = ("image",)
    adds = (pa.field("caption", pa.string()),)

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        sums = [sum(image["bytes"].as_py()[:1000]) for image in batch.column("image")]
        return self.rows_to_batch([{"caption": f"bytes adding up to {one}", "status": "ok"} for one in sums])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--peer-images", type=int, default=4_000)
    parser.add_argument("--side", choices=["ours", "peer"])
    arguments = parser.parse_args()
    if arguments.side:
        {"ours": ours, "peer": peer}[arguments.side](arguments.images)
        print(json.dumps(peak_mb()))
        return
    whole = measured("ours", arguments.images)
    tenth = measured("ours", arguments.images // 10)
    theirs = measured("peer", arguments.peer_images)
    print(f"ours  {arguments.images} images: {whole:.0f} MB peak; {arguments.images // 10} images: {tenth:.0f} MB")
    print(f"images as elements  {arguments.peer_images} images: {theirs:.0f} MB peak")
    one = {"figure": f"{arguments.images} images of 60 KB end to end, peak RSS MB", "value": whole, "peer": theirs}
    print(json.dumps({**one, "ratio": round(whole / theirs, 3), "goal": 1500, "ok": whole <= 1500}))


def measured(side: str, images: int) -> float:
    shutil.rmtree(WORK, ignore_errors=True)
    command = [sys.executable, "-m", "bench.run_memory", "--side", side, "--images", str(images)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parent.parent)
    shutil.rmtree(WORK, ignore_errors=True)
    return float(done.stdout.splitlines()[-1])


def ours(images: int) -> None:
    def tables():
        for start in range(0, images, FRAGMENT_ROWS):
            keys = [{"key": f"p{number}"} for number in range(start, min(start + FRAGMENT_ROWS, images))]
            yield pa.Table.from_pylist(keys, BASE["images"])

    runner = Runner("local", 2)
    write_dataset(WORK / "photos", "images", tables())
    run_step(Store(Config()), WORK / "photos", runner)
    run_step(Look(Config()), WORK / "photos", runner)
    source = MixSource(captions="caption", images=str(WORK / "photos"))
    rule = {"mode": "square", "image_size": 8, "patch_size": 4}
    recipe = MixRecipe(sources={"all": source}, tokenizer=str(tokenizer()), template="plain", image=rule)
    run_mix(recipe, WORK / "mix", runner)


def tokenizer() -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: place for place, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    made = Tokenizer(models.BPE(vocab=letters, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens(["<image>", "</s>"])
    made.save(str(WORK / "tokenizer.json"))
    return WORK / "tokenizer.json"


def peer(images: int) -> None:
    """The same three steps with one image per element and a GroupByKey, as a first Beam pipeline does it."""
    WORK.mkdir(parents=True)
    random = np.random.default_rng(0)
    with Runner("local", 2).pipeline() as pipeline:
        (
            pipeline
            | beam.Create(range(images))
            | beam.Reshuffle()
            | beam.Map(lambda number: (number % 97, (number, random.bytes(IMAGE_BYTES))))
            | beam.GroupByKey()
            | beam.FlatMap(lambda pair: pair[1])
            | beam.Map(lambda pair: (pair[0] % 8, (pair[0], f"{sum(pair[1][:1000])}", pair[1])))
            | "files" >> beam.GroupByKey()
            | beam.Map(write_part)
        )


def write_part(pair) -> str:
    path = WORK / f"part-{pair[0]}.bin"
    with path.open("wb") as file:
        for _, _, content in pair[1]:
            file.write(content)
    return str(path)


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()
