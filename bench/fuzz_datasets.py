"""Damaged datasets: what `verify`, reading with `checked` and plain reading do with bit flips, cuts and swaps.

`python -m bench.fuzz_datasets [--count 2000] [--seconds S] [--seed 0]`. A small dataset is damaged in one place at a
time: in a column file, in a chunk of the list of files, or in the head. Each damage is then verified, read with
`checked`, and read without, in child processes of 50 damages each, so that a signal is seen and costs one of them.
Goals: no signal, no error that is not ours, and no damage of a column file or chunk that `verify` or `checked` does
not name.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

BATCH = 50
DEADLINE_S = 120
"""Of one child: a read that never ends is an outcome too (`signal SIGALRM`)."""
DAMAGES = ("bit", "bit", "bit near the start", "byte", "ones", "zeros", "zero tail", "swap", "cut", "longer", "emptied")
"""The kinds of damage, drawn with equal chances; `removed` and `of another` are rarer."""
BAD = ("signal", "raw", "not named")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="damages")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long, whatever --count says")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started = time.monotonic()
    outcomes: Counter[tuple[str, str, str]] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder) / "photos", arguments.seed)
        number = 0
        while number < arguments.count and time.monotonic() - started < arguments.seconds:
            last = min(number + BATCH, arguments.count)
            outcomes.update(place.run(number, last))
            number = last
    for (where, action, outcome), count in sorted(outcomes.items()):
        print(f"{where:12} {action:8} {outcome:60} {count}")
    print(f"{number} damages in {time.monotonic() - started:.0f} s")
    print(json.dumps([figure(outcomes, bad, number) for bad in BAD]))


def figure(outcomes: Counter[tuple[str, str, str]], bad: str, damages: int) -> dict:
    value = sum(count for (_, _, outcome), count in outcomes.items() if outcome.startswith(bad))
    name = f"{damages} damages of a dataset, verified and read: {bad}"
    return {"figure": name, "value": value, "peer": None, "ratio": None, "goal": 0, "ok": value == 0}


class Place:
    """A dataset in a folder of its own, and what its files were before they were damaged."""

    def __init__(self, path: Path, seed: int):
        self.path, self.seed = path, seed
        make(path)
        self.files = {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}

    def run(self, first: int, last: int) -> Iterator[tuple[str, str, str]]:
        """(what was damaged, action, outcome) of the damages first..last-1. A child that dies is replaced."""
        waiting = [(number, action) for number in range(first, last) for action in ACTIONS]
        while waiting:
            lines, status = in_child(lambda write, todo=tuple(waiting): self._work(todo, write))
            done = [line.split("\t") for line in lines]
            yield from ((where, action, outcome) for where, action, outcome in done)
            waiting = waiting[len(done) :]
            if os.WIFSIGNALED(status) and waiting:
                (number, action), *waiting = waiting
                yield self._target(number)[0], action, f"signal {signal.Signals(os.WTERMSIG(status)).name}"
            self._restore()

    def _work(self, todo: tuple[tuple[int, str], ...], write: Callable[[str], None]) -> None:
        for number, action in todo:
            where, file, content = self._target(number)
            file.unlink() if content is None else self._put(file, content)
            write(f"{where}\t{action}\t{outcome(action, self.path, where, file)}\n")
            self._put(file, self.files[file])

    def _target(self, number: int) -> tuple[str, Path, bytes | None]:
        """(kind of file, file, its damaged content; None: it is gone) of damage `number`, whoever asks."""
        chance = random.Random(f"{self.seed}/{number}")
        kinds = {"column file": "*.arrow", "chunk": "*.arrows", "head": "manifest-*.json"}
        where = chance.choices(list(kinds), (7, 2, 1))[0]
        file = chance.choice([file for file in self.files if file.match(kinds[where])])
        if chance.random() < 0.02:
            return where, file, None
        if chance.random() < 0.03:
            return where, file, chance.choice([self.files[one] for one in self.files if one != file])
        while (content := damaged(self.files[file], chance)) == self.files[file]:
            pass
        return where, file, content

    def _put(self, file: Path, content: bytes) -> None:
        # By a new file: what an earlier read mapped keeps its bytes.
        fresh = file.with_name("fresh")
        fresh.write_bytes(content)
        fresh.replace(file)

    def _restore(self) -> None:
        for file, content in self.files.items():
            if not file.is_file() or file.read_bytes() != content:
                self._put(file, content)


def damaged(content: bytes, chance: random.Random) -> bytes:
    made, kind = bytearray(content), chance.choice(DAMAGES)
    # Half of the damage goes where Arrow describes what follows.
    near = min(len(made), 4096 if chance.random() < 0.5 else len(made))
    at = chance.randrange(min(near, 1500) if kind == "bit near the start" else near)
    if kind.startswith("bit"):
        made[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        made[at] = chance.randrange(256)
    elif kind in ("ones", "zeros"):
        size = chance.choice((4, 8, 512, 4096))
        made[at : at + size] = (b"\xff" if kind == "ones" else b"\0") * len(made[at : at + size])
    elif kind == "zero tail":
        made[at:] = bytes(len(made) - at)
    elif kind == "swap":
        one, other = (chance.randrange(max(len(made) // 64, 1)) * 64 for _ in range(2))
        made[one : one + 64], made[other : other + 64] = made[other : other + 64], made[one : one + 64]
    elif kind == "cut":
        del made[at:]
    elif kind == "longer":
        made += chance.randbytes(chance.randrange(1, 100))
    else:
        made.clear()
    return bytes(made)


def outcome(action: str, path: Path, where: str, file: Path) -> str:
    """What an action came to: `named`, `read`, or one of BAD."""
    from schemas.errors import LavaBeamError

    try:
        problems = ACTIONS[action](path)
    except LavaBeamError as error:
        problems = [str(error)]
    except BaseException as error:
        return f"raw {type(error).__name__}: {str(error)[:40]!a}"
    if any(str(file) in problem for problem in problems):
        return "named"
    # A head has no sum of its own: a letter of its message may change. Nor do all of its changes concern its own file.
    if where == "head" or action == "read":
        return "another file named" if problems else "read"
    return "not named" if not problems else f"not named, but: {ascii(problems[0])[-40:]}"


def verify(path: Path) -> list[str]:
    from schemas.dataset import Dataset

    return Dataset.open(path).verify()


def read_all(path: Path, checked: bool) -> list[str]:
    from schemas.dataset import Dataset

    dataset = Dataset.open(path, checked=checked)
    for fragment in dataset.fragments:
        fragment.read().to_pylist()
    return []


ACTIONS: dict[str, Callable[[Path], list[str]]] = {
    "verify": verify,
    "checked": lambda path: read_all(path, True),
    "read": lambda path: read_all(path, False),
}


def in_child(work: Callable[[Callable[[str], None]], None]) -> tuple[list[str], int]:
    """The lines that `work` wrote in a forked process, and how that ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(DEADLINE_S)
        try:
            work(lambda line: os.write(writer, line.encode()) and None)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as lines:
        written = lines.read().splitlines()
    return written, os.waitpid(child, 0)[1]


