"""`lavabeam serve`: serve checkpoints at one OpenAI-compatible endpoint and manage them at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lavabeam.cli.backends import backend_of, backend_options
from lavabeam.cli.look import json_option
from lavabeam.cli.output import print_json, print_table, say

LOAD = click.option(
    "--load",
    type=click.Choice(["4bit", "8bit"]),
    help="Quantise with bitsandbytes.  [default: bfloat16, on a CPU float32]",
)
DEVICE = click.option("--device", help="cpu, mps, cuda, cuda:0, or cuda:0,1 for several GPUs.  [default: a GPU if any]")
TEMPLATE = click.option(
    "--template", help="The chat template, if a checkpoint does not name the one it was trained with."
)
URL = click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Where `lavabeam serve` runs.")
TOKEN = click.option("--token-file", type=Path, help="The token file that it printed.  [default: that of the port]")


class ServeGroup(click.Group):
    """`serve CHECKPOINT ...` starts a server; `serve add|remove|list` talk to one that runs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["start", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in super().list_commands(ctx) if name != "start"]


@click.group(cls=ServeGroup)
def serve() -> None:
    """Serve checkpoints at one OpenAI-compatible endpoint; add or remove models at run time."""


@serve.command(options_metavar="[OPTIONS]", epilog="While it runs: lavabeam serve add, remove, list (--help).")
@click.argument("checkpoints", nargs=-1, required=True, metavar="[NAME=]CHECKPOINT...")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@LOAD
@DEVICE
@TEMPLATE
@backend_options
@click.option("--api-keys", type=Path, help="A file of API keys, one per line: clients must send one of them.")
@click.option(
    "--running", "most_running", type=click.IntRange(min=1), help="Concurrent requests per model.  [default: 32]"
)
@click.option(
    "--waiting", "most_waiting", type=click.IntRange(min=0), help="Requests that may wait in the queue.  [default: 64]"
)
@click.option(
    "--idle-unload", "idle_seconds", type=float, help="Unload a checkpoint after this many seconds without requests."
)
@click.option(
    "--allow-private-hosts", multiple=True, help="A private host, address or network from which images may be fetched."
)
@click.option("--ui", is_flag=True, help="Also serve a web page that compares models side by side.")
@click.option("--ui-port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 picks a free one.")
@click.option("--record", type=Path, metavar="DATASET", help="Record conversations of the page in DATASET.")
def start(
    checkpoints: tuple[str, ...],
    load: str | None,
    device: str | None,
    template: str | None,
    api_keys: Path | None,
    ui: bool,
    ui_port: int,
    record: Path | None,
    **given: Any,
) -> None:
    """Serve CHECKPOINTs (llava-hf folders, runs, or LoRA adapters) at one OpenAI-compatible endpoint.

    Clients select a model by NAME: by default the folder's name, or its run's. Adapters of one base share its weights.
    NAME=http://HOST:PORT is another OpenAI-compatible server.
    """
    from lavabeam.serving.run import serve as run
    from lavabeam.serving.settings import ServeSettings, parse_specs
    from schemas.config import parse

    if record is not None and not ui:
        raise click.UsageError("--record records conversations of the page. Add --ui.")
    key_env = given.pop("backend_key_env")
    specs = parse_specs(checkpoints, key_env, load=load, device=device, template=template, **backend_of(given))
    values = {name: value for name, value in given.items() if value is not None}
    if api_keys is not None:
        values["api_keys"] = _keys(api_keys)
    settings = parse(values, ServeSettings, "serve")
    run(settings, specs, say, _page(settings, ui_port, record) if ui else None)


@serve.command()
@click.argument("checkpoint", metavar="[NAME=]CHECKPOINT")
@LOAD
@DEVICE
@TEMPLATE
@backend_options
@URL
@TOKEN
def add(checkpoint: str, url: str, token_file: Path | None, backend_key_env: str | None, **given: Any) -> None:
    """Add a checkpoint to a running server, or replace the one with that name once the new one is ready."""
    from lavabeam.serving.administration import Administration
    from lavabeam.serving.settings import parse_specs

    backend = backend_of(given)
    (spec,) = parse_specs([checkpoint], backend_key_env, **given, **backend)
    made = Administration(url, token_file).add(spec)
    say(f"{made['id']}: {made['state']}, {made['family']}, {made['precision']}")


@serve.command()
@click.argument("name")
@URL
@TOKEN
def remove(name: str, url: str, token_file: Path | None) -> None:
    """Remove a model from a running server, once its running requests have ended."""
    from lavabeam.serving.administration import Administration

    Administration(url, token_file).remove(name)
    say(f"{name}: removed")


@serve.command("list")
@URL
@TOKEN
@json_option
def listed(url: str, token_file: Path | None, as_json: bool) -> None:
    """List the models of a running server: names, states, checkpoints."""
    from lavabeam.serving.administration import Administration

    models = Administration(url, token_file).models()
    if as_json:
        return print_json(models)
    columns = ("id", "state", "family", "precision", "questions", "checkpoint", "detail")
    rows = [[{**one, "checkpoint": one["spec"]["checkpoint"]}[column] for column in columns] for one in models]
    return print_table(("name", *columns[1:]), rows)


def _page(settings: Any, port: int, record: Path | None) -> Any:
    from lavabeam.serving.page.settings import PageSettings

    return PageSettings(host=settings.host, port=port, record=record, allow_private_hosts=settings.allow_private_hosts)


def _keys(file: Path) -> tuple[str, ...]:
    from schemas.errors import InputError

    if not file.is_file():
        raise InputError(f"{file}: no such file. Give a file of API keys, one per line.")
    keys = tuple(line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if not keys:
        raise InputError(
            f"{file}: contains no key, so no client could connect. Write one per line, or omit --api-keys."
        )
    return keys
