"""Check whether a checkpoint's training data contains the questions or images that it is evaluated on.

In: a checkpoint in a run folder, whose inputs.json names its mix, and questions. Out: one line. The comparison is that
of `lavabeam decontaminate`, with an index that is made of the questions and thrown away.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from schemas.dataset import Dataset
from schemas.errors import InputError, LavaBeamError
from schemas.records import BASE, IMAGE
from schemas.writing import write_dataset

COMPARED = 20_000
"""Rows of a mix that are looked at, of a larger one in even portions: a row costs about a millisecond."""
ASKED = 5_000
"""Questions that are looked at, of a larger set every so many: a picture takes 15 hashes, some milliseconds."""
_PORTION = 256
_INPUTS, _RECIPE = "inputs.json", "recipe.yaml"
Asked = tuple[str, str, tuple["bytes | Path", ...]]
"""(id, text, pictures) of a question."""


_PICTURES = frozenset({"bytes", "picture"})


@dataclass(frozen=True)
class Leak:
    """What `looked_at` rows of one mix have in common with the questions: `pictures` and `texts` are how many rows
    show one of their pictures, or have a text of theirs, and of how many questions at least."""

    mix: str
    questions: int
    rows: int = 0
    looked_at: int = 0
    pictures: tuple[int, int] = (0, 0)
    texts: tuple[int, int] = (0, 0)
    unchecked: str = ""
    """Why nothing was compared."""

    def line(self) -> str:
        """For people; empty where nothing was found."""
        if self.unchecked:
            return f"the checkpoint was trained on {self.mix}, which was not compared with this set: {self.unchecked}"
        parts = [(self.pictures, "show the pictures"), (self.texts, "have, word for word, the text")]
        found = [
            f"{rows} {words} of at least {count} of {self.questions} questions looked at"
            for (rows, count), words in parts
            if rows
        ]
        if not found:
            return ""
        seen = f"{self.rows}" if self.looked_at == self.rows else f"{self.looked_at} of {self.rows} looked at"
        known = "so it may know the answers" if self.pictures[0] else "but not with their pictures"
        return (
            f"the checkpoint was trained on {self.mix} (rows: {seen}): {' and '.join(found)}, {known}. To leave them "
            "out: `lavabeam decontaminate-index` of this set, `lavabeam decontaminate` on the mix's sources, then mix "
            "and train again."
        )


def leaks(checkpoint: str | Path, asked: Iterable[Asked]) -> list[Leak]:
    """One entry per mix of the runs that led to `checkpoint`, newest first; none where no run folder is known.

    Never raises for a mix that cannot be read: that is `unchecked`.
    """
    mixes = dict.fromkeys(mixes_of(Path(checkpoint)))
    if not mixes:
        return []
    with tempfile.TemporaryDirectory(prefix="lavabeam-leaks-") as folder:
        questions, index, problem = _index(asked, Path(folder))
        if index is None:
            return [Leak(path, questions, unchecked=problem) for path in mixes]
        return [_compared(path, questions, index) for path in mixes]


def mixes_of(checkpoint: Path) -> Iterator[str]:
    """The mixes of the run that wrote a checkpoint, and of those that its starting model came from."""
    seen: set[Path] = set()
    while (run := _run_of(checkpoint)) is not None and run not in seen:
        seen.add(run)
        try:
            inputs = json.loads((run / _INPUTS).read_text(encoding="utf-8"))
            yield _nearby(str(inputs["mix"]["path"]), run, Dataset.exists)
            recipe = yaml.safe_load((run / _RECIPE).read_text(encoding="utf-8"))
            start = (recipe.get("model") or {}).get("checkpoint")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
            return
        if not start:
            return
        checkpoint = Path(_nearby(str(start), run, lambda one: Path(one).exists()))


def _run_of(checkpoint: Path) -> Path | None:
    """The run folder of a checkpoint, which may be that folder itself."""
    return next((one for one in (checkpoint, *checkpoint.absolute().parents[:2]) if (one / _INPUTS).is_file()), None)


def _nearby(path: str, run: Path, there: Callable[[str], bool]) -> str:
    """A path as it was given, or from a folder above the run: it was relative to where that was started."""
    if "://" in path or there(path):
        return path
    found = (str(parent / path) for parent in run.absolute().parents)
    return next((one for one in found if there(one)), path)


def _index(asked: Iterable[Asked], folder: Path) -> tuple[int, Path | None, str]:
    """(how many questions, the index file of their pictures and texts, why there is none)"""
    from pipelines.decontaminate import Settings, build_index

    count = 0
    seen: set[Any] = set()

    def tables() -> Iterator[pa.Table]:
        nonlocal count
        waiting = iter(asked)
        while portion := list(islice(waiting, _PORTION)):
            rows = [_row(number, *one, seen) for number, one in enumerate(portion, count)]
            count += len(rows)
            yield pa.Table.from_pylist(rows, pa.schema([*BASE["conversations"], ("images", pa.list_(IMAGE))]))

    try:
        write_dataset(folder / "questions", "conversations", tables())
        index, _ = build_index([("questions", str(folder / "questions"))], Settings())  # type: ignore[call-arg]
    except InputError as error:
        return count, None, str(error).rpartition(": ")[2]
    index.write(folder / "index.npz")
    return count, folder / "index.npz", ""


def _row(number: int, name: str, text: str, pictures: tuple[bytes | Path, ...], seen: set[Any]) -> dict[str, Any]:
    """A question with those of its pictures that no question before it has shown."""
    marks = [hashlib.sha256(one).digest() if isinstance(one, bytes) else one for one in pictures]
    fresh = [one for one, mark in zip(pictures, marks, strict=True) if mark not in seen]
    seen.update(marks)
    read = [one if isinstance(one, bytes) else one.read_bytes() for one in fresh]
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    images = [{"bytes": data, "path": None} for data in read]
    return {"key": f"{number}/{name}", "messages": [message], "status": "ok", "images": images}


def _compared(path: str, questions: int, index: Path) -> Leak:
    from pipelines.decontaminate import Decontaminate, DecontaminateConfig

    try:
        mix = Dataset.open(path)
        step = Decontaminate(DecontaminateConfig(index=str(index)))  # type: ignore[call-arg]
        every = -(-mix.rows // COMPARED)
        looked_at = 0
        rows: dict[bool, int] = {True: 0, False: 0}
        found: dict[bool, set[str]] = {True: set(), False: set()}
        for batch in islice(mix.batches(["key", "messages", "images"], _PORTION), None, None, every or 1):
            looked_at += batch.num_rows
            for hits in step.process(batch).column("leaks").to_pylist():
                for shown in {hit["kind"] in _PICTURES for hit in hits}:
                    rows[shown] += 1
                for hit in hits:
                    found[hit["kind"] in _PICTURES].add(hit["row"])
    except LavaBeamError as error:
        return Leak(path, questions, unchecked=str(error))
    pictures, texts = ((rows[shown], len(found[shown])) for shown in (True, False))
    return Leak(path, questions, mix.rows, looked_at, pictures, texts)
