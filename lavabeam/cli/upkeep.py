"""Dataset maintenance: rollback, and gc, the only command that deletes."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import click

from lavabeam.cli.output import one_line, print_json, print_table, say

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Duration(click.ParamType):
    """`7d` -> seconds; units are s, m, h, d, w."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value))
        if not found:
            self.fail(f"{value!r}: expected a number and one of s, m, h, d, w, such as 7d.", param, ctx)
        return float(found.group(1)) * _UNITS[found.group(2)]


@click.command()
@click.argument("dataset")
@click.option("--keep", type=click.IntRange(min=1), help="Remove all versions but the newest KEEP.")
@click.option(
    "--older-than", type=Duration(), help="Remove versions committed longer ago, such as 7d; never the newest."
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed; remove nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def gc(dataset: str, keep: int | None, older_than: float | None, dry_run: bool, as_json: bool) -> None:
    """Remove unreferenced files of DATASET.

    This includes unfinished and uncommitted files of killed runs: restart a run first if you want to keep its work.
    Versions are removed only with --keep or --older-than. Everything that a live run may need stays.
    """
    from schemas.garbage import collect
    from schemas.store import Store

    if keep is not None and older_than is not None:
        raise click.UsageError("Give --keep or --older-than, not both.")
    found = collect(Store(dataset), keep, older_than, dry_run)
    if as_json:
        return print_json({**asdict(found), "bytes": found.bytes, "dry_run": dry_run})
    for note in found.notes:
        say(one_line(note), err=True)
    kinds = {
        "column files": found.files,
        "chunks of lists": found.chunks,
        "unfinished files": found.temporaries,
        "run logs": found.logs,
    }
    rows: list[tuple[str, int, int | None]] = [("versions", len(found.manifests), None)]
    rows += [(kind, len(files), sum(files.values())) for kind, files in kinds.items()]
    print_table(("what", "files", "bytes"), rows)
    done = "would be" if dry_run else "were"
    numbers = f" Versions: {', '.join(map(str, found.manifests))}." if found.manifests else ""
    say(f"{found.bytes} bytes {done} freed.{numbers}")
    return None


@click.command()
@click.argument("dataset")
@click.option("--to", type=int, required=True, help="The version number to restore; `lavabeam log` lists them.")
@click.option("--dry-run", is_flag=True, help="Show what would change; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rollback(dataset: str, to: int, dry_run: bool, as_json: bool) -> None:
    """Restore an older version of DATASET.

    Its content is committed as the next version: no version is removed, so a rollback can itself be undone.
    """
    from schemas.rollback import roll_back
    from schemas.store import Store

    done = roll_back(Store(dataset), to, dry_run)
    if as_json:
        return print_json({**asdict(done), "dry_run": dry_run})
    if done.number == done.before:
        return say(f"{dataset}: manifest {done.before} has the same content as manifest {to}. Nothing to do.")
    will = "would be" if dry_run else "is"
    lost = f"; without {', '.join(done.lost)}" if done.lost else ""
    say(
        f"{dataset}: manifest {done.number} {will} manifest {to}: {done.rows} rows (manifest {done.before}: "
        f"{done.rows_before}), {', '.join(done.names) or 'no files'}{lost}"
    )
    return None
