"""The page of recipe keys (docs/recipes.md): what the models of recipes say of their fields, as Markdown.

lavabeam recipes --keys > docs/recipes.md
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.fields import FieldInfo

Row = tuple[str, str, str, str]
"""Key, value, default, meaning."""

_WORDS = {str: "text", int: "whole number", float: "number", bool: "true or false", Any: "anything", type(None): "null"}
_IMAGE = {
    "mode": "`square` (shortest side resized, centre crop), `pad` (to a square, in the mean colour), `anyres` (an "
    "overview and the tiles of the best fitting pinpoint)",
    "image_size": "the tower's, in pixels",
    "patch_size": "the tower's, in pixels",
    "select": "`patch` leaves the tower's class token out, `full` keeps it",
    "pinpoints": "anyres: (width, height) pairs in pixels, or LLaVA-NeXT's text for all sizes in a range of tiles, "
    "such as `(1x1),...,(6x6)`; by default those of LLaVA-NeXT",
    "merge": "anyres: how the tiles' features are combined: `spatial_unpad`, `spatial`, `flat`, "
    "`spatial_unpad_nobase`, `spatial_maxpool2x2`",
    "max_tiles": "the number in LLaVA-NeXT's `anyres_max_9`, which LLaVA-OneVision has: larger feature maps are shrunk "
    "to that many tiles, and several pictures of a row are padded to squares and not cut",
    "class_token": "class tokens of the tower: 1 for CLIP, 0 for SigLIP",
    "unpad_digits": "decimals to which padding is rounded before it is removed; null does not round, as LLaVA's code",
}
_HEAD = """\
# Recipe keys

Every key that a recipe may have, as the models that read recipes say it: `lavabeam recipes --keys` prints this page.
A key that is not here is refused, with the nearest known one. `lavabeam recipes` lists the published recipes,
`lavabeam recipes NAME` prints one to start from.

- [Data recipes](#data-recipes) of `lavabeam run`: the lines [import](#import), {steps} and [mix](#mix)
- [Mixes](#mixes) of `lavabeam mix`
- [Training recipes](#training-recipes) of `lavabeam train`

The options of a command are the same keys: `--image-size 336` is `image_size: 336`. Where a list is expected, one value
stands for a list of one. A dot leads into a mapping: `plan.seed` is `seed` inside `plan`; `*` is any name, or each
element of a list; `engine[labels].top` is `top` where the engine's `name` is `labels`.
"""


def page() -> str:
    """The whole page, with steps and importers of this package alone."""
    from pipelines import catalog

    steps = ", ".join(f"[{name}](#{name})" for name in catalog.STEPS)
    parts = [_HEAD.format(steps=steps), *_data(), *_mixes(), *_training()]
    return "\n".join(parts)


def _data() -> Iterator[str]:
    from pipelines import catalog
    from pipelines.recipes import ImportOrder, MixOrder, RecipeFile, StepOrder

    words = "`lavabeam run RECIPE`. Each element of `steps` is one of the lines below."
    yield _section("## Data recipes", RecipeFile, words)
    words = "`import: {importer: url_list, to: photos, path: urls.csv}`"
    yield _section("### import", ImportOrder, words, hidden="config")
    for name in catalog.IMPORTERS:
        yield _section(f"#### importer: {name}", catalog.importer(name).Config, f"{catalog.IMPORTERS[name].help}.")
    for name, entry in catalog.STEPS.items():
        # Where a step makes another dataset, `to` names it; the others refuse it.
        derives = hasattr(catalog.step(name), "makes")
        placed = [row for row in rows_of(StepOrder) if row[0] != "config" and (derives or row[0] != "to")]
        yield f"### {name}\n\n{entry.help}\n\n{_table([*placed, *rows_of(catalog.step(name).Config)])}"
    yield _section("### mix", MixOrder, "`mix: {recipe: my-mix.yaml, to: finetune}`")


def _mixes() -> Iterator[str]:
    from pipelines.mix.recipe import MixRecipe

    rows = rows_of(MixRecipe)
    image = next(number for number, row in enumerate(rows) if row[0] == "image")
    rows[image + 1 : image + 1] = _image_rows()
    words = "`lavabeam mix RECIPE TARGET`; [mix.md](mix.md) says what is left out of a mix."
    yield f"## Mixes\n\n{words}\n\n{_table(rows)}"


def _training() -> Iterator[str]:
    from trainer.config import Recipe

    words = "`lavabeam train RECIPE`; [training.md](training.md) says what they do."
    yield _section("## Training recipes", Recipe, words)


def _section(title: str, model: type[BaseModel], words: str, hidden: str = "") -> str:
    return f"{title}\n\n{words}\n\n{_table([row for row in rows_of(model) if row[0] != hidden])}"


def rows_of(model: type[BaseModel], under: str = "") -> list[Row]:
    """A row per field, those of inner models behind theirs with dotted keys; at least one."""
    rows: list[Row] = []
    for name, field in model.model_fields.items():
        key, inner = f"{under}{name}", list(_models(field.annotation))
        meaning = field.description or (_first_paragraph(inner[0][1].__doc__) if inner else "")
        rows.append((key, _value(field.annotation), _default(field), " ".join(meaning.split())))
        for path, one in inner:
            rows += rows_of(one, f"{key}{path}.")
    return rows


def _image_rows() -> list[Row]:
    """A row per field of the image rule, which is no pydantic model."""
    from schemas.chat.images import ImageRule

    return [
        (f"image.{one.name}", _value(get_type_hints(ImageRule)[one.name]), f"`{_flow(one.default)}`", _IMAGE[one.name])
        for one in fields(ImageRule)
    ]


def _first_paragraph(text: str | None) -> str:
    return inspect.cleandoc(text or "").split("\n\n", 1)[0]


def _models(annotation: Any, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(path below the key, model) of each model in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        several = annotation.model_fields.get("name")
        chosen = get_args(several.annotation) if several and get_origin(several.annotation) is Literal else ()
        yield (f"{path}[{chosen[0]}]" if chosen else path), annotation
        return
    many = get_origin(annotation) in (list, tuple, dict)
    for inner in get_args(annotation) if get_origin(annotation) is not Literal else ():
        yield from _models(inner, f"{path}.*" if many else path)


def _value(annotation: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        words = _value(inner[0])
    elif origin is Literal:
        words = " or ".join(f"`{one}`" for one in inner)
    elif origin in (Union, UnionType):
        words = " or ".join(dict.fromkeys(map(_value, inner)))
    elif origin is dict:
        words = f"mapping of {_value(inner[0])} to {_value(inner[1])}"
    elif origin is list or (origin is tuple and Ellipsis in inner):
        words = f"list of {_value(inner[0])}"
    elif origin is tuple:
        words = f"[{', '.join(map(_value, inner))}]"
    else:
        words = _WORDS.get(annotation, "mapping")
    return words


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"`{_flow(field.get_default(call_default_factory=True))}`"


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    plain = TypeAdapter(Any, config=ConfigDict(ser_json_inf_nan="constants")).dump_python(value, mode="json")
    text = yaml.safe_dump(plain, default_flow_style=True, width=10_000, sort_keys=False)
    return text.rstrip().removesuffix("...").strip()


def _table(rows: list[Row]) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    lines += [f"| `{key}` | {value} | {default} | {meaning} |" for key, value, default, meaning in rows]
    return "\n".join(lines) + "\n"
