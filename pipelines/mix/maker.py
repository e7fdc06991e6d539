"""Makes one fragment of a mix: selects rows, counts why others are left out, then copies their images.

The counts go in front of the rows, so whether a picture can be used is decided while rows are chosen. Pictures that the
recipe encodes anew are encoded then, once, and wait in a spool.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.engine.makers import Maker, Task
from pipelines.engine.output import Rows
from pipelines.engine.step import Context, Needs
from pipelines.mix.choose import Choice
from pipelines.mix.judge import Candidates, Judge, Verdict
from pipelines.mix.lengths import CANNOT_ENCODE, Lengths, Measured
from pipelines.mix.pictures import ReadyPicture, Spool, stored
from pipelines.mix.recipe import MixRecipe
from pipelines.mix.select import copies, in_validation, key_hash
from pipelines.mix.turns import Piece, merged, pictures_in, pieces_of, without_pictures
from pipelines.mix.writing import Reported, Row, sample
from schemas.dataset import Dataset, Fragment
from schemas.errors import LavaBeamError
from schemas.lookup import PicturesByName
from schemas.manifest import FragmentEntry
from schemas.pictures import PictureError
from schemas.records import SAMPLES
from schemas.store import Store

PICTURE_UNREADABLE = "picture_unreadable"
"""A row with a picture that is there and cannot be read: cut, damaged, or not a picture."""

TAKEN, AS_TEXT, CUT, SPLIT = "taken", "taken_as_text", "taken_long", "taken_in_parts"
"""What rows of the mix are counted as: every one under exactly one of them."""

_WRITTEN_ROWS = 64


@dataclass(frozen=True)
class MixFragment:
    """The source of a task: a fragment of the mix source called `name`, and what was decided about its rows.

    rest: other fragments of the source, where none has a row that is taken. They are only counted, in one file.
    """

    name: str
    entry: FragmentEntry
    choice: Choice | None = None
    rest: tuple[MixFragment, ...] = ()

    @property
    def rows(self) -> int:
        return self.entry.rows + sum(one.rows for one in self.rest)


def judges_of(recipe: MixRecipe, opened: dict[str, Dataset]) -> dict[str, Judge]:
    """A judge for each source; `opened` has every dataset of the recipe by path. Sources share what finds pictures."""
    indexes: dict[str, PicturesByName] = {}
    made = {}
    for name, source in recipe.sources.items():
        if source.images is not None and source.images not in indexes:
            indexes[source.images] = PicturesByName(opened[source.images])
        pictures = indexes[source.images] if source.images is not None else None
        made[name] = Judge(name, source, opened[source.dataset], pictures)
    return made


class MixMaker(Maker[MixFragment]):
    """`versions` pins every dataset (path -> manifest number), so that all workers read the same rows. `validation`:
    make the validation part of the mix instead of what is trained on."""

    output, schema_name, schema, status_column = Rows(), "samples", SAMPLES, None

    def __init__(self, recipe: MixRecipe, target: str, versions: dict[str, int], validation: bool = False):
        self.recipe, self.target, self.versions, self.validation = recipe, target, versions, validation
        self.needs = Needs(model_files=(recipe.tokenizer,))

    def setup(self, context: Context) -> None:
        self.context = context
        self.lengths = Lengths(self.recipe)
        opened = {path: Dataset.open(path, number) for path, number in self.versions.items()}
        self.judges = judges_of(self.recipe, opened)

    def open(self, task: Task[MixFragment]) -> tuple[dict[str, int], Iterator[pa.RecordBatch]]:
        """Why rows were taken or left out, and the batches. Counts go into the file, so that no rerun loses them."""
        counts: Counter[str] = Counter()
        spool = Spool()
        rows = list(self._rows(task.source, counts, spool))
        return dict(counts), self._batches(task.source, rows, spool)

    def some(self, part: MixFragment, places: np.ndarray, counts: Counter[str], spool: Spool) -> Iterator[Row]:
        """The rows that some rows of a fragment become, given their places in it: for an outline of the mix."""
        judge = self.judges[part.name]
        fragment = Fragment(Store(judge.dataset.path), part.entry)
        table = fragment.read(judge.columns(fragment)).take(places).combine_chunks()
        for batch in table.to_batches():
            yield from self._of_batch(judge.candidates(batch, places), part, counts, spool)

    def source_rows(self, batch: pa.RecordBatch) -> int:
        """None: rows are counted while they are chosen, which is where the time goes."""
        return 0

    def _rows(self, part: MixFragment, counts: Counter[str], spool: Spool) -> Iterator[Row]:
        judge = self.judges[part.name]
        with Reported(counts) as reported:
            for one in (part, *part.rest):
                for batch in judge.batches(Fragment(Store(judge.dataset.path), one.entry)):
                    yield from self._of_batch(batch, one, counts, spool, reported)

    def _of_batch(
        self,
        batch: Candidates,
        part: MixFragment,
        counts: Counter[str],
        spool: Spool,
        reported: Reported | None = None,
    ) -> Iterator[Row]:
        """The rows of the mix that the rows of one batch become; counts them, and why there are none of others."""
        judge = self.judges[part.name]
        counts.update(batch.left)
        judged = zip(batch.rows, judge.verdicts(batch.rows), batch.places, strict=True)
        decided = [(verdict, *self._left_out(row, verdict, place, part)) for row, verdict, place in judged]
        usable = [number for number, (_, reason, _) in enumerate(decided) if reason is None]
        batch.read_messages(usable)
        self.lengths.prepare(batch.rows[number]["messages"] for number in usable)
        for row, place, (verdict, reason, times) in zip(batch.rows, batch.places, decided, strict=True):
            if reason is not None:
                counts[reason] += 1
            else:
                yield from self._made(row, verdict, place, times, part, counts, spool)
            if reported is not None:
                reported.add()
        if reported is not None:
            reported.add(batch.left.total())

    def _made(
        self,
        row: dict[str, Any],
        verdict: Verdict,
        place: int,
        times: int,
        part: MixFragment,
        counts: Counter[str],
        spool: Spool,
    ) -> Iterator[Row]:
        """The rows of the mix that one chosen row becomes; counts them, or why there are none."""
        pictures: list[ReadyPicture] = []
        if verdict.pictures:
            verdict, pictures = self._prepare(row, verdict, self.judges[part.name], spool)
        if verdict.reason is not None:
            counts[verdict.reason] += 1
            return
        made = list(self._pieces(row, verdict, place, part, pictures, counts))
        for copy in range(times):
            for one in made:
                counts[one.counted] += 1
                yield one if copy == 0 else replace(one, key=f"{one.key}#{copy + 1}")

    def _left_out(self, row: dict[str, Any], verdict: Verdict, place: int, part: MixFragment) -> tuple[str | None, int]:
        """Why the row is left out before its pictures are looked at (None: it is not), and how often it is taken."""
        if verdict.reason is not None:
            return verdict.reason, 0
        if part.choice is not None and (reason := part.choice.reason(place)):
            return reason, 0
        weight = self.recipe.sources[part.name].weight
        times = 1 if weight == 1 else copies(key_hash(row["key"], self.recipe.seed), weight)
        if not times:
            return "weight", 0
        share = self.recipe.validation
        if share and in_validation(row["key"], row["image_keys"], share, self.recipe.seed) != self.validation:
            return ("training" if self.validation else "validation"), 0
        return None, times

    def _prepare(
        self, row: dict[str, Any], verdict: Verdict, judge: Judge, spool: Spool
    ) -> tuple[Verdict, list[ReadyPicture]]:
        """Make the row's pictures ready to be stored; another verdict when one of them cannot be."""
        assert judge.images is not None
        ready = []
        for number in verdict.pictures:
            content = judge.images.content(number)
            try:
                made, size = stored(content, self.recipe.pictures)
            except PictureError as error:
                self.context.log({"row": row["key"], PICTURE_UNREADABLE: str(error)})
                return judge.unusable(row["key"], PICTURE_UNREADABLE, str(error)), []
            ready.append(ReadyPicture(number, size, None if made is content else spool.put(made)))
        return verdict, ready

    def _pieces(
        self,
        row: dict[str, Any],
        verdict: Verdict,
        place: int,
        part: MixFragment,
        pictures: list[ReadyPicture],
        counts: Counter[str],
    ) -> Iterator[Row]:
        """The rows that a taken row becomes, with their lengths; counts what cannot be trained on."""
        source = self.recipe.sources[part.name]
        messages = row["messages"]
        others = part.choice.joined.get(place, ()) if part.choice is not None else ()
        if others:
            messages = merged([messages, *self._messages_of(others, row, part.name)])
        if verdict.as_text:
            messages = without_pictures(messages)
        pieces = pieces_of(messages, source, row["key"], self.recipe.seed)
        if pictures_in([messages]) != len(pictures):
            pieces = [Piece(messages, len(pictures))]  # no part of it shows the right pictures: it cannot be encoded
        for piece in pieces:
            shown = pictures[: piece.shown]
            measured = self._measured(row, piece.messages, shown, part.name, counts)
            for number, one in enumerate(measured, 1):
                mark = f"#p{number}" if one.is_part else ""
                counted = AS_TEXT if verdict.as_text else SPLIT if mark else CUT if one.long else TAKEN
                own = pictures[: one.shown] if mark else shown
                yield Row(row, f"{row['key']}{piece.mark}{mark}", one, own, counted)

    def _measured(
        self, row: dict[str, Any], messages: list[dict], pictures: list[ReadyPicture], name: str, counts: Counter[str]
    ) -> list[Measured]:
        """The rows that messages become by their length, one as a rule; none is counted with its reason."""
        try:
            reason, measured = self.lengths.measure(messages, [one.size for one in pictures])
        except LavaBeamError as error:
            if pictures and self.lengths.rule is None:
                raise type(error)(f"mix, row {row['key']!r}: {error} Give the recipe an `image` rule.") from error
            self.context.log({"row": row["key"], CANNOT_ENCODE: str(error)})
            reason, measured = CANNOT_ENCODE, []
        if reason is not None:
            if reason == "too_long" and self.recipe.too_long == "refuse":
                self.lengths.refuse(name, row["key"])
            counts[reason] += 1
        return measured

    def _messages_of(self, numbers: tuple[int, ...], row: dict[str, Any], name: str) -> list[list[dict]]:
        """The messages of rows that are joined to `row`."""
        taken = self.judges[name].dataset.take(numbers, ["key", "image_keys", "messages"])
        other = next((one for one in taken if one["image_keys"] != row["image_keys"]), None)
        if other is not None:
            raise LavaBeamError(
                f"mix source {name!r}: rows {row['key']!r} and {other['key']!r} show different pictures whose keys "
                "have the same 64-bit hash (a chance of one in 2**64). Leave one of them out with `where`."
            )
        return [one["messages"] or [] for one in taken]

    def _batches(self, part: MixFragment, rows: list[Row], spool: Spool) -> Iterator[pa.RecordBatch]:
        judge = self.judges[part.name]
        try:
            for start in range(0, len(rows), _WRITTEN_ROWS):
                made = [sample(row, judge, spool) for row in rows[start : start + _WRITTEN_ROWS]]
                yield pa.RecordBatch.from_pylist(made, schema=SAMPLES)
        finally:
            spool.close()
