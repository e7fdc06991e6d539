"""Data recipes: a YAML list of steps. Everything is checked before anything runs; then only what is missing runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from pipelines import catalog
from pipelines.engine.runners import Runner
from pipelines.engine.step import Derive, Step
from pipelines.engine.work import RunSummary, run_derive, run_import, run_step
from pipelines.mix import load_mix, run_mix
from pipelines.mix.recipe import place
from schemas.config import StrictModel, nearest, parse, read_yaml, substitute
from schemas.errors import InputError


class RecipeFile(StrictModel):
    """A data recipe: a list of steps."""

    name: str = ""
    variables: dict[str, str] = Field({}, description="defaults of ${name}, which --set name=value overrides")
    steps: list[dict[str, dict[str, Any]]]


class ImportOrder(StrictModel):
    to: str
    importer: str
    config: dict[str, Any] = Field(default_factory=dict)


class StepOrder(StrictModel):
    dataset: str
    to: str | None = None
    config: dict[str, Any] = Field(default_factory=dict)


class MixOrder(StrictModel):
    to: str
    recipe: str


@dataclass(frozen=True)
class Action:
    """One line of a recipe, checked and ready: `run(runner, retry)` does it."""

    title: str
    run: Callable[[Runner, str], RunSummary]


def load_recipe(path: str | Path, folder: str | Path, variables: dict[str, str] | None = None) -> list[Action]:
    """Read a data recipe whose datasets lie in `folder`. Raises InputError naming file, line of the list and key."""
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
    """Run the actions in order, yielding what each did. With dask, one cluster serves them all."""
    with runner.session() as session:
        for action in actions:
            yield action.run(session, retry)


def _action(name: str, order: dict, where: str, beside: Path, folder: str | Path, variables: dict) -> Action:
    if name == "import":
        return _import_action(_split(order, ImportOrder, where), where, folder)
    if name == "mix":
        mix = parse(order, MixOrder, where)
        path = beside / mix.recipe
        load_mix(path, variables=variables)
        return Action(
            f"mix -> {mix.to}",
            lambda runner, retry: run_mix(load_mix(path, folder, variables), place(mix.to, folder), runner),
        )
    if name not in catalog.steps():
        known = ["import", "mix", *catalog.steps()]
        raise InputError(f"{where}: there is no such step. {nearest(name, known)}")
    return _step_action(catalog.step(name), _split(order, StepOrder, where), where, folder)


def _import_action(order: ImportOrder, where: str, folder: str | Path) -> Action:
    kind = catalog.importer(order.importer)
    importer = kind(parse(order.config, kind.Config, where))
    target = place(order.to, folder)
    return Action(f"import -> {order.to}", lambda runner, retry: run_import(importer, target, runner))


def _step_action(kind: type[Step], order: StepOrder, where: str, folder: str | Path) -> Action:
    named = {
        name: place(order.config[name], folder) for name in kind.datasets if isinstance(order.config.get(name), str)
    }

    def step() -> Any:
        """Made for the check, and again when its turn comes: it may look at what earlier lines have made."""
        return kind(parse({**order.config, **named}, kind.Config, where))

    step()
    source = place(order.dataset, folder)
    if not issubclass(kind, Derive):
        if order.to is not None:
            raise InputError(f"{where}: `to` belongs to steps that make another dataset; {kind.name} adds columns.")
        return Action(f"{kind.name} {order.dataset}", lambda runner, retry: run_step(step(), source, runner, retry))
    if order.to is None:
        raise InputError(f"{where}: the key 'to' is missing: {kind.name} makes another dataset.")
    target = place(order.to, folder)
    return Action(
        f"{kind.name} {order.dataset} -> {order.to}",
        lambda runner, retry: run_derive(step(), source, target, runner, retry),
    )


def _split(order: dict[str, Any], model: type[StrictModel], where: str) -> Any:
    """The keys that place the step, and the rest, which is the step's own configuration."""
    own = set(model.model_fields) - {"config"}
    placed = {key: value for key, value in order.items() if key in own}
    config = {key: value for key, value in order.items() if key not in own}
    return parse({**placed, "config": config}, model, where)
