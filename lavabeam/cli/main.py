"""The `lavabeam` command: maps names to commands and imports a package only when its command runs."""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable
from functools import partial

import click

from lavabeam.cli import (
    cloud,
    curating,
    data,
    evaluating,
    exporting,
    look,
    mixing,
    reviewing,
    scheduling,
    serving,
    talking,
    training,
    upkeep,
)
from lavabeam.cli.options import LazyGroup
from lavabeam.cli.outcome import EXIT_CODES, INTERRUPTED
from lavabeam.cli.output import say
from pipelines import catalog


class Commands(LazyGroup):
    """The commands in the order in which a team uses them; the catalog has their names."""

    def more(self) -> dict[str, Callable[[], click.Command]]:
        return {name: partial(data.step_command, name) for name in catalog.steps()}

    def order(self) -> tuple[str, ...]:
        return (*catalog.BEFORE_STEPS, *catalog.steps(), *catalog.AFTER_STEPS)


@click.group(cls=Commands, context_settings={"max_content_width": 110}, epilog=EXIT_CODES)
@click.version_option(package_name="lavabeam")
def app() -> None:
    """From image URLs to a trained LLaVA. Start with `lavabeam demo`, or `lavabeam run RECIPE`.

    Datasets are folders to which steps add columns: every command does only the missing work.
    """


for command in (
    data.run,
    curating.decontaminate_index,
    mixing.mix,
    data.report,
    exporting.export,
    look.show,
    look.log,
    look.files,
    look.verify,
    look.cache,
):
    app.add_command(command)
for command in (look.recipes, scheduling.dags, upkeep.rollback, upkeep.gc):
    app.add_command(command)
app.add_command(cloud.GROUP)
for command in (
    training.demo,
    training.train,
    reviewing.evaluate,
    reviewing.review,
    evaluating.answer,
    talking.chat,
    serving.serve,
    training.merge,
    training.export_checkpoint,
    training.import_checkpoint,
):
    app.add_command(command)
for command in (training.plan, training.tokens):
    app.add_command(command)
app.add_command(data.ImportGroup("import", help="Import URL lists, LLaVA JSON, archives and more into a dataset."))


def main() -> None:
    """Run the command; our own errors are printed as one message, with their exit code."""
    from schemas.errors import LavaBeamError

    try:
        for line in catalog.refused():
            say(f"lavabeam: {line}", err=True)
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except LavaBeamError as error:
        say(f"lavabeam: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        say(shown.getvalue(), err=True, nl=False)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("lavabeam: interrupted. Run the same command again to continue.", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        say(traceback.format_exc(), err=True, nl=False)
        message = "".join(traceback.format_exception_only(error)).strip().splitlines()[0]
        say(f"lavabeam: this is a bug in lavabeam, not in your input: {message}. Please report it.", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