def make(path: Path) -> None:
    """Two fragments of 60 rows: nested values in the base file, and a step's file with random bytes and statuses."""
    from schemas.columnfile import column_path, write_column_file
    from schemas.commit import Change, commit
    from schemas.records import BASE
    from schemas.writing import write_dataset

    shutil.rmtree(path, ignore_errors=True)
    chance = random.Random(1)
    boxes = [{"label": "cat", "x0": 0.1, "y0": 0.1, "x1": 0.5, "y1": 0.9}]
    rows = [
        {"key": f"{row:04d}", "url": f"http://h/{row}", "alt_text": "é" * (row % 7), "captions": ["a", "b"] * (row % 3)}
        | {"boxes": boxes * (row % 2), "facts": [{"name": "n", "value": str(row)}], "source": None, "license": "x"}
        for row in range(120)
    ]
    table = pa.Table.from_pylist(rows, BASE["images"])
    dataset = write_dataset(path, "images", [table.slice(0, 60), table.slice(60)])
    schema = pa.schema(
        [("image", pa.binary()), ("seen", pa.bool_()), ("score", pa.float64()), ("look_status", pa.string())]
    )
    files = {}
    for fragment in dataset.fragments:
        values = [
            {"image": chance.randbytes(200), "seen": row % 2 == 0, "score": row / 7, "look_status": "ok"}
            for row in range(fragment.rows)
        ]
        batches = pa.Table.from_pylist(values, schema).to_batches(max_chunksize=25)
        where = column_path(fragment.id, "look", fragment.id)
        entry = write_column_file(
            dataset.store, where, batches, schema, "images", fingerprint="a" * 64, status_column="look_status"
        )
        files[fragment.id] = {"look": entry}
    commit(dataset.store, Change(1, "images/1.0", files=files, message="look"))


if __name__ == "__main__":
    main()
