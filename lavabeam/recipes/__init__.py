"""The published recipes, available by name from any folder: data (`lavabeam run`), mixes, training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
KINDS = {"data": "lavabeam run", "mixes": "lavabeam mix", "training": "lavabeam train"}
"""Folder -> the command that runs its recipes."""


@dataclass(frozen=True)
class Published:
    """One recipe of the package."""

    name: str
    kind: str
    path: Path

    @property
    def summary(self) -> str:
        """The first line of its leading comment."""
        first = self.path.read_text(encoding="utf-8").split("\n", 1)[0]
        return first.removeprefix("#").strip() if first.startswith("#") else ""


def published(kind: str | None = None) -> Iterator[Published]:
    """All recipes, or those of one kind, ordered by kind and name."""
    for folder in KINDS if kind is None else (kind,):
        for path in sorted((FOLDER / folder).glob("*.yaml")):
            yield Published(path.stem, folder, path)


def locate(recipe: str | Path, kind: str) -> Path:
    """The file of a recipe given by path or published name. Raises InputError naming the nearest known name."""
    path = Path(recipe)
    if path.is_file() or path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        return path
    known = {one.name: one.path for one in published(kind)}
    if path.name not in known:
        from schemas.config import nearest
        from schemas.errors import InputError

        raise InputError(
            f"{recipe}: neither a file nor a published recipe. {nearest(path.name, list(known))} "
            "`lavabeam recipes` lists them."
        )
    return known[path.name]
