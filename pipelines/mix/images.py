"""The images of a mix source: found by key, filtered by standing and the recipe."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from pipelines.mix.recipe import MixSource
from pipelines.mix.select import refused_by
from schemas.lookup import PicturesByName
from schemas.standing import IMAGE_MISSING, Standing


class Images:
    """Rows of an images dataset for one source; sources that share a dataset share `rows`."""

    FRAGMENTS = 1024
    """Fragments whose reasons are kept: conversations mostly come in the order of their pictures."""

    def __init__(self, rows: PicturesByName, source: MixSource):
        self.rows, self.dataset, self.filters = rows, rows.dataset, source.image_where
        self.standing = Standing.of(self.dataset, source.image_use)
        self._choices = {reason for rule in self.standing.rules for reason in rule.by_choice.values()}
        self._reasons: OrderedDict[str, list[str | None]] = OrderedDict()

    def judge_all(self, rows: Sequence[Sequence[str]]) -> list[tuple[str | None, tuple[int, ...], bool]]:
        """For the pictures of each row: why one of them leaves the row out (None: none does), the pictures' row
        numbers, and whether that reason is the recipe's own choice rather than a picture that cannot be used."""
        numbers = self.rows.find_all([key for keys in rows for key in keys]).tolist()
        found, start = [], 0
        for keys in rows:
            own = numbers[start : start + len(keys)]
            start += len(keys)
            found.append(self._judge(own))
        return found

    def _judge(self, numbers: list[int]) -> tuple[str | None, tuple[int, ...], bool]:
        for number in numbers:
            reason = IMAGE_MISSING if number < 0 else self._reason(number)
            if reason is not None:
                return reason, (), reason in self._choices
            refused = self._refused(number)
            if refused is not None:
                return refused, (), True
        return None, tuple(numbers), False

    def content(self, number: int) -> bytes:
        """The encoded picture of a row that `judge` let pass."""
        return self.dataset.take([number], ["image"])[0]["image"]["bytes"]

    def _reason(self, number: int) -> str | None:
        fragment, offset = self.dataset.locate(number)
        reasons = self._reasons.pop(fragment.id, None)
        if reasons is None:
            reasons = self.standing.of_fragment(fragment).to_pylist()
        self._reasons[fragment.id] = reasons
        if len(self._reasons) > self.FRAGMENTS:
            self._reasons.popitem(last=False)
        return reasons[offset]

    def _refused(self, number: int) -> str | None:
        """Why a filter of the recipe refuses a picture."""
        if not self.filters:
            return None
        (picture,) = self.dataset.take([number], list(self.filters))
        return refused_by(picture, self.filters)
