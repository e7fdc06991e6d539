"""Commands whose options are the fields of a step's configuration, which is loaded only when needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
import yaml


class BeamCommand(click.Command):
    """A command whose arguments after `--` go to Beam (`beam_arguments(ctx)`); any other surplus word is refused.

    With a `--runner` it also has the options of Dataflow, which `runner_options(ctx)` gives. Where a step has an option
    of that name, the step's comes first, and Beam's own flag goes after `--`.
    """

    _of_dataflow: Sequence[click.Option] = ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        names = {param.name for param in own}
        if "runner" not in names:
            return own
        if not self._of_dataflow:
            fields = _dataflow_fields()
            self._of_dataflow = [_option(name, field) for name, field in fields.items() if name not in names]
        return [*own, *self._of_dataflow]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists Dataflow's options in a separate section."""
        params = self.get_params(ctx)
        for title, listed in (
            ("Options", [param for param in params if param not in self._of_dataflow]),
            ("Options of --runner dataflow", self._of_dataflow),
        ):
            records = [record for param in listed if (record := param.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def invoke(self, ctx: click.Context) -> Any:
        given = {str(option.name): ctx.params.pop(str(option.name)) for option in self._of_dataflow}
        fields = _dataflow_fields() if given else {}
        values = {name: _value(name, fields[name], one) for name, one in given.items()}
        ctx.meta[_DATAFLOW] = {name: value for name, value in values.items() if value is not _ABSENT}
        return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, behind = (args[: args.index("--")], args[args.index("--") + 1 :]) if "--" in args else (args, [])
        ctx.meta[_BEHIND] = behind
        try:
            return super().parse_args(ctx, own)
        except click.UsageError as error:
            if "unexpected extra argument" in error.message:
                raise click.UsageError(f"{error.message}{_SURPLUS}", ctx) from error
            raise


_BEHIND = "lavabeam.beam_arguments"
_DATAFLOW = "lavabeam.dataflow_options"
_ABSENT = object()
_SURPLUS = (
    ". Quote a pattern such as '*.json', which the shell expands otherwise; repeat an option to give it several "
    "values; options for Beam go after --."
)


def beam_arguments(ctx: click.Context) -> list[str]:
    """The arguments after `--`."""
    return list(ctx.meta[_BEHIND])


def runner_options(ctx: click.Context) -> dict[str, Any]:
    """The options of Dataflow that were given, by field."""
    return dict(ctx.meta[_DATAFLOW])


def _dataflow_fields() -> dict[str, Any]:
    from pipelines.engine.dataflow import DataflowConfig

    return DataflowConfig.model_fields


class ModelCommand(BeamCommand):
    """A command with one option per field of `model()`; the callback gets what was given as `config`.

    The model is loaded when options are parsed or shown, never for the list of commands.
    """

    def __init__(self, name: str, model: Callable[[], Any], callback: Callable, params: list, help: str):
        super().__init__(name, callback=callback, params=params, help=help)
        self._model = model
        self._fields: list[click.Option] = []

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._fields:
            self._fields = [_option(name, field) for name, field in self._model().model_fields.items()]
            self.params = [*self.params, *self._fields]
        return super().get_params(ctx)

    def invoke(self, ctx: click.Context) -> Any:
        given = {str(option.name): ctx.params.pop(str(option.name)) for option in self._fields}
        fields = self._model().model_fields
        config = {name: _value(name, fields[name], values) for name, values in given.items()}
        ctx.params["config"] = {name: value for name, value in config.items() if value is not _ABSENT}
        ctx.params["arguments"] = beam_arguments(ctx)
        return super().invoke(ctx)


class LazyGroup(click.Group):
    """A group that also has the commands of `more`: name -> function that builds the command."""

    def more(self) -> dict[str, Callable[[], click.Command]]:
        return {}

    def order(self) -> tuple[str, ...]:
        """The names in the order in which help lists them; others follow."""
        return ()

    def list_commands(self, ctx: click.Context) -> list[str]:
        known, order = {**self.commands, **self.more()}, self.order()
        return sorted(known, key=lambda name: order.index(name) if name in order else len(order))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is None and cmd_name in (more := self.more()):
            return more[cmd_name]()
        return own


class UsualGroup(click.Group):
    """A group with one command that needs no name: words that name no other command are that one's.

    explains_itself: `--help` alone is the group's; else it is the usual command's.
    """

    def __init__(self, *args: Any, usual: str, explains_itself: bool = False, **named: Any):
        super().__init__(*args, **named)
        self.usual, self.explains_itself = usual, explains_itself

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = self.explains_itself and args[:1] in ([], ["--help"])
        if not own and (not args or args[0] not in self.commands):
            args = [self.usual, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The usual command is called as the group is, so its messages name the group alone."""
        name, command, rest = super().resolve_command(ctx, args)
        return ("" if name == self.usual else name), command, rest


def _option(name: str, field: Any) -> click.Option:
    """One field as an option. Structured values are written as YAML: `--kinds '[detail, reasoning]'`."""
    flag = "--" + name.replace("_", "-")
    kind, *others = _kinds(field.annotation)
    words = " ".join((field.description or "").split())
    shown = "required" if field.is_required() else f"default: {_default(field)}"
    words = f"{words}  [{shown}]" if words else f"[{shown}]"
    if kind is bool and not others:
        return click.Option([f"{flag}/--no-{flag[2:]}", name], help=words, default=None)
    if get_origin(kind) is Literal and not others:
        choices = click.Choice([str(arg) for arg in get_args(kind)])
        return click.Option([flag, name], help=words, type=choices, multiple=True)
    metavar = {int: "NUMBER", float: "NUMBER", str: "TEXT"}.get(kind, "YAML")
    if others:
        metavar = "TEXT" if str in (kind, *others) else "YAML"
    # Every option may be repeated for click: `_value` collects, or refuses where one value is taken.
    return click.Option([flag, name], help=words, metavar=metavar, multiple=True)


def _value(name: str, field: Any, given: Any) -> Any:
    """What pydantic gets of an option's values: lists and mappings collect, anything else is given once."""
    if not isinstance(given, tuple):
        return _ABSENT if given is None else given
    if not given:
        return _ABSENT
    kinds = _kinds(field.annotation)
    values = [_parsed(value, kinds) for value in given]
    if any(_collects(kind) for kind in kinds):
        if len(values) == 1:
            return values[0]
        return [one for value in values for one in (value if isinstance(value, list) else [value])]
    if len(values) == 1:
        return values[0]
    if any((get_origin(kind) or kind) is dict for kind in kinds) and all(isinstance(value, dict) for value in values):
        return {key: inner for value in values for key, inner in value.items()}
    raise click.UsageError(f"--{name.replace('_', '-')} is given {len(values)} times; it takes one value.")


def parsed_setting(model: Any, dotted: str, value: str) -> Any:
    """The value of `--set DOTTED=VALUE` for a key of `model`: text stays as it is, anything else is YAML.

    `null` removes what the recipe gives for a key that may be left out.
    """
    name, _, rest = dotted.partition(".")
    field = getattr(model, "model_fields", {}).get(name)
    kinds = _kinds(field.annotation) if field is not None else []
    if rest:
        inner = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
        return parsed_setting(inner, rest, value)
    if value == "null" and type(None) in get_args(field.annotation if field is not None else None):
        return None
    return _parsed(value, kinds or [Any])


def _collects(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (list, tuple)


def _parsed(value: str, kinds: list[Any]) -> Any:
    """A field of text takes the word as it is; elsewhere it is YAML: `[a, b]`, `{a: 1}`, a number, null."""
    single = [kind for kind in kinds if not _collects(kind)]
    elements = [part for kind in kinds if _collects(kind) for part in get_args(kind) if part is not ...]
    is_text = all(kind is str for kind in (*single, *elements))
    if is_text and not (elements and value.lstrip().startswith("[")):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _kinds(annotation: Any) -> list[Any]:
    """The types that a field takes, without None; an Annotated type as what it annotates."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for part in get_args(annotation) for kind in _kinds(part) if kind is not type(None)]
    return [annotation]


def _default(field: Any) -> str:
    """The default as one would write it on the command line."""
    value = _plain(field.get_default(call_default_factory=True))
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()
    return "none" if value is None else str(value)


def _plain(value: Any) -> Any:
    """Nested models, enums and tuples as mappings, values and lists; of models only what differs from its default."""
    if hasattr(value, "model_fields_set"):
        return {name: _plain(getattr(value, name)) for name in value.model_fields_set}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return getattr(value, "value", value)
