"""Commands whose options are the fields of a step's configuration, read only when the command is used."""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import click
import yaml


class ModelCommand(click.Command):
    """A command with one option per field of `model()`; the callback gets what was given as `config`.

    The model is loaded when options are parsed or shown, never for the list of commands.
    """

    def __init__(self, name: str, model: Callable[[], Any], callback: Callable, params: list, help: str):
        super().__init__(name, callback=callback, params=params, help=help, context_settings=EXTRA_ARGUMENTS)
        self._model = model
        self._fields: list[click.Option] = []

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._fields:
            self._fields = [_option(name, field) for name, field in self._model().model_fields.items()]
            self.params = [*self.params, *self._fields]
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        given = {str(option.name): ctx.params.pop(str(option.name)) for option in self._fields}
        ctx.params["config"] = {name: _parsed(value) for name, value in given.items() if value is not None}
        ctx.params["arguments"] = list(ctx.args)
        return super().invoke(ctx)


EXTRA_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": False}
"""What stands after `--` goes to Beam."""


class LazyGroup(click.Group):
    """A group that also has the commands of `more`: name -> function that builds the command."""

    more: ClassVar[dict[str, Callable[[], click.Command]]] = {}
    order: ClassVar[tuple[str, ...]] = ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        known = {**self.commands, **self.more}
        return sorted(known, key=lambda name: self.order.index(name) if name in self.order else len(self.order))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.more:
            return self.more[cmd_name]()
        return super().get_command(ctx, cmd_name)


def _option(name: str, field: Any) -> click.Option:
    """One field as an option. Values that are no plain words are written as YAML: `--kinds '[detail, reasoning]'`."""
    flag = "--" + name.replace("_", "-")
    kind, *others = _kinds(field.annotation)
    told = " ".join((field.description or "").split())
    shown = "required" if field.is_required() else f"default: {_default(field)}"
    told = f"{told}  [{shown}]" if told else f"[{shown}]"
    if others:
        return click.Option([flag, name], help=told, metavar="TEXT" if str in (kind, *others) else "YAML")
    if kind is bool:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], help=told, default=None)
    if get_origin(kind) is Literal:
        return click.Option([flag, name], help=told, type=click.Choice([str(arg) for arg in get_args(kind)]))
    metavar = {int: "NUMBER", float: "NUMBER", str: "TEXT"}.get(kind, "YAML")
    return click.Option([flag, name], help=told, metavar=metavar)


def _kinds(annotation: Any) -> list[Any]:
    """The types that a field takes, without None; an Annotated type as what it annotates."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part) if kind is not type(None)]
    return [annotation]


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    return str(getattr(value, "value", value))


def _parsed(value: Any) -> Any:
    """What pydantic shall see: a word stays text, `[a, b]`, `{a: 1}`, numbers and null become what they look like."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value
