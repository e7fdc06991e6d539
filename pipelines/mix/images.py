"""The pictures that a mix source shows: found by key, judged by their standing and by the recipe's filters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa

from pipelines.mix.recipe import MixSource
from pipelines.mix.select import refused_by
from schemas.lookup import PicturesByName
from schemas.standing import IMAGE_MISSING, Standing


class Images:
    """Rows of an images dataset for one source; sources that share a dataset share `rows`."""

    FRAGMENTS = 64
    """Fragments whose reasons are kept: conversations mostly come in the order of their pictures."""

    def __init__(self, rows: PicturesByName, source: MixSource):
        self.rows, self.dataset, self.filters = rows, rows.dataset, source.image_where
        self.standing = Standing.of(self.dataset, source.image_use)
        self._reasons: OrderedDict[str, pa.Array] = OrderedDict()

    def judge(self, keys: Sequence[str]) -> tuple[str | None, list[int]]:
        """Why a row that shows these pictures is left out (None: it is not), and the pictures' row numbers."""
        numbers = self.rows.find_all(keys).tolist()
        for number in numbers:
            reason = IMAGE_MISSING if number < 0 else self._reason(number) or self._refused(number)
            if reason is not None:
                return reason, []
        return None, numbers

    def content(self, number: int) -> bytes:
        """The encoded picture of a row that `judge` let pass."""
        return self.dataset.take([number], ["image"])[0]["image"]["bytes"]

    def _reason(self, number: int) -> str | None:
        fragment, offset = self.dataset.locate(number)
        reasons = self._reasons.pop(fragment.id, None)
        if reasons is None:
            reasons = self.standing.of_fragment(fragment)
        self._reasons[fragment.id] = reasons
        if len(self._reasons) > self.FRAGMENTS:
            self._reasons.popitem(last=False)
        return reasons[offset].as_py()

    def _refused(self, number: int) -> str | None:
        """Why a filter of the recipe refuses a picture."""
        if not self.filters:
            return None
        (picture,) = self.dataset.take([number], list(self.filters))
        return refused_by(picture, self.filters)
