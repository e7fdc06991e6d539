"""Data recipes: a YAML list of steps. Everything is validated before anything runs; then only missing work runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines import catalog
from pipelines.engine.imports import Other, preview_import, run_import
from pipelines.engine.preview import Preview
from pipelines.engine.recorded import TRANSIENT, check_words, known_words, own_words, recorded_options
from pipelines.engine.runners import Runner
from pipelines.engine.step import Derive, Needs, Step
from pipelines.engine.summary import RunSummary
from pipelines.engine.work import preview_derive, preview_step, run_derive, run_step
from pipelines.llm.asks import AsksLlm
from pipelines.mix import load_mix, preview_mix, run_mix
from pipelines.mix.recipe import resolve
from schemas.config import StrictModel, nearest, parse, read_yaml, substitute
from schemas.errors import InputError


class RecipeFile(StrictModel):
    """A data recipe: a list of steps."""

    name: str = ""
    """For documentation only."""
    variables: dict[str, str] = Field({}, description="defaults of ${name}, which --set name=value overrides")
    steps: list[dict[str, dict[str, Any]]]
    """The steps in the order in which they run: each is a step name with its keys."""


class ImportOrder(StrictModel):
    to: str
    """The dataset to make or add to."""
    importer: str
    """One of the importers below; its keys go next to this one."""
    append: bool = Field(False, description="add the rows of a new source after the existing ones")
    replace: bool = Field(False, description="let the source replace all existing rows")
    config: dict[str, Any] = Field(default_factory=dict)


class StepOrder(StrictModel):
    dataset: str
    """The dataset to process."""
    to: str | None = None
    """The dataset to create; only for steps that create one."""
    config: dict[str, Any] = Field(default_factory=dict)


class MixOrder(StrictModel):
    to: str
    """The samples dataset to make."""
    recipe: str
    """The YAML file of the mix, relative to this recipe."""


@dataclass(frozen=True)
class Action:
    """A validated step of a recipe: `run(runner, retry)` runs it, `preview(retry)` describes what it would do."""

    step: str
    title: str
    run: Callable[[Runner, str], RunSummary]
    preview: Callable[[str], Preview]
    target: str
    """The dataset that it writes."""
    reads: tuple[str, ...] = ()
    """Other datasets that must exist before."""
    retries: tuple[str, ...] = ()
    """The values that `--retry` accepts for it."""
    check: Callable[[str], object] = str
    """Called with `retry` before anything runs; raises InputError for options that differ from the recorded ones."""
    admit: Callable[[Runner], object] = str
    """Called before anything runs; raises InputError for a runner that cannot do this line's work."""
    estimate: Callable[[str], dict[str, Any] | None] = lambda retry: None
    """Its LLM requests and their cost with `retry`; None if it makes none."""


def load_recipe(path: str | Path, folder: str | Path, variables: dict[str, str] | None = None) -> list[Action]:
    """Read a data recipe whose datasets are in `folder`. Raises InputError naming file, line of the list and key."""
    values = read_yaml(path)
    recipe = parse(values, RecipeFile, where=str(path))
    unknown = [name for name in variables or {} if name not in recipe.variables]
    if unknown:
        raise InputError(f"{path}: no variable {unknown[0]!r}. {nearest(unknown[0], list(recipe.variables))}")
    known = {**recipe.variables, **(variables or {})}
    actions = []
    for number, line in enumerate(substitute(recipe.steps, known, str(path)), 1):
        if len(line) != 1:
            raise InputError(f"{path}: step {number}: expected one step name, found {', '.join(line) or 'nothing'}.")
        ((name, order),) = line.items()
        actions.append(_action(name, order, f"{path}: step {number} ({name})", Path(path).parent, folder, known))
    return actions


def run_recipe(actions: list[Action], runner: Runner, retry: str = "") -> Iterator[RunSummary]:
    """Run the actions in order, yielding the summary of each. With dask, one cluster serves them all.

    Each takes the statuses of `retry` that it has. Raises InputError, before anything runs, for one that none has.
    """
    check_retry(actions, retry)
    runner.check()
    for action in actions:
        action.admit(runner)
    with runner.session() as session:
        for action in actions:
            yield action.run(session, retry)


def preview_recipe(actions: list[Action], retry: str = "") -> Iterator[tuple[Preview, dict[str, Any] | None]]:
    """What `run_recipe` would do, and ask of an LLM, line by line.

    A line that depends on rows that an earlier one makes is not known yet: its preview says which line that is.
    """
    check_retry(actions, retry)
    pending: dict[str, str] = {}
    for number, action in enumerate(actions, 1):
        waits = next((pending[path] for path in (action.target, *action.reads) if path in pending), "")
        one = Preview(action.step, action.target, after=waits) if waits else action.preview(retry)
        yield one, None if waits else action.estimate(retry)
        for part in (one, *one.parts):
            if waits or part.made or part.retried or part.removed:
                pending.setdefault(part.dataset, f"line {number} ({action.title})")


def check_retry(actions: list[Action], retry: str) -> None:
    """Raises InputError for a status that no action has, and for options that differ from the recorded ones."""
    known = dict.fromkeys([TRANSIENT, *(word for action in actions for word in action.retries)])
    check_words(retry, known, "the recipe")
    for action in actions if retry else ():
        action.check(retry)


