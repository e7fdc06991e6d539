"""The effect of `data.too_long: cut` on a mix: truncated rows, and rows left without any answer."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from schemas.chat import encode, get_template, load_tokenizer
from schemas.dataset import Dataset
from schemas.errors import InputError
from trainer.models.folder import known_positions
from trainer.models.partcheck import check_llm
from trainer.preflight import Job

ROWS_AT_A_TIME = 256


def notes_on_cuts(job: Job) -> list[str]:
    """How many rows are cut, and how many of them keep nothing to learn from. Raises InputError if no row of the mix
    keeps anything."""
    if job.recipe.data.too_long != "cut":
        return []
    limit = _limit(job)
    over = np.flatnonzero(job.mix.numpy("tokens") > limit)
    if not len(over):
        return []
    empty = sum(_masked(job, over, limit))
    if empty == job.mix.rows:
        raise InputError(
            f"{job.mix.path}: cut to {limit} tokens, none of its {empty} rows keeps a supervised token. Raise "
            "`data.max_length`, or make the mix with `too_long: split`."
        )
    lost = f", and {empty} of these keep nothing to learn from" if empty else ""
    return [f"{len(over)} of {job.mix.rows} rows are cut to {limit} tokens{lost}"]


def _limit(job: Job) -> int:
    if job.folder is not None:
        return job.folder.longest(job.recipe.data.max_length)
    positions = known_positions(check_llm(str(job.recipe.model.llm)))
    return min(job.recipe.data.max_length or positions, positions)


def _masked(job: Job, rows: np.ndarray, limit: int) -> Iterator[bool]:
    """Of each row, whether its first `limit` tokens hold nothing that is learnt."""
    model = job.recipe.model
    tokenizer = job.folder.tokenizer if job.folder is not None else load_tokenizer(model.tokenizer or str(model.llm))
    template = get_template(job.template)
    for start in range(0, len(rows), ROWS_AT_A_TIME):
        for row in _taken(job.mix, rows[start : start + ROWS_AT_A_TIME]):
            sizes = list(zip(row["widths"], row["heights"], strict=True))
            yield encode(row["messages"], sizes, template, tokenizer, job.rule, max_length=limit).all_masked


def _taken(mix: Dataset, rows: np.ndarray) -> list[dict]:
    return mix.take(rows.tolist(), ["messages", "widths", "heights"])
