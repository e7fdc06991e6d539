"""Configuration: YAML in, frozen pydantic models out; unknown keys are refused with the nearest known one."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from schemas.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


class StrictModel(BaseModel):
    """Base of every configuration: frozen, and no key is ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, values: Any) -> Any:
        """`kinds: detail` means `kinds: [detail]`."""
        if not isinstance(values, dict):
            return values
        return {
            name: (value,) if isinstance(value, str | int | float) and _is_list(cls.model_fields.get(name)) else value
            for name, value in values.items()
        }


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, of which YAML readers keep the last: a source of a mix would vanish."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return node


def load_yaml(path: str | Path, model: type[Model]) -> Model:
    """Read one YAML file into `model`; raises InputError naming the file, the key and the remedy."""
    return parse(read_yaml(path), model, where=str(path))


_MOST_ENTRIES = 200_000
_MOST_BYTES = 4 << 20
"""Of a YAML file. It is read in Python, a megabyte in seconds; the longest published recipe has 2 KB."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises InputError when it is missing, broken, or not a mapping."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give the path of a YAML recipe.")
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise InputError(f"{path}: {size} bytes, expected at most {_MOST_BYTES}: this is not a recipe.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_EachKeyOnce)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}.")
    if _entries(content, _MOST_ENTRIES) > _MOST_ENTRIES:
        raise InputError(
            f"{path}: more than {_MOST_ENTRIES} entries, with aliases (`*name`) written out. Leave them out."
        )
    return content


def _entries(value: Any, most: int) -> int:
    """How many values there are, each alias counted wherever it occurs; counting ends above `most`.

    Nested aliases make a few lines of YAML into more values than there is memory, at the first copy.
    """
    waiting, count = [value], 0
    while waiting and count <= most:
        one = waiting.pop()
        inner = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
        count += 1 + len(inner)
        waiting.extend(inner)
    return count


def parse(values: dict[str, Any], model: type[Model], where: str) -> Model:
    """Validate `values` as `model`; every problem is reported in one InputError, one line each."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [f"{where}: {_explain(problem, model)}" for problem in error.errors()]
        raise InputError("\n".join(lines)) from error


def substitute(value: Any, variables: dict[str, str], where: str) -> Any:
    """`value` with every `${name}` replaced, in nested lists and mappings too."""
    if isinstance(value, dict):
        return {key: substitute(inner, variables, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [substitute(inner, variables, where) for inner in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match) -> str:
        if match[1] not in variables:
            raise InputError(f"{where}: no variable ${{{match[1]}}}. {nearest(match[1], list(variables))}")
        return variables[match[1]]

    return re.sub(r"\$\{(\w+)\}", found, value)


def nearest(word: str, known: list[str]) -> str:
    """A remedy for a misspelt word: the nearest known one, or all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known)) or 'none'}."


def _explain(problem: Any, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"unknown key {where!r}. {nearest(str(problem['loc'][-1]), _known_keys(model, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"the key {where!r} is missing."
    found = repr(problem.get("input"))
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where or 'value'}: {message} (found {found if len(found) < 80 else found[:77] + '...'})."


def _is_list(field: Any) -> bool:
    """Whether a field takes any number of plain values and no single one (`tuple[str, ...]`, `list[int] | None`)."""
    annotation = field.annotation if field else None
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    if any(kind in (str, int, float, Any) for kind in kinds):
        return False
    return any(get_origin(kind) is list or Ellipsis in get_args(kind) for kind in kinds)


def _known_keys(model: Any, where: tuple) -> list[str]:
    """Field names of the model at `where` (list indexes and union tags are stepped over)."""
    for part in where:
        field = model.model_fields.get(part) if isinstance(part, str) and hasattr(model, "model_fields") else None
        if field is not None:
            model = next(iter(_models_in(field.annotation)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _models_in(inner)]
