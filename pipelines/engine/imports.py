"""Running an import: the rows of one source, added to a dataset that records its sources.

A dataset may have several sources, one after the other. An import only touches the fragments of its own source.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.engine.makers import ImportMaker, Task
from pipelines.engine.preview import Preview
from pipelines.engine.runners import Runner
from pipelines.engine.source import Source, SourceSlice
from pipelines.engine.sources import described, find_source, known_sources, named, plan_of, rule_of, source_of
from pipelines.engine.step import runtime_fields
from pipelines.engine.summary import RunSummary
from pipelines.engine.tasks import Work
from schemas.dataset import Dataset, Fragment
from schemas.entries import FragmentEntry, SourceEntry, StepEntry
from schemas.errors import InputError

Other = Literal["refuse", "append", "replace"]
"""What to do with a source that is not among those of the dataset."""

ROW_NUMBERS = 10**9
"""Row numbers are the keys where a source has none: those of the second source begin here, of the third at twice it."""


def run_import(importer: Source, target: str | Path, runner: Runner, other: Other = "refuse") -> RunSummary:
    """Bring the rows of a source into `target`; rows appended to the source since the last import come alone.

    A source that lies on this machine alone is read here, whatever the runner.
    Raises InputError for a source that is not among those of `target`, unless `other` says what to do with it, and
    for a key that two sources have.
    """
    work, source_number, schema = _planned(importer, target, other)
    several = work.step_entry is not None and len(work.step_entry.sources) > 1
    maker = (
        _OneOfSeveral(importer, work, schema, source_number) if several else ImportMaker(importer, work.target, schema)
    )
    if runner.on_dataflow and (local := _local_source(importer)):
        runner.admit(work.name, maker.needs, work.places)
        print(f"import: {local} is on this machine, so it is read here, not on Dataflow.", file=sys.stderr)
        runner = Runner()
    return replace(work.run(runner, maker), notes=tuple(importer.notes()))


def _local_source(importer: Source) -> str:
    """The first place of the importer's source that other machines cannot reach; empty where there is none.

    Of the options that locate a source, places are those that do not decide its rows: a split does.
    """
    options = runtime_fields(type(importer.config)).intersection(importer.located_by) or importer.located_by
    named = [getattr(importer.config, option) for option in importer.located_by if option in options]
    if not any(named):
        return f"what {importer.name} has installed"
    places = [place for one in named for place in (one if isinstance(one, list | tuple) else [one])]
    return next((place for place in places if isinstance(place, str) and "://" not in place), "")


def preview_import(importer: Source, target: str | Path, other: Other = "refuse") -> Preview:
    """What `run_import` would do; raises the same errors, but for keys, which are not read before the run."""
    return _planned(importer, target, other)[0].preview()


def _planned(importer: Source, target: str | Path, other: Other) -> tuple[Work, int, pa.Schema]:
    """The work, the place of the importer's source among those of the dataset, and the columns of its rows."""
    work = Work("import", str(target), importer.makes)
    sources, source_number = _placed(importer, work, other)
    slices = importer.slices([entry.rows for entry in work.present.values() if source_of(entry.id) == source_number])
    if not slices:
        raise InputError(f"import {importer.name!r}: the source has no rows. Nothing was written.")
    for number in range(len(sources)):
        if number == source_number:
            _add_slices(work, importer, slices, source_number)
        else:
            for entry in [one for one in work.present.values() if source_of(one.id) == number]:
                work.keep(entry)
    config = importer.config.model_dump(mode="json")
    rule = rule_of(sources, importer.makes, work.target)
    work.usable |= {*rule.usable}
    work.step_entry = StepEntry(version=importer.version, config=config, name="import", sources=sources, statuses=rule)
    return work, source_number, importer.rows(slices[0]).schema


def _placed(importer: Source, work: Work, other: Other) -> tuple[list[SourceEntry], int]:
    """All sources that the dataset is to have, and which of them is the importer's."""
    sources, own = known_sources(work.old), described(importer)
    found = find_source(importer, sources, list(work.present.values()))
    if other == "replace" or not sources:
        return [own], 0
    if found is not None:
        return [*sources[:found], own, *sources[found + 1 :]], found
    if other == "append":
        return [*sources, own], len(sources)
    present = "; ".join(named(one) for one in sources)
    raise InputError(
        f"{work.target}: holds the rows of {present}, and {named(own)} is another source. --append adds its rows "
        f"after those, --replace replaces them; or import it into a separate dataset."
    )


def _add_slices(work: Work, importer: Source, slices: Sequence[SourceSlice], source_number: int) -> None:
    for number, slice_ in enumerate(slices):
        plan = plan_of(importer, slice_, source_number)
        name = f"{number:04d}-{plan[:8]}" if source_number == 0 else f"s{source_number + 1}-{number:04d}-{plan[:8]}"
        empty = FragmentEntry(id=name, rows=slice_.rows, files={})
        placed = slice_.placed(source_number * ROW_NUMBERS)
        work.add(work.present.get(name, empty), plan, {}, {}, source=placed, rows=slice_.rows)


class _OneOfSeveral(ImportMaker):
    """Refuses rows whose key another source of the dataset has: nothing could tell them apart afterwards."""

    def __init__(self, importer: Source, work: Work, schema: pa.Schema, source_number: int):
        super().__init__(importer, work.target, schema)
        self.source_number, self.manifest = source_number, work.old.manifest.number if work.old is not None else 0
        self._taken: np.ndarray | None = None

    def batches(self, task: Task) -> Iterator[pa.RecordBatch]:
        for batch in super().batches(task):
            self._check(batch.column("key"))
            yield batch

    def _check(self, keys: pa.Array) -> None:
        """Hashes of 8 bytes a row find a key that may be taken; then the key itself is looked for."""
        if self._taken is None:
            taken = (hash(key) for part in self._others() for key in part.read(["key"]).column(0).to_pylist())
            self._taken = np.sort(np.fromiter(taken, np.int64))
        hashes = np.fromiter(map(hash, keys.to_pylist()), np.int64, len(keys))
        for row in np.flatnonzero(np.isin(hashes, self._taken)):
            for part in self._others():
                if pc.index(part.read(["key"]).column(0), keys[int(row)]).as_py() >= 0:
                    raise InputError(self._refusal(keys[int(row)].as_py(), part))

    def _others(self) -> Iterator[Fragment]:
        """The fragments of the other sources."""
        dataset = Dataset.open(self.target, at=self.manifest)
        return (part for part in dataset.fragments if source_of(part.id) != self.source_number)

    def _refusal(self, key: str, part: Fragment) -> str:
        sources = known_sources(Dataset.open(self.target, at=self.manifest))
        return (
            f"{self.target}: the key {key!r} of {named(described(self.importer))} already exists, from "
            f"{named(sources[source_of(part.id)])}. A key names one row: give the rows other keys, or import this "
            "source into a dataset of its own. Nothing was committed."
        )
