"""Two mixes, or a mix and a recipe, side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipelines.mix.diff import SourceDiff, changed_settings, contents_of, diff_mixes, settings_of
from pipelines.mix.outline import outline
from pipelines.mix.recipe import MixRecipe
from schemas.dataset import Dataset

Side = Dataset | MixRecipe
"""A mix that was made, or one that would be."""


def compared(first: Side, second: Side, sample: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What differs of each source, and in the settings and versions, as JSON values.

    Of a recipe, turns and tokens are counted as `outline` counts them, and single rows are not compared.
    """
    if isinstance(first, Dataset) and isinstance(second, Dataset):
        sources = diff_mixes(first, second)
    else:
        a, b = _sums(first, sample), _sums(second, sample)
        sources = [
            SourceDiff(name, rows=(one[0], other[0]), turns=(one[1], other[1]), tokens=(one[2], other[2]))
            for name in dict.fromkeys([*a, *b])
            for one, other in [(a.get(name, _NONE), b.get(name, _NONE))]
        ]
    changed = [*changed_settings(_settings(first), _settings(second)), *_versions(first, second)]
    return [asdict(one) for one in sources], [{"setting": key, "values": values} for key, *values in changed]


_NONE = (0, 0, 0)


def _sums(side: Side, sample: int) -> dict[str, tuple[int, int, int]]:
    """(rows, turns, tokens) of each source."""
    if isinstance(side, Dataset):
        return {name: (len(one.keys), one.turns, int(one.tokens.sum())) for name, one in contents_of(side).items()}
    return {one.source: (one.rows, one.turns, one.tokens) for one in outline(side, sample)}


def _settings(side: Side) -> dict[str, Any]:
    return settings_of(side) if isinstance(side, Dataset) else side.model_dump(mode="json")


def _versions(first: Side, second: Side) -> list[tuple]:
    """(dataset, manifest of the first, manifest of the second) of the datasets whose versions differ."""
    a, b = _parents(first), _parents(second)
    return [(f"version of {path}", a[path], b[path]) for path in a if path in b and a[path] != b[path]]


def _parents(side: Side) -> dict[str, int]:
    if isinstance(side, Dataset):
        return {parent.path: parent.manifest for parent in side.manifest.parents}
    paths = [path for one in side.sources.values() for path in (one.dataset, one.images) if path]
    return {path: Dataset.open(path).manifest.number for path in paths}