def other_source(append: bool, replace: bool, where: str) -> Other:
    """What the two flags of an import mean; raises InputError for both."""
    if append and replace:
        raise InputError(f"{where}: append and replace exclude each other.")
    return "append" if append else "replace" if replace else "refuse"


def _action(name: str, order: dict, where: str, beside: Path, folder: str | Path, variables: dict) -> Action:
    if name == "import":
        return _import_action(_split(order, ImportOrder, where), where, folder)
    if name == "mix":
        return _mix_action(parse(order, MixOrder, where), where, beside, folder, variables)
    if name not in catalog.steps():
        known = ["import", "mix", *catalog.steps()]
        raise InputError(f"{where}: there is no such step. {nearest(name, known)}")
    return StepLine(catalog.step(name), _split(order, StepOrder, where), where, folder).action()


def _mix_action(order: MixOrder, where: str, beside: Path, folder: str | Path, variables: dict) -> Action:
    path, target = beside / order.recipe, resolve(order.to, folder)
    # Without `folder`, because the tokenizer may be made by an earlier line.
    recipe = load_mix(path, variables=variables)
    named = [name for one in recipe.sources.values() for name in (one.conversations, one.images) if name is not None]
    needs = Needs(model_files=(recipe.tokenizer,))
    read = tuple(resolve(name, folder) for name in named)
    return Action(
        "mix",
        f"mix -> {order.to}",
        lambda runner, retry: run_mix(load_mix(path, folder, variables), target, runner),
        lambda retry: preview_mix(load_mix(path, folder, variables), target),
        target,
        read,
        admit=lambda runner: runner.admit(where, needs, (target, *read)),
    )


def _import_action(order: ImportOrder, where: str, folder: str | Path) -> Action:
    kind = catalog.importer(order.importer)
    importer = kind(parse(order.config, kind.Config, where))
    target, other = resolve(order.to, folder), other_source(order.append, order.replace, where)
    return Action(
        "import",
        f"import -> {order.to}",
        lambda runner, retry: run_import(importer, target, runner, other),
        lambda retry: preview_import(importer, target, other),
        target,
        admit=lambda runner: runner.admit(where, Needs(), (target,)),
    )


class StepLine:
    """The line of a step: its class, its options, and the datasets that it reads and makes."""

    def __init__(self, kind: type[Step], order: StepOrder, where: str, folder: str | Path):
        self.kind, self.where = kind, where
        self.derives = issubclass(kind, Derive)
        if not self.derives and order.to is not None:
            raise InputError(f"{where}: `to` belongs to steps that make another dataset; {kind.name} adds columns.")
        if self.derives and order.to is None:
            raise InputError(f"{where}: the key 'to' is missing: {kind.name} makes another dataset.")
        given = {name: order.config[name] for name in kind.datasets if order.config.get(name)}
        resolved = {name: _resolved(value, folder) for name, value in given.items()}
        self.named = [path for value in resolved.values() for path in _paths(value)]
        self.options = {**order.config, **resolved}
        self.source = resolve(order.dataset, folder)
        self.target = resolve(order.to, folder) if order.to is not None else self.source
        self.title = f"{kind.name} {order.dataset}" + (f" -> {order.to}" if order.to is not None else "")
        self.step()

    def action(self) -> Action:
        return Action(
            self.kind.name,
            self.title,
            self.run,
            self.preview,
            self.target,
            reads=(self.source, *self.named),
            retries=tuple(known_words(self.kind)),
            check=self.step,
            admit=self.admit,
            estimate=self.estimate,
        )

    def step(self, retry: str = "") -> Step:
        """Made for the check, and again when its turn comes: it may look at what earlier lines have made."""
        options = self.options
        if own_words(self.kind, retry):
            options = recorded_options(self.kind, options, self.target, self.where)
        return self.kind(parse(options, self.kind.Config, self.where))

    def run(self, runner: Runner, retry: str) -> RunSummary:
        step, own = self.step(retry), own_words(self.kind, retry)
        if isinstance(step, Derive):
            return run_derive(step, self.source, self.target, runner, own)
        return run_step(step, self.source, runner, own)

    def preview(self, retry: str) -> Preview:
        step, own = self.step(retry), own_words(self.kind, retry)
        return (
            preview_derive(step, self.source, self.target, own)
            if isinstance(step, Derive)
            else preview_step(step, self.source, own)
        )

    def admit(self, runner: Runner) -> None:
        runner.admit(self.where, self.step().needs, (self.source, self.target, *self.named))

    def estimate(self, retry: str) -> dict[str, Any] | None:
        step, own = self.step(retry), own_words(self.kind, retry)
        return step.estimate(self.source, self.target, own) if isinstance(step, AsksLlm) else None


def _split(order: dict[str, Any], model: type[StrictModel], where: str) -> Any:
    """The keys that place the step, and the rest, which is the step's own configuration."""
    own = set(model.model_fields) - {"config"}
    placed = {key: value for key, value in order.items() if key in own}
    config = {key: value for key, value in order.items() if key not in own}
    return parse({**placed, "config": config}, model, where)


def _resolved(value: Any, folder: str | Path) -> Any:
    """Where a dataset, or each of several, lies; anything else is for the step's options to refuse."""
    if isinstance(value, str):
        return resolve(value, folder)
    return [_resolved(one, folder) for one in value] if isinstance(value, list) else value


def _paths(value: Any) -> list[str]:
    listed = value if isinstance(value, list) else [value]
    return [one for one in listed if isinstance(one, str)]
