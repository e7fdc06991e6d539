"""`lavabeam dataflow template`: write a flex template that starts a recipe on Dataflow."""

from __future__ import annotations

import json
from typing import Any

import click

from lavabeam.cli.data import run
from lavabeam.cli.options import LazyGroup
from lavabeam.cli.output import say

SAID_BY_DATAFLOW = frozenset({"project", "region", "temp_location"})
"""Options of `run` that Dataflow gives each launch of a template by itself."""
LEFT_OUT = frozenset({"runner", "workers", "dry_run"})
"""Options of `run` that mean nothing to a recipe that is started there: the runner is dataflow."""


@click.command()
@click.argument("out", default="-")
@click.option(
    "--image", required=True, help="The pushed container image: it starts the recipe and runs the workers of its jobs."
)
@click.option("--name", default="LavaBeam", help="The name shown in the console.", show_default=True)
def template(out: str, image: str, name: str) -> None:
    """Write the flex template that runs a recipe.

    Its parameters are the options of `lavabeam run`. OUT is a file or an fsspec URL, as gs://BUCKET/lavabeam.json; by
    default the template is printed.
    """
    text = json.dumps(flex_template(image, name), indent=2)
    if out == "-":
        return say(text)
    import fsspec

    with fsspec.open(out, "w") as file:
        file.write(text + "\n")
    return say(out, err=True)


def flex_template(image: str, name: str = "LavaBeam") -> dict[str, Any]:
    """The ContainerSpec of Dataflow's REST API (projects.locations.flexTemplates.launch) as JSON values."""
    return {
        "image": image,
        "sdkInfo": {"language": "PYTHON"},
        "defaultEnvironment": {"sdkContainerImage": image, "maxWorkers": 1},
        "metadata": {
            "name": name,
            "description": "Runs a data recipe: a Dataflow job that starts the job of each step and waits for it.",
            "parameters": [_parameter(param, image) for param in parameters()],
        },
    }


def parameters() -> list[click.Parameter]:
    """Arguments and options of `lavabeam run` that a template takes."""
    context = click.Context(run, info_name="run")
    left_out = SAID_BY_DATAFLOW | LEFT_OUT | {"help"}
    return [param for param in run.get_params(context) if param.name not in left_out]


def words(given: dict[str, str]) -> list[str]:
    """Parameters by name -> the words of `lavabeam run`. A flag is there for `true` and not for `false`."""
    made: list[str] = []
    for param in parameters():
        value = given.get(str(param.name), "")
        if not value:
            continue
        if isinstance(param, click.Argument):
            made.append(value)
        elif isinstance(param, click.Option) and param.is_flag:
            flags = param.opts if value == "true" else param.secondary_opts
            made += flags[:1]
        elif param.name == "settings":
            made += [word for setting in value.split(",") for word in (param.opts[0], setting)]
        else:
            made += [param.opts[0], value]
    return made


def _parameter(param: click.Parameter, image: str) -> dict[str, Any]:
    flag = isinstance(param, click.Option) and param.is_flag
    made: dict[str, Any] = {
        "name": param.name,
        "label": param.opts[0] if isinstance(param, click.Option) else str(param.name).upper(),
        "helpText": _help(param),
        "isOptional": not param.required,
    }
    if flag:
        made["regexes"] = ["^(true|false)$"]
    if param.name == "image":
        made["defaultValue"] = image
    return made


def _help(param: click.Parameter) -> str:
    if param.name == "settings":
        return "name=value for a ${name} of the recipe; several are separated by commas."
    if isinstance(param, click.Option) and param.help:
        return param.help
    return "The path of a recipe in the image, or the name of a published one."


GROUP = LazyGroup("dataflow", help="Files for Google Cloud Dataflow.", commands={"template": template})
