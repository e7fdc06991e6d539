"""What a mix recipe says: sources with filters and weights, the tokenizer, and how pictures are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pipelines.engine.step import Config
from schemas.config import StrictModel, parse, read_yaml, substitute
from schemas.errors import InputError
from schemas.standing import Use

DUPLICATE = "duplicate"
"""The reason, as steps declare it, of rows that `duplicates: keep` takes."""

Accepted = list[str | int | float | bool | None] | dict[Literal["min", "max"], float]
"""A filter on one column: the values that pass, or a range."""


class MixSource(StrictModel):
    """Rows of one dataset: `conversations` as they are, or `captions` made into pairs of picture and caption."""

    conversations: str | None = Field(None, description="a conversations dataset")
    captions: str | None = Field(None, description="a text column of `images` (caption, alt_text, captions)")
    images: str | None = Field(None, description="the images dataset that its image keys point to")
    question: str = Field("", description="captions only: what the user asks; empty for a bare picture")
    kinds: list[str] | None = Field(None, description="only these kinds of conversation")
    where: dict[str, Accepted] = Field({}, description="filters on the conversation's columns")
    image_where: dict[str, Accepted] = Field({}, description="filters on the columns of every picture")
    duplicates: Literal["drop", "keep"] = Field("drop", description="drop pictures that `dedupe` calls copies")
    weight: float = Field(1.0, ge=0, description="0.5 takes half of the rows, 2 takes each twice")

    @model_validator(mode="after")
    def _one_kind(self) -> MixSource:
        if (self.conversations is None) == (self.captions is None):
            raise ValueError("a source names either `conversations` or `captions`")
        if self.captions is not None and self.images is None:
            raise ValueError("a source of `captions` needs `images`")
        if self.captions is not None and self.where:
            raise ValueError("a source of `captions` has no conversations for `where`; its pictures: `image_where`")
        return self

    @property
    def rows(self) -> str:
        """The dataset whose rows are taken."""
        return self.conversations or self.images or ""

    @property
    def row_use(self) -> Use:
        """How rows are judged: a status that `where` names is the recipe's own matter."""
        return Use(decides=frozenset(self.where))

    @property
    def image_use(self) -> Use:
        """How pictures are judged: a status that `image_where` names is the recipe's own matter."""
        takes = frozenset({DUPLICATE}) if self.duplicates == "keep" else frozenset()
        return Use(pictures=True, takes=takes, decides=frozenset(self.image_where))


class Pictures(StrictModel):
    """How pictures are stored in the mix: as they are, or resized once so that no epoch pays for it again."""

    max_side: int | None = Field(None, gt=0, description="shrink the longer side to this many pixels")
    format: Literal["keep", "jpeg", "png"] = "keep"
    """What pictures are stored as."""
    quality: int = Field(92, ge=1, le=100)
    """Of JPEG."""


class MixRecipe(Config):
    """A mix: which rows of which datasets, and how they are stored."""

    sources: dict[str, MixSource]
    """Where rows come from, each under a name of your choice."""
    tokenizer: str = Field(description="folder with tokenizer.json: the tokenizer that training will use")
    template: str = Field(description="chat template, as in `lavabeam tokens --template`")
    image: dict[str, Any] = Field({}, description="image rule of the vision tower: mode, image_size, patch_size, ...")
    pictures: Pictures = Field(default_factory=Pictures)
    max_tokens: int | None = Field(None, description="rows with more tokens are left out, and counted")
    seed: int = 0
    """Decides which share of the rows a weight takes."""


def load_mix(path: str | Path, folder: str | Path | None = None, variables: dict[str, str] | None = None) -> MixRecipe:
    """The recipe at `path`; dataset names are looked up in `folder`, the tokenizer beside the recipe or in `folder`."""
    values = read_yaml(path)
    if variables:
        values = substitute(values, variables, str(path))
    recipe = parse(values, MixRecipe, where=str(path))
    if folder is None:
        return recipe
    sources = {name: _placed(source, Path(folder)) for name, source in recipe.sources.items()}
    tokenizer = _first_existing([Path(recipe.tokenizer), Path(folder) / recipe.tokenizer], recipe.tokenizer, path)
    return recipe.model_copy(update={"sources": sources, "tokenizer": tokenizer})


def _placed(source: MixSource, folder: Path) -> MixSource:
    names = {"conversations": source.conversations, "images": source.images}
    return source.model_copy(update={key: resolve(name, folder) for key, name in names.items() if name is not None})


def resolve(name: str, folder: str | Path) -> str:
    """Where dataset `name` lies: itself when it is a path or URL, else inside `folder`."""
    if "://" in name or Path(name).is_absolute() or name.startswith("."):
        return name
    return f"{folder}/{name}" if "://" in str(folder) else str(Path(folder) / name)


def _first_existing(candidates: list[Path], name: str, path: str | Path) -> str:
    for candidate in candidates:
        if candidate.exists():
            return str(candidate)
    raise InputError(f"{path}: tokenizer {name!r} not found. Give a folder that has a tokenizer.json.")
