"""Mutated pictures: what is kept trains, what is refused has a status, and nothing takes long or much memory.

`python -m bench.fuzz_pictures [--count 200000] [--seconds N] [--processes 2] [--seed 0] [--keep FOLDER]`. Ten small
files of each format, made by code, are changed as AFL changes its inputs: bits, bytes, interesting values, blocks
moved, cut and put in, two files spliced, and fields of the header. Each goes through `download`, `import` and `mix`;
what any of them keeps must pass the trainer's preparation at the size that it was kept with. `--seconds` ends earlier.
`--keep` writes the inputs of faults there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import struct
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.fuzzing.seeds import seeds

MOST_SECONDS = 2.0
MOST_MB = 1024
"""Of a whole process, 250 MB of libraries with it."""
INTERESTING = [0, 1, 2, 3, 4, 7, 8, 16, 32, 64, 100, 127, 128, 129, 255]
INTERESTING_WIDE = [0, 1, 255, 256, 1000, 4096, 32767, 32768, 65535]
INTERESTING_LONG = [0, 1, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
PNG = b"\x89PNG\r\n\x1a\n"
HEADER = 64
"""Bytes at the start in which fields are mutated more often."""
MOST_CHANGES = 4

Kept = tuple[bytes, tuple[int, int]]
"""A picture and the (width, height) that it was kept with."""


@dataclass
class Tally:
    """What became of the pictures of one format."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0
    peak_mb: int = 0

    def add(self, other: Tally) -> None:
        self.outcomes += other.outcomes
        self.faults += other.faults
        self.slowest, self.peak_mb = max(self.slowest, other.slowest), max(self.peak_mb, other.peak_mb)


def main() -> None:
    options = arguments()
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    parts = [(number, options) for number in range(options.processes)]
    with context.Pool(options.processes) as pool:
        made = pool.starmap(fuzz, parts)
    tallies = {name: Tally() for name in made[0]}
    for part in made:
        for name, tally in part.items():
            tallies[name].add(tally)
    print_table(tallies)
    figures = figures_of(tallies)
    print(f"{time.perf_counter() - started:.0f} s")
    print(json.dumps(figures))
    sys.exit(any(not one["ok"] for one in figures))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, help="mutated pictures in all: 200,000, or without end with --seconds")
    parser.add_argument("--seconds", type=float, help="end after so long")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder for the inputs of faults")
    options = parser.parse_args()
    options.count = options.count or (200_000 if options.seconds is None else sys.maxsize)
    return options


def fuzz(number: int, options: argparse.Namespace) -> dict[str, Tally]:
    """One process's share: every `processes`-th picture, each from a seed of its own."""
    warnings.simplefilter("ignore")
    from pipelines.download.pictures import single_threaded

    single_threaded()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff and OpenJPEG say there what they dislike
    originals = seeds()
    for whole in originals.values():  # imports what decoders and the trainer need
        list(doors(whole[0]))
    names = list(originals)
    tallies = {name: Tally() for name in names}
    ends = time.monotonic() + (options.seconds or float("inf"))
    for picture in range(number, options.count, options.processes):
        if time.monotonic() > ends:
            break
        name = names[picture % len(names)]
        data = mutated(random.Random(f"{options.seed}/{picture}"), originals[name])
        look_at(data, tallies[name], f"{name} {options.seed}/{picture}", options.keep)
    return tallies


def look_at(data: bytes, tally: Tally, label: str, folder: Path | None = None) -> None:
    """Take one picture through every door, and count what came of it."""
    started, known = time.process_time(), len(tally.faults)
    for door, outcome in doors(data):
        tally.outcomes[outcome] += 1
        if outcome.startswith("FAULT"):
            tally.faults.append(f"{label}, {door}: {outcome}")
    seconds = time.process_time() - started
    tally.slowest = max(tally.slowest, seconds)
    tally.peak_mb = max(tally.peak_mb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    if seconds > MOST_SECONDS:
        tally.faults.append(f"{label}: {seconds:.1f} s")
    if folder and len(tally.faults) > known:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / label.replace(" ", "-").replace("/", "-")).write_bytes(data)


def doors(data: bytes) -> Iterator[tuple[str, str]]:
    """What `download`, `import` and `mix` say of a picture: the status, or a fault."""
    from pipelines.download.config import DownloadConfig
    from pipelines.download.pictures import keep
    from pipelines.importers.stored import stored_row
    from pipelines.mix.pictures import stored
    from pipelines.mix.recipe import Pictures

    def download() -> Kept:
        kept = keep(data, DownloadConfig())
        return kept.data, (kept.width, kept.height)

    def imported() -> Kept | str:
        row = stored_row(data, None)
        return (data, (row["width"], row["height"])) if row["import_status"] == "ok" else str(row["import_status"])

    trained: dict[Kept, str] = {}
    for name, door in {"download": download, "import": imported, "mix": lambda: stored(data, Pictures())}.items():
        found = answer(door)
        if not isinstance(found, str):
            trained[found] = trained.get(found) or training(*found)
            found = trained[found]
        yield name, found


def answer(door: Callable[[], Kept | str]) -> Kept | str:
    """What a door keeps, its status, or FAULT: an exception that is none of a row."""
    from pipelines.download.statuses import Failure
    from schemas.pictures import PictureError

    try:
        return door()
    except Failure as failure:
        return str(failure.status)
    except PictureError as error:
        return str(error.defect)
    except Exception as error:
        return f"FAULT {type(error).__name__}: {error}"


