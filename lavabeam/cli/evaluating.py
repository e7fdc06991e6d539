"""`lavabeam evaluate` and `lavabeam answer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lavabeam.cli.data import pairs
from lavabeam.cli.lmms import asker_of, check_lmms_options, lmms_options, own_tasks
from lavabeam.cli.look import json_option
from lavabeam.cli.outcome import UNUSABLE
from lavabeam.cli.output import print_json, say, statuses_text
from lavabeam.cli.scores import print_report
from lavabeam.cli.serving import DEVICE, LOAD
from lavabeam.cli.training import print_tree

_FILE = click.Path(path_type=Path)


def _options(*options: Any) -> Any:
    """Several options as one decorator."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


ASKING = _options(
    click.option(
        "--batch",
        type=click.IntRange(min=1),
        help="Batch size.  [default: as many questions as fit into memory, up to 256]",
    ),
    click.option(
        "--processes",
        type=click.IntRange(min=1),
        help="Copies of the model.  [default: one per GPU; one without a GPU]",
    ),
    LOAD,
    DEVICE,
    click.option("--template", help="The chat template, if the checkpoint does not name the one it was trained with."),
    click.option("--model", help="For a server: the name of the model there."),
    click.option(
        "--set",
        "settings",
        multiple=True,
        help="For a server: a request setting, such as concurrency=16 or max_cost=5.",
    ),
)
FILES = _options(
    click.option("--questions", type=_FILE, help="The official file (or folder) of questions."),
    click.option("--images", type=_FILE, help="The folder of the pictures that questions refer to."),
    click.option("--truth", type=_FILE, help="The official file (or folder) of ground truth, if it is public."),
    click.option("--reviews", type=_FILE, multiple=True, help="A judge's reviews or grades; one option per run."),
    click.option("--upload", type=_FILE, help="Write the submission file for the official server or script."),
    click.option(
        "--upload-questions", type=_FILE, help="All questions that the upload must contain (VQAv2: test2015)."
    ),
    click.option("--output", type=_FILE, help="The folder for questions, answers, scores and per-question results."),
)
ALLOWED = _options(
    click.option("--allow-missing", is_flag=True, help="Count questions without an answer as wrong."),
    click.option("--allow-doubled", is_flag=True, help="Use the first of several answers to a question."),
    click.option("--allow-foreign", is_flag=True, help="Ignore answers that match no question."),
    click.option("--allow-unscored", is_flag=True, help="Ignore questions without ground truth."),
)
CUSTOM = _options(
    click.option("--metric", help="For custom: exact, vqa, choice, f1, cider, bleu, rouge or judge.  [default: exact]"),
    click.option(
        "--judge", type=_FILE, help="For --metric judge: YAML with the judge's model, provider, base_url, ..."
    ),
    click.option(
        "--min-graded",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="SHARE",
        help="For --metric judge: score only the graded answers if at least this share has a grade.  [default: 1]",
    ),
    click.option(
        "--check-training/--no-check-training", default=True, help="Search the training mix for the questions."
    ),
)


@click.command()
@click.argument("name", metavar="NAME")
@click.argument("target", metavar="CHECKPOINT|ENDPOINT|ANSWERS")
@FILES
@click.option("--protocol", type=click.Choice(["llava", "lmms-eval"]), default="llava", show_default=True)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first questions.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Maximum tokens per answer.  [default: the protocol's]")
@ALLOWED
@ASKING
@CUSTOM
@lmms_options
@json_option
def evaluate(name: str, target: str, as_json: bool, **given: Any) -> None:
    """Run and score one benchmark, and write its upload file.

    NAME: vqav2, gqa, vizwiz, scienceqa, textvqa, pope, mme, mmbench, mmbench-cn, seedbench, llava-bench, mm-vet,
    easy-vqa, or custom (--questions is then a dataset of conversations or samples, or a file of questions with
    answers).
    The second argument is a checkpoint folder, a server's address (http://...), or a file of answers.

    --output receives the results as a dataset (rows) and a page (results.html); `lavabeam evaluate compare A B`
    compares two such folders. A checkpoint's training mix is searched for the questions and images
    (--no-check-training).

    --via lmms-eval: with --questions lmms-eval runs the model and we score; without, it runs its own task of that
    name (--tasks). Failures that it would score as 0 (failed requests, empty answers, rows without an image) end the
    command.

    `lavabeam evaluate CHECKPOINT QUESTIONS` reports exact-match accuracy on a samples dataset, or a .json or .jsonl
    file of LLaVA rows or of lines with text, answer and image.
    """
    from lavabeam.evaluation.registry import locations

    if name not in locations() and Path(name).exists():
        return _exact(name, target, as_json, given)
    check_lmms_options(given)
    if given["via"] and given["questions"] is None:
        return own_tasks(name, target, _asking(given["max_tokens"] or 0, given), as_json, given)
    report = _benchmark(name, target, given)
    return print_json(report) if as_json else print_report(report)


@click.command()
@click.argument("target", metavar="CHECKPOINT|ENDPOINT")
@click.argument("questions", type=_FILE)
@click.argument("output", type=_FILE)
@click.option("--images", type=_FILE, help="The folder of the pictures that the questions refer to.")
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=1024, help="Maximum tokens per answer.", show_default=True
)
@ASKING
def answer(target: str, questions: Path, output: Path, images: Path | None, **given: Any) -> None:
    """Answer a file of QUESTIONS with a checkpoint, in batches, or with a server (http://...).

    Decoding is greedy; OUTPUT is in LLaVA's answer format (JSON lines). After an interruption the same command answers
    the remaining questions.
    """
    from lavabeam.evaluation.asking import answer as run

    counts = dict(run(target, questions, output, images, _asking(given.pop("max_tokens"), given)))
    cached = counts.pop("cached", 0)
    say(f"{sum(counts.values())} questions, {counts.get('ok', 0)} answers in {output}")
    if cached:
        say(f"{cached} answers came from the cache {output}.cache", err=True)
    if set(counts) != {"ok"}:
        say(f"{statuses_text(counts)}; `metadata` of lines without an answer has the reason.", err=True)
    if not counts.get("ok"):
        click.get_current_context().exit(UNUSABLE)


