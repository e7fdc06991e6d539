"""The mix recipe: sources with filters and weights, the tokenizer, and how images are stored."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from pipelines.engine.step import Config
from schemas.config import StrictModel, parse, read_yaml, substitute
from schemas.errors import InputError
from schemas.standing import Use

JOINT = "duplicate_joint"
"""The reason of rows that repeat another one in every way."""
_EACH = frozenset({"duplicate", "duplicate_text", "duplicate_semantic"})
TAKEN = {
    "drop": frozenset[str](),
    "joint": _EACH,
    "keep": _EACH | {JOINT},
}
"""Value of `duplicates` -> the reasons, as steps declare them, of rows that are taken all the same."""

KEPT = {"balanced_out": "balanced_out", "leaks": "leaked"}
"""Other keys of a source -> the reason of rows that the key takes where it says `keep`."""

SIZES = ("weight", "rows", "max_rows", "share")
"""Keys of a source that say how many rows are taken."""

CHOSEN = frozenset({"rows", "max_rows", "share", "max_per_image"})
"""Keys that decide about all rows of a source together: a fragment depends on which of its rows were chosen."""

LATER = frozenset({"balanced_out", "leaks", "modality", "missing_image", "turns", "shuffle_turns", "suffix"})

Accepted = list[str | int | float | bool | None] | dict[Literal["min", "max"], float]
"""A filter on one column: the values that pass, or a range."""


class Suffix(StrictModel):
    """A line appended to questions to specify the answer format."""

    text: str = Field(min_length=1, description="the line; not added to a question that already ends with it")
    where: Literal["first", "every"] = Field(
        "first", description="after the first question of a row only (removed from later ones), or after every question"
    )


class MixSource(StrictModel):
    """Rows of one dataset: `conversations` as they are, or `captions` made into pairs of picture and caption."""

    conversations: str | None = Field(None, description="a conversations dataset")
    captions: str | None = Field(None, description="a text column of `images` (caption, alt_text, captions)")
    images: str | None = Field(None, description="the images dataset that its image keys point to")
    question: str = Field("", description="captions only: what the user asks; empty for a bare picture")
    kinds: list[str] | None = Field(None, description="only these kinds of conversation")
    where: dict[str, Accepted] = Field({}, description="filters on the conversation's columns")
    image_where: dict[str, Accepted] = Field({}, description="filters on the columns of every picture")
    duplicates: Literal["drop", "joint", "keep"] = Field(
        "drop",
        description="drop copies found by any dedupe step (pictures, and rows of the source), only those found by "
        "`dedupe_joint`, or none",
    )
    balanced_out: Literal["drop", "keep"] = Field("drop", description="drop captions that `balance` did not select")
    leaks: Literal["drop", "keep"] = Field("drop", description="drop rows and pictures that `decontaminate` found")
    weight: float = Field(1.0, ge=0, description="0.5 takes half of the rows, 2 takes each twice")
    rows: int | None = Field(None, ge=1, description="exactly this many of the usable rows; fewer stop the run")
    max_rows: int | None = Field(None, ge=1, description="at most this many rows")
    share: float | None = Field(None, gt=0, le=1, description="this share of all rows of the mix")
    max_per_image: int | None = Field(None, ge=1, description="at most this many rows with the same images")
    modality: Literal["pictures", "text"] | None = Field(None, description="only rows with pictures, or without")
    missing_image: Literal["drop", "text", "refuse"] = Field(
        "drop", description="rows with an unusable image are dropped, kept without it, or stop the run"
    )
    turns: Literal["as_is", "one", "merged"] = Field(
        "as_is",
        description="a row for each question and its answer, or one row of all rows that show the same pictures",
    )
    shuffle_turns: bool = Field(False, description="order questions, with their answers, by hash of key and seed")
    suffix: Suffix | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> MixSource:
        if (self.conversations is None) == (self.captions is None):
            raise ValueError("a source names either `conversations` or `captions`")
        if self.captions is not None and self.images is None:
            raise ValueError("a source of `captions` needs `images`")
        if self.captions is not None and self.where:
            raise ValueError("a source of `captions` has no conversations for `where`; its pictures: `image_where`")
        for name, filters in (("where", self.where), ("image_where", self.image_where)):
            for column, accepted in filters.items():
                _check_range(f"{name}.{column}", accepted)
        sizes = [name for name in SIZES if getattr(self, name) != type(self).model_fields[name].default]
        if len(sizes) > 1:
            raise ValueError(f"`{sizes[0]}` and `{sizes[1]}` both say how many rows are taken: give one of them")
        return self

    @property
    def dataset(self) -> str:
        """The dataset whose rows are taken."""
        return self.conversations or self.images or ""

    @property
    def needs_choice(self) -> bool:
        """Whether a row is taken or not depends on the other rows of the source."""
        return self.counts or self.max_per_image is not None or self.turns == "merged"

    @property
    def counts(self) -> bool:
        """Whether a number of rows is chosen."""
        return self.rows is not None or self.max_rows is not None or self.share is not None

    def identity(self) -> dict[str, Any]:
        """What decides each row by itself: neither the datasets' places nor what is decided about all rows together.
        Keys that came later are left out at their defaults, so that mixes of before are not made again."""
        left = {name for name in LATER if getattr(self, name) == type(self).model_fields[name].get_default()}
        return self.model_dump(mode="json", exclude={"conversations", "images", *left, *CHOSEN})

    @property
    def row_use(self) -> Use:
        """How rows are judged: a status that `where` names is the recipe's own matter."""
        return Use(takes=self._takes, decides=frozenset(self.where))

    @property
    def image_use(self) -> Use:
        """How pictures are judged: a status that `image_where` names is the recipe's own matter."""
        return Use(pictures=True, takes=self._takes, decides=frozenset(self.image_where))

    @property
    def _takes(self) -> frozenset[str]:
        kept = frozenset(reason for key, reason in KEPT.items() if getattr(self, key) == "keep")
        return TAKEN[self.duplicates] | kept