def training(data: bytes, size: tuple[int, int]) -> str:
    """`kept` for a picture that the trainer takes at its size, `cannot_encode` for one that is too narrow for the image
    rule, which a mix counts, else FAULT."""
    from schemas.chat import ImageRule
    from schemas.errors import InputError
    from trainer.inputs.pictures import prepare

    rule = ImageRule(mode="pad", image_size=32, patch_size=8)
    try:
        rule.check_size(*size)
    except InputError:
        return "cannot_encode"
    try:
        picture = prepare(data, rule)
    except Exception as error:
        return f"FAULT kept, and training says {type(error).__name__}: {error}"
    return "kept" if picture.size == size else f"FAULT kept as {size}, trained as {picture.size}"


def mutated(rng: random.Random, originals: list[bytes]) -> bytes:
    """One of `originals` after one to MOST_CHANGES changes, the first file spliced with another now and then."""
    data = bytearray(rng.choice(originals))
    for _ in range(rng.randint(1, MOST_CHANGES)):
        change = rng.choice(CHANGES)
        change(rng, data, rng.choice(originals))
        if not data:
            return b""
    return with_checksums(data) if data.startswith(PNG) and rng.random() < 0.6 else bytes(data)


def with_checksums(data: bytearray) -> bytes:
    """A PNG whose chunks have the right CRC: decoders would look no further than a wrong one."""
    position = len(PNG)
    while position + 12 <= len(data):
        end = position + 8 + struct.unpack_from(">I", data, position)[0]
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(data)


def _place(rng: random.Random, data: bytearray, width: int = 1) -> int:
    end = max(1, len(data) - width + 1)
    return rng.randrange(min(end, HEADER) if rng.random() < 0.3 else end)


def _flip(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, other: bytes) -> None:
    data[_place(rng, data)] = rng.choice(INTERESTING) if rng.random() < 0.5 else rng.randrange(256)


def _add(rng: random.Random, data: bytearray, other: bytes) -> None:
    place = _place(rng, data)
    data[place] = (data[place] + rng.randint(-35, 35)) % 256


def _number(rng: random.Random, data: bytearray, other: bytes) -> None:
    kind, values = rng.choice([("H", INTERESTING_WIDE), ("I", INTERESTING_LONG)])
    value = struct.pack(rng.choice("<>") + kind, rng.choice(values))
    place = _place(rng, data, len(value))
    data[place : place + len(value)] = value


def _block(rng: random.Random, data: bytes | bytearray) -> tuple[int, int]:
    length = rng.randint(1, max(1, min(len(data), 2 ** rng.randint(0, 8))))
    start = rng.randint(0, max(0, len(data) - length))
    return start, start + length


def _delete(rng: random.Random, data: bytearray, other: bytes) -> None:
    start, end = _block(rng, data)
    del data[start:end]


def _insert(rng: random.Random, data: bytearray, other: bytes) -> None:
    start, end = _block(rng, data)
    content = bytes(data[start:end]) if rng.random() < 0.75 else bytes([rng.randrange(256)]) * (end - start)
    place = rng.randint(0, len(data))
    data[place:place] = content * rng.choice([1, 1, 1, 2, 50])


def _overwrite(rng: random.Random, data: bytearray, other: bytes) -> None:
    start, end = _block(rng, data)
    place = rng.randint(0, len(data) - (end - start))
    data[place : place + end - start] = data[start:end]


def _cut(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randint(0, len(data)) :]


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    place = rng.randint(0, min(len(data), len(other)))
    data[place:] = other[place:]


def _borrow(rng: random.Random, data: bytearray, other: bytes) -> None:
    start, end = _block(rng, other)
    place = rng.randint(0, len(data))
    data[place:place] = other[start:end]


CHANGES = [_flip, _flip, _byte, _byte, _add, _number, _number, _delete, _insert, _overwrite, _cut, _splice, _borrow]


def print_table(tallies: dict[str, Tally]) -> None:
    print(f"{'format':10} {'looked at':>10} {'kept':>8} {'refused':>8} {'faults':>7} {'slowest s':>10} {'peak MB':>8}")
    for name, tally in tallies.items():
        kept, faults = tally.outcomes["kept"], len(tally.faults)
        refused = sum(
            count for word, count in tally.outcomes.items() if word != "kept" and not word.startswith("FAULT")
        )
        count = tally.outcomes.total() // 3
        print(f"{name:10} {count:10} {kept:8} {refused:8} {faults:7} {tally.slowest:10.2f} {tally.peak_mb:8}")
    outcomes: Counter[str] = sum((tally.outcomes for tally in tallies.values()), Counter())
    print(", ".join(f"{count} {word}" for word, count in outcomes.most_common(20) if not word.startswith("FAULT")))
    for tally in tallies.values():
        for fault in tally.faults[:10]:
            print(fault[:300])


def figures_of(tallies: dict[str, Tally]) -> list[dict[str, Any]]:
    count = sum(tally.outcomes.total() for tally in tallies.values()) // 3
    faults = sum(len(tally.faults) for tally in tallies.values())
    slowest = round(float(np.max([tally.slowest for tally in tallies.values()])), 2)
    peak = max(tally.peak_mb for tally in tallies.values())
    return [
        figure(f"mutated pictures kept that do not train, or refused without a status, of {count}", faults, 0),
        figure("mutated pictures, CPU s of the slowest through three steps", slowest, MOST_SECONDS),
        figure("mutated pictures, peak MB of a process", peak, MOST_MB),
    ]


def figure(name: str, value: float, most: float) -> dict[str, Any]:
    return {"figure": name, "value": value, "goal": f"<= {most}", "ok": value <= most}


if __name__ == "__main__":
    main()
