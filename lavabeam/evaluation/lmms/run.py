"""`--via lmms-eval`: our questions run by it and scored by us, or its own tasks with our intervals."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lavabeam.evaluation.answers import write_jsonl
from lavabeam.evaluation.asking import ANSWERS, QUESTIONS, Asking
from lavabeam.evaluation.benchmarks.base import write_json
from lavabeam.evaluation.endpoint import api_address, is_endpoint
from lavabeam.evaluation.lmms.environment import VERSION, Environment, open_environment
from lavabeam.evaluation.lmms.process import NOTES, Model, Work, run
from lavabeam.evaluation.lmms.samples import Sample, check_samples, read_bare, read_samples, task_figures
from lavabeam.evaluation.lmms.task import Sources, write_task
from lavabeam.evaluation.question import Question
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from schemas.picturefolder import PictureFolder

FOLDER, FIGURES = "lmms-eval", "lmms-eval.json"
TASKS = {
    "vqav2": "vqav2_val",
    "gqa": "gqa",
    "vizwiz": "vizwiz_vqa_val",
    "scienceqa": "scienceqa_img",
    "textvqa": "textvqa_val",
    "pope": "pope",
    "mme": "mme",
    "mmbench": "mmbench_en_dev",
    "mmbench-cn": "mmbench_cn_dev",
    "seedbench": "seedbench",
    "llava-bench": "llava_in_the_wild",
    "mm-vet": "mmvet",
}
"""lmms-eval's own task of each benchmark: from a hub, and with its prompts and scores."""
_TYPES = ("llava", "llava_next", "llava_onevision")
_PATIENCE_S = 5.0


@dataclass
class Asker:
    """Asks as `asking.ask` does, by lmms-eval; afterwards `figures` has its own. empty_allowed: empty answers are
    wrong, not a fault."""

    name: str
    python: Path | None = None
    empty_allowed: bool = False
    figures: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self, target: str, questions: Sequence[Question], images: Path | None, output: Path, how: Asking
    ) -> dict[str, int]:
        """Write the questions as a task, run it, and write `output`/answers.jsonl; returns the statuses.

        Everything is asked again each time. Raises InputError for questions that lmms-eval cannot ask, and for samples
        that are no answers; no answers are written then.
        """
        model, environment = open_model(target, how, self.python)
        folder = output / FOLDER
        task = write_task(folder / "task", self.name, questions, pictures_in(images), how.max_tokens)
        runs = run(environment, model, Work((task.name,), task.folder, offline=True, more=_key(target)), folder)
        samples = read_samples(runs)
        check_samples(samples, read_bare(folder / NOTES), self.empty_allowed)
        lines = _answers(questions, samples.get(task.name, []), target)
        write_jsonl(output / QUESTIONS, [_asked(question) for question in questions])
        write_jsonl(output / ANSWERS, lines)
        self.figures = _kept(output, environment, task_figures(samples, runs))
        return {"ok": len(lines)}


def run_tasks(
    tasks: Sequence[str],
    target: str,
    output: Path,
    how: Asking,
    *,
    python: Path | None = None,
    include: Path | None = None,
    limit: int | None = None,
    max_tokens: int | None = None,
    empty_allowed: bool = False,
) -> dict[str, Any]:
    """Run lmms-eval's own tasks, or those in the folder `include`; returns the figures by task, which are in
    `output`/lmms-eval.json, too. Raises InputError as `Asker` does."""
    if include is not None and not include.is_dir():
        raise InputError(f"{include}: no such folder. --include-path takes a folder of lmms-eval's task files.")
    model, environment = open_model(target, how, python)
    folder = output / FOLDER
    runs = run(environment, model, Work(tuple(tasks), include, limit, max_tokens, more=_key(target)), folder)
    samples = read_samples(runs)
    check_samples(samples, read_bare(folder / NOTES), empty_allowed)
    return _kept(output, environment, task_figures(samples, runs))