def _check_range(name: str, accepted: Any) -> None:
    """Raise ValueError for a range that says nothing, or that no number is in."""
    if not isinstance(accepted, dict):
        return
    least, most = accepted.get("min", -math.inf), accepted.get("max", math.inf)
    if not accepted or math.isnan(least) or math.isnan(most) or least > most:
        said = ", ".join(f"{key}: {value:g}" for key, value in accepted.items())
        raise ValueError(f"`{name}` is the range {{{said}}}, expected a `min`, a `max`, or both with min <= max")


class Pictures(StrictModel):
    """How pictures are stored in the mix: as they are, or resized once so that no epoch pays for it again."""

    max_side: int | None = Field(None, gt=0, description="shrink images so that the longer side has this many pixels")
    format: Literal["keep", "jpeg", "png"] = "keep"
    """The storage format of images."""
    quality: int = Field(92, ge=1, le=100)
    """Of JPEG."""


class MixRecipe(Config):
    """A mix: which rows of which datasets, and how they are stored."""

    sources: dict[str, MixSource]
    """The sources of rows, each under a name of your choice."""
    tokenizer: str = Field(description="folder with tokenizer.json: the tokenizer that training will use")
    template: str = Field(description="chat template, as in `lavabeam tokens --template`")
    image: dict[str, Any] = Field({}, description="image rule of the vision tower: mode, image_size, patch_size, ...")
    pictures: Pictures = Field(default_factory=Pictures)
    max_tokens: int | None = Field(None, ge=1, description="maximum tokens of a row")
    too_long: Literal["drop", "cut", "split", "refuse"] = Field(
        "drop",
        description="longer rows are left out, kept for a training that cuts them (`data.too_long: cut`), split "
        "between turns, or stop the run",
    )
    validation: float = Field(0.0, ge=0, lt=1, description="share of the images whose rows are held out for validation")
    seed: int = 0
    """Seed of the row selection."""

    @model_validator(mode="after")
    def _possible(self) -> MixRecipe:
        if self.too_long != "drop" and self.max_tokens is None:
            raise ValueError(f"`too_long: {self.too_long}` needs `max_tokens`")
        shares = sum(source.share or 0.0 for source in self.sources.values())
        if shares > 1 + 1e-9:
            raise ValueError(f"the shares of the sources add up to {shares:g}: more than the whole mix")
        if shares > 1 - 1e-9 and any(source.share is None for source in self.sources.values()):
            raise ValueError("the shares add up to 1 and nothing is left for sources without a share")
        return self

    def identity(self) -> dict[str, Any]:
        """What decides the rows of every source; see MixSource.identity for the rest."""
        later = {"too_long": "drop", "validation": 0.0}
        left = {name for name, default in later.items() if getattr(self, name) == default}
        kept = {"template", "pictures", "max_tokens", "seed", *later} - left
        return self.model_dump(mode="json", include=kept)


def load_mix(
    path: str | Path,
    folder: str | Path | None = None,
    variables: dict[str, str] | None = None,
    settings: dict[str, str] | None = None,
) -> MixRecipe:
    """The recipe at `path`; dataset names are looked up in `folder`, the tokenizer beside the recipe or in `folder`.

    settings: values of `${name}`s of the recipe, and, under all other names, of its keys (`sources.gqa.rows`), in YAML.
    """
    values = read_yaml(path)
    for name, value in (settings or {}).items():
        if f"${{{name}}}" in str(values):
            variables = {**(variables or {}), name: value}
        else:
            _set(values, name, value)
    if variables:
        values = substitute(values, variables, str(path))
    recipe = parse(values, MixRecipe, where=str(path))
    if folder is None:
        return recipe
    sources = {name: _placed(source, Path(folder)) for name, source in recipe.sources.items()}
    tokenizer = _first_existing([Path(recipe.tokenizer), Path(folder) / recipe.tokenizer], recipe.tokenizer, path)
    return recipe.model_copy(update={"sources": sources, "tokenizer": tokenizer})


def _set(values: dict[str, Any], dotted: str, text: str) -> None:
    """Set a key, given with those around it; a key that no recipe has is refused when the recipe is checked."""
    *around, last = dotted.split(".")
    for key in around:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {dotted}: {key!r} holds a value, not keys. Set {key!r} itself.")
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {dotted}={text}: this is not YAML ({' '.join(str(error).split())}).") from error


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