def _exact(checkpoint: str, questions: str, as_json: bool, given: dict[str, Any]) -> None:
    """`evaluate CHECKPOINT QUESTIONS`."""
    from trainer.inference.evaluate import ANSWER_TOKENS
    from trainer.inference.evaluate import evaluate as run

    taken = ("limit", "batch", "processes", "images", "template", "load", "device")
    others = ("max_tokens", "protocol", "check_training")
    surplus = [key for key, value in given.items() if value and key not in (*taken, *others)]
    if surplus:
        listed = ", ".join("--" + key.replace("_", "-") for key in surplus)
        raise click.UsageError(f"{listed}: only with a benchmark name before the checkpoint.")
    max_tokens = given["max_tokens"] or ANSWER_TOKENS
    result = run(checkpoint, questions, max_tokens=max_tokens, **{key: given[key] for key in taken})
    return print_json(result) if as_json else print_tree(result)


def _benchmark(name: str, target: str, given: dict[str, Any]) -> dict[str, Any]:
    from lavabeam.evaluation.answers import is_answers
    from lavabeam.evaluation.asking import ANSWERS, ask
    from lavabeam.evaluation.endpoint import is_endpoint
    from lavabeam.evaluation.joining import Allowed
    from lavabeam.evaluation.run import Files, Settings, evaluate_answers, read_questions
    from schemas.errors import InputError

    benchmark = _opened(name, given)
    allowed = Allowed(*(given[f"allow_{what}"] for what in ("missing", "doubled", "foreign", "unscored")))
    settings = Settings(given["protocol"], allowed, given["limit"])
    if given["questions"] is None:
        raise InputError(f"{benchmark.title}: give its questions with --questions.")
    questions = read_questions(benchmark, given["questions"], settings)
    answers, statuses = Path(target), dict[str, int]()
    asker: Any = asker_of(name, given) if given["via"] else ask
    if is_endpoint(target) or not is_answers(answers):
        if given["output"] is None:
            raise InputError(f"{target}: give the folder for answers and scores with --output.")
        max_tokens = given["max_tokens"] or benchmark.tokens[given["protocol"]]
        asked, images = _with_pictures(benchmark, questions, given)
        statuses = asker(target, asked, images, given["output"], _asking(max_tokens, given))
        answers = given["output"] / ANSWERS
    elif given["via"]:
        raise InputError(f"{target}: are answers already; --via lmms-eval asks a checkpoint or a server.")
    paths = {key: given[key] for key in ("questions", "truth", "reviews", "upload", "upload_questions", "output")}
    notes = _leaks(benchmark, target, questions, given) if statuses else []
    report = evaluate_answers(benchmark, questions, Files(answers=answers, **paths), settings)
    if given["output"] is not None and report["scores"] is not None:
        from lavabeam.evaluation.report.after import write_results

        report["page"] = str(write_results(given["output"], target, given["questions"], given["images"], notes))
    for note in notes:
        say(f"lavabeam: {note}", err=True)
    if given["via"]:
        report["lmms_eval"] = asker.figures
    return {**report, **({"statuses": statuses} if statuses else {}), **({"trained_on": notes} if notes else {})}


def _opened(name: str, given: dict[str, Any]) -> Any:
    """The benchmark; a custom one with its metric. Raises InputError for a metric of another."""
    from lavabeam.evaluation.run import open_checked
    from schemas.errors import InputError

    benchmark = open_checked(name, given["protocol"])
    if name != "custom":
        if given["metric"] or given["judge"] or given["min_graded"] is not None:
            raise InputError(f"{benchmark.title} has its own metric: --metric, --judge, --min-graded are for custom.")
        return benchmark
    from lavabeam.evaluation.custom.benchmark import Custom

    return Custom(given["metric"] or "exact", given["images"], given["judge"], given["output"], given["min_graded"])


def _with_pictures(benchmark: Any, questions: list[Any], given: dict[str, Any]) -> tuple[list[Any], Path | None]:
    """The questions as they are asked, and the folder of their pictures: a custom set's are stored in the output."""
    from lavabeam.evaluation.asking import PICTURES
    from lavabeam.evaluation.custom.benchmark import Custom

    if not isinstance(benchmark, Custom):
        return questions, given["images"]
    folder = given["output"] / PICTURES
    return benchmark.stored(questions, folder), folder


def _leaks(benchmark: Any, target: str, questions: list[Any], given: dict[str, Any]) -> list[str]:
    from lavabeam.evaluation.custom.benchmark import Custom
    from lavabeam.evaluation.endpoint import is_endpoint
    from lavabeam.evaluation.report.after import named_pictures, training_leaks

    if is_endpoint(target) or not given["check_training"]:
        return []
    own = isinstance(benchmark, Custom)
    sources = benchmark.set.sources if own else named_pictures(questions, given["images"])
    return training_leaks(target, questions, sources)


def _asking(max_tokens: int, given: dict[str, Any]) -> Any:
    import yaml

    from lavabeam.evaluation.asking import Asking

    settings = {key: yaml.safe_load(value) for key, value in pairs(given["settings"]).items()}
    names = ("model", "template", "batch", "processes", "load", "device")
    return Asking(max_tokens, settings=settings, **{key: given[key] for key in names})