def open_model(target: str, how: Asking, python: Path | None) -> tuple[Model, Environment]:
    """lmms-eval's class for the target, and the environment. Raises InputError for what it cannot run: checked here,
    since it would score a server that is away 0, with exit code 0."""
    if how.batch or how.processes or how.template:
        raise InputError("--via lmms-eval: --batch, --processes and --template are ours; it has none of them here.")
    if is_endpoint(target):
        if not how.model:
            raise InputError(f"{target}: give the name of the model with --model; the server lists it at /v1/models.")
        _reachable(target)
        named = {"model": how.model, "base_url": api_address(target)}
        return Model("openai", {**named, **how.settings}), open_environment(python)
    if how.model:
        raise InputError(f"{target}: --model is for a server's address (http://...), this is a folder.")
    folder = _checkpoint(target)
    environment = open_environment(python)
    return checkpoint_model(folder, environment, how.settings), environment


def checkpoint_model(folder: Path, environment: Environment, settings: Mapping[str, Any] | None = None) -> Model:
    """A checkpoint's folder on the environment's device: its own default, an empty device_map, is refused by
    transformers 5."""
    arguments = {"pretrained": folder, "device_map": environment.device, **(settings or {})}
    return Model("llava_hf", arguments, environment.device)


def pictures_in(images: Path | None) -> Sources:
    """Pictures of questions by name in a folder, or as the questions hold them."""
    folder = None if images is None else PictureFolder(str(images))

    def sources(question: Question) -> Sequence[bytes | Path]:
        if isinstance(question.image, bytes):
            return (question.image,)
        names = (question.image,) if isinstance(question.image, str) else question.image or ()
        if names and folder is None:
            raise InputError(f"its picture is {names[0]}; give the folder of the pictures with --images.")
        found = [folder.find(name) for name in names] if folder else []
        if problem := next((one.problem for one in found if one.problem), None):
            raise InputError(f"{problem}.")
        return [Path(one.path) for one in found]

    return sources


def _checkpoint(target: str) -> Path:
    from trainer.preflight import model_path

    folder = model_path(target).absolute()
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{target}: no readable config.json ({error}); expected a checkpoint's folder.") from error
    if kind not in _TYPES:
        raise InputError(
            f"{folder}/config.json: model_type is {kind!r}; lmms-eval's llava_hf runs {', '.join(_TYPES)}. Serve the "
            "checkpoint, and give the server's address."
        )
    missing = [name for name in ("processor_config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder}: has no {missing[0]}; lmms-eval takes the layout of transformers' LLaVA.")
    return folder


def _reachable(url: str) -> None:
    parts = urlsplit(url)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname or "", port), timeout=_PATIENCE_S).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{url}: cannot be reached ({error}). Start the server, or correct the address.") from error


def _key(target: str) -> dict[str, str]:
    """A server without keys: the client wants some text, all the same."""
    return {} if os.environ.get("OPENAI_API_KEY") or not is_endpoint(target) else {"OPENAI_API_KEY": "none"}


def _answers(questions: Sequence[Question], samples: Sequence[Sample], target: str) -> list[dict[str, Any]]:
    """LLaVA's lines. Raises InputError when the samples are not one for each question."""
    by_number = {one.number: one for one in samples}
    missing = [number for number in range(len(questions)) if number not in by_number]
    if missing or len(samples) != len(questions):
        raise InputError(
            f"lmms-eval wrote {len(samples)} samples for {len(questions)} questions"
            + (f"; there is none for question {questions[missing[0]].id}." if missing else ".")
        )
    mark = fingerprint(FOLDER, VERSION, target, [(question.id, question.text) for question in questions])
    return [
        {
            "question_id": question.id,
            "prompt": question.text,
            "text": by_number[number].texts[0].strip() if by_number[number].texts else "",
            "answer_id": fingerprint(question.id, by_number[number].texts)[:32],
            "model_id": Path(target).name,
            "metadata": {"run": mark, "via": f"lmms-eval {VERSION}"},
        }
        for number, question in enumerate(questions)
    ]


def _asked(question: Question) -> dict[str, Any]:
    image = {"image": question.image} if isinstance(question.image, str | tuple) else {}
    return {"question_id": question.id, "text": question.text, "category": question.category, **image}


def _kept(output: Path, environment: Environment, tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    figures = {"version": environment.version, "tasks": tasks}
    write_json(output / FIGURES, figures)
    return figures
