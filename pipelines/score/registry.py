"""The scorers by name. Importing this file imports none of them.

Those of installed packages are entry points of the group `lavabeam.scorers`; a name of ours is never replaced.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from pipelines.models.batches import one_line
from pipelines.score.scorer import Scorer, Settings
from schemas.config import nearest, parse
from schemas.errors import InputError

GROUP = "lavabeam.scorers"
SCORERS = {
    "resolution": "pipelines.score.pixels:Resolution",
    "aspect": "pipelines.score.pixels:Aspect",
    "blur": "pipelines.score.pixels:Blur",
    "entropy": "pipelines.score.pixels:Entropy",
    "colourfulness": "pipelines.score.pixels:Colourfulness",
    "text_share": "pipelines.score.pixels:TextShare",
    "length": "pipelines.score.texts:Length",
    "repetition": "pipelines.score.texts:Repetition",
    "url_share": "pipelines.score.texts:UrlShare",
    "language": "pipelines.score.texts:Language",
    "similarity": "pipelines.score.similarity:Similarity",
    "nsfw": "pipelines.score.classifier:Nsfw",
    "aesthetic": "pipelines.score.aesthetic:Aesthetic",
}
DEFAULT = "resolution,aspect,blur,entropy,colourfulness,text_share"
"""Those that a picture alone is enough for."""


def scorer(name: str) -> type[Scorer[Any]]:
    """The class of scorer `name`; raises InputError naming the nearest one, or the package that is broken."""
    if name in SCORERS:
        return _loaded(SCORERS[name])
    installed = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in installed:
        raise InputError(f"no scorer {name!r}. {nearest(name, [*SCORERS, *installed])}")
    try:
        found = installed[name].load()
    except Exception as error:  # a package may raise anything while it is imported
        where = f"scorer {name!r}: {installed[name].value}"
        raise InputError(f"{where} cannot be loaded ({one_line(error)}). Repair or uninstall the package.") from error
    if not (isinstance(found, type) and issubclass(found, Scorer)) or getattr(found, "name", None) != name:
        raise InputError(f"scorer {name!r}: {installed[name].value} is not a Scorer named {name!r}.")
    return found


def settings_of(values: Any) -> tuple[Settings, ...]:
    """`"blur,aspect"`, `["blur", {"name": "nsfw", "model": ...}]` -> the settings of each scorer.

    Raises InputError for what is neither, for an unknown scorer and for an option that it does not have.
    """
    listed = values if isinstance(values, list | tuple) else [values]
    words = [word for one in listed for word in (one.split(",") if isinstance(one, str) else [one])]
    return tuple(_settings(word.strip() if isinstance(word, str) else word) for word in words)


def _settings(word: Any) -> Settings:
    if isinstance(word, Settings):
        return word
    values = {"name": word} if isinstance(word, str) else word
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise InputError(f"scorers: {word!r}: expected a scorer's name, or a mapping with a `name` and its options.")
    return parse(values, scorer(values["name"]).Settings, f"scorer {values['name']}")


def _loaded(location: str) -> type[Scorer[Any]]:
    module, _, name = location.partition(":")
    return getattr(importlib.import_module(module), name)
