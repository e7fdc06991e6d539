"""`lavabeam review`: pairwise review by a judge, summaries, and MM-Vet grading.

And `lavabeam evaluate compare`, beside evaluating.py's `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from lavabeam.cli import evaluating
from lavabeam.cli.asking import print_asked
from lavabeam.cli.options import ModelCommand, UsualGroup
from lavabeam.cli.outcome import UNUSABLE
from lavabeam.cli.output import print_json, print_table, say, statuses_text
from lavabeam.cli.previews import print_estimate

_JSON = click.Option(["--json", "as_json"], is_flag=True, help="Print JSON instead of a table.")
_DRY_RUN = click.Option(["--dry-run"], is_flag=True, help="Show the requests and their cost; send nothing.")
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.group(
    cls=UsualGroup,
    usual="pairs",
    explains_itself=True,
    subcommand_metavar="QUESTIONS ANSWERS REFERENCE [OPTIONS] | COMMAND ...",
)
def review() -> None:
    """GPT-assisted evaluation: an LLM compares ANSWERS with those of REFERENCE.

    `lavabeam review QUESTIONS ANSWERS REFERENCE --output DIR --model MODEL` is short for `lavabeam review pairs ...`,
    whose --help lists all options. Then: `lavabeam review summary DIR`.
    """


def _pairs_settings() -> Any:
    from lavabeam.evaluation.review.run import ReviewSettings

    return ReviewSettings


def _pairs(config: dict, arguments: list[str], questions: Path, answers: Path, reference: Path, **given: Any) -> None:
    from lavabeam.evaluation.review.run import Task, estimate
    from lavabeam.evaluation.review.run import review as run
    from schemas.config import parse

    output = given["output"]
    task = Task.read(questions, answers, reference, parse(config, _pairs_settings(), "lavabeam review"))
    if given["dry_run"]:
        return _print_estimate(estimate(task), given["as_json"])
    statuses, asked = run(task, output)
    return _finish(output, statuses, asked, given["as_json"], f"lavabeam review summary {output}")


def _grade_settings() -> Any:
    from lavabeam.evaluation.review.mmvet import GradeSettings

    return GradeSettings


def _grade(config: dict, arguments: list[str], answers: Path, truth: Path, **given: Any) -> None:
    from lavabeam.evaluation.review.mmvet import estimate, grade, read_answers
    from schemas.config import parse

    settings, output = parse(config, _grade_settings(), "lavabeam review mm-vet"), given["output"]
    rows = read_answers(answers, truth)
    if given["dry_run"]:
        return _print_estimate(estimate(rows, settings), given["as_json"])
    statuses, asked = grade(rows, settings, output)
    return _finish(
        output, statuses, asked, given["as_json"], f"lavabeam evaluate mm-vet {answers} --reviews {output} ..."
    )


review.add_command(
    ModelCommand(
        "pairs",
        _pairs_settings,
        _pairs,
        [
            click.Argument(["questions"], type=_FILE),
            click.Argument(["answers"], type=_FILE),
            click.Argument(["reference"], type=_FILE),
            click.Option(["--output"], type=Path, required=True, help="The folder of the review files."),
            _DRY_RUN,
            _JSON,
        ],
        "Judge ANSWERS to QUESTIONS beside those of REFERENCE, which stands first.\n\nAll are JSON lines with "
        "question_id and text, questions with image and category too. An answer of the judge without two scores is "
        "asked for again, then a status. After a kill the same command goes on; nothing is asked twice.",
    )
)
review.add_command(
    ModelCommand(
        "mm-vet",
        _grade_settings,
        _grade,
        [
            click.Argument(["answers"], type=_FILE),
            click.Argument(["truth"], type=_FILE),
            click.Option(["--output"], type=Path, required=True, help="The grade file to write (JSON)."),
            _DRY_RUN,
            _JSON,
        ],
        "Grade MM-Vet's ANSWERS from 0 to 1 against TRUTH (mm-vet.json).\n\nANSWERS: JSON lines with question_id and "
        "text, or the upload file. The grade file is that of the official evaluator.",
    )
)


@review.command("summary")
@click.argument("paths", nargs=-1, required=True, type=Path)
@click.option("--ignore", multiple=True, metavar="ID", help="Leave out this question. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def review_summary(paths: tuple[Path, ...], ignore: tuple[str, ...], as_json: bool) -> None:
    """Summarise review files, or folders of them: scores relative to the reference's.

    Per category: mean of the second scores over mean of the first, x 100. Several runs over the same answers are
    reported with mean and spread. Reads LLaVA's review files too.
    """
    from lavabeam.evaluation.review.summary import summarise

    found = summarise(paths, ignore)
    if as_json:
        return print_json(found)
    for one in found["files"]:
        _print_file(one)
    for one in found["runs"]:
        _print_runs(one)
    return None


_COLUMNS = ("category", "reviews", "relative", "reference x 10", "answers x 10", "without scores")


def _print_file(one: Mapping[str, Any]) -> None:
    rows = [
        (name, of["reviews"], *(_tenths(of[key]) for key in ("published", "first", "second")), of["unreadable"])
        for name, of in one["categories"].items()
    ]
    print_table(_COLUMNS, rows, title=one["file"])
    lacking = one["categories"]["all"]["unreadable"]
    if lacking:
        say(
            f"lavabeam: {one['file']}: {lacking} reviews without scores are excluded; `detail` has the reason.",
            err=True,
        )
    bias = one.get("position")
    if bias and bias["questions"]:
        say(
            f"Both orders, {bias['questions']} questions: an answer gains {bias['first_gains']:+.2f} points by "
            f"standing first, and in {bias['changed']:.1%} the winner changes with the order."
        )


def _print_runs(one: Mapping[str, Any]) -> None:
    names = ("mean", "deviation", "least", "most")
    rows = [(name, of["runs"], *(_tenths(of[key]) for key in names)) for name, of in one["categories"].items()]
    title = f"\n{len(one['files'])} runs over the same answers: relative score"
    print_table(("category", "runs", "mean", "deviation", "least", "most"), rows, title=title)


def _tenths(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _print_estimate(estimate: dict[str, Any], as_json: bool) -> None:
    return print_json(estimate) if as_json else print_estimate("", estimate)


def _finish(output: Path, statuses: dict[str, int], asked: dict[str, Any], as_json: bool, then: str) -> None:
    """What was judged, what it cost, why some have no judgement; 3 when none has one."""
    if as_json:
        print_json({"output": str(output), "statuses": statuses, **asked})
    else:
        following = f" Next: {then}" if statuses.get("ok") else ""
        say(f"{output}: {sum(statuses.values())} judgements: {statuses_text(statuses)}.{following}")
    print_asked("review", asked, as_json)
    if not as_json and (lacking := sum(statuses.values()) - statuses.get("ok", 0)):
        say(
            f"lavabeam: {lacking} without a judgement are excluded from means; their `detail` has the reason.", err=True
        )
    if not statuses.get("ok"):
        click.get_current_context().exit(UNUSABLE)


evaluate = UsualGroup(
    "evaluate",
    usual="benchmark",
    commands={"benchmark": evaluating.evaluate},
    short_help="Run and score one benchmark, or compare two evaluations.",
)


@evaluate.command("compare")
@click.argument("first", type=Path)
@click.argument("second", type=Path)
@click.option("--out", type=Path, help="The HTML page to write.  [default: compare.html in SECOND]")
@click.option("--images", type=Path, help="The folder or dataset of the images, if it was moved.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate_compare(first: Path, second: Path, out: Path | None, images: Path | None, as_json: bool) -> None:
    """Compare two evaluations question by question.

    FIRST and SECOND are the --output folders of `lavabeam evaluate` on the same questions. McNemar's exact test is
    applied to the questions that only one model has right; the page shows them with their images.
    """
    from lavabeam.evaluation.report.after import pictures_of
    from lavabeam.evaluation.report.compare import compare
    from lavabeam.evaluation.report.page import write_comparison
    from lavabeam.evaluation.report.results import Results

    found = compare(Results.read(first), Results.read(second))
    page = write_comparison(found, out or second / "compare.html", pictures_of(found.first, images))
    report = {**found.report(), "page": str(page)}
    if as_json:
        return print_json(report)
    rows = [
        (
            name,
            of["questions"],
            *(_tenths(of[key]) for key in ("first", "second", "difference")),
            f"{of['low']:+.1f} to {of['high']:+.1f}",
            of["only_first"],
            of["only_second"],
            f"{of['p']:.4g}",
        )
        for name, of in report["categories"].items()
    ]
    columns = ("category", "questions", "first", "second", "difference", "95% interval")
    print_table((*columns, "only first", "only second", "p"), rows, title=f"{report['benchmark']}, {report['test']}")
    if report["unscored"]:
        say(f"lavabeam: {report['unscored']} questions have no score in one of the two, and are left out", err=True)
    return say(f"page: {page}")
