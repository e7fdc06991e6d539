"""The arguments of every `lavabeam` command that the DAGs run, and the meaning of its exit code.

Nothing here needs Airflow. In: the parameters of a run. Out: lists of words for the `lavabeam` command.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Run:
    """What a command is made of: parameters, the date that is worked on, and what earlier tasks printed as JSON."""

    params: Mapping[str, Any]
    date: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)

    def dataset(self, role: str) -> str:
        """The path of `images`, `conversations`, `samples` or `pretrain_samples`."""
        name = self.params[role]
        return name if "://" in name else os.path.join(self.params["folder"], name)


Arguments = Callable[[Run], list[str] | None]
"""The words behind `lavabeam`; None where the parameters ask for nothing."""


def options(values: Mapping[str, Any]) -> list[str]:
    """`{"image_size": 336, "near": False, "kinds": ["a"]}` -> `--image-size 336 --no-near --kinds '["a"]'`."""
    words = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            words += [f"--{flag}", value if isinstance(value, str) else json.dumps(value)]
    return words


def lists_of(run: Run) -> str:
    """The path or pattern of the URL lists of the run's date."""
    return str(run.params["lists"]).replace("{date}", run.date)


def import_lists(run: Run) -> list[str]:
    """Keys begin with the date, so they do not depend on the order in which dates are imported."""
    words = ["import", "url_list", run.dataset("images"), "--append", "--key-prefix", f"{run.date}/"]
    return [*words, "--path", lists_of(run), *options(run.params["import_options"]), *_pipeline(run)]


def download(run: Run) -> list[str]:
    return ["download", run.dataset("images"), *options(run.params["download_options"]), *_pipeline(run)]


def dedupe(run: Run) -> list[str]:
    """Among equally large copies the smallest key is kept: that of the earliest date, whatever was imported first."""
    chosen = {"among_equals": "smallest_key", **run.params["dedupe_options"]}
    return ["dedupe", run.dataset("images"), *options(chosen), *_pipeline(run)]


def caption(run: Run) -> list[str] | None:
    chosen = run.params["caption_options"]
    return None if chosen is None else ["caption", run.dataset("images"), *options(chosen), *_pipeline(run)]


def generate(run: Run) -> list[str] | None:
    if not run.params["conversations"]:
        return None
    words = ["generate", run.dataset("images"), run.dataset("conversations"), "--max-cost", str(run.params["max_cost"])]
    return [*words, *options(run.params["generate_options"]), *_pipeline(run)]


def mix(run: Run) -> list[str] | None:
    return _mix(run, run.params["mix_recipe"], run.dataset("samples")) if run.params["samples"] else None


def mix_pretrain(run: Run) -> list[str] | None:
    recipe = run.params["pretrain_mix_recipe"]
    return _mix(run, recipe, run.dataset("pretrain_samples")) if recipe and run.params["pretrain_samples"] else None


def pretrain(run: Run) -> list[str] | None:
    """One run folder per version of the pretraining set: a finished one is reused, so this trains only where needed."""
    if not (run.params["pretrain_recipe"] and run.params["pretrain_samples"]):
        return None
    chosen = {"data.mix": run.dataset("pretrain_samples"), "output": pretrain_folder(run)}
    chosen |= run.params["pretrain_settings"]
    return _train(run, run.params["pretrain_recipe"], chosen)


def finetune(run: Run) -> list[str]:
    chosen = {"data.mix": run.dataset("samples"), "output": finetune_folder(run), **run.params["train_settings"]}
    if run.results.get("pretrain"):
        chosen["model.checkpoint"] = pretrain_folder(run)
    return _train(run, run.params["train_recipe"], chosen)


def pretrain_folder(run: Run) -> str:
    """Named after the dataset and its version, which task `look_at_pretrain_samples` printed."""
    return _run_folder(run, "pretrain_samples")


def finetune_folder(run: Run) -> str:
    """Named after both datasets and their versions where a projector is trained first."""
    first = f"-on-{os.path.basename(pretrain_folder(run))}" if run.results.get("pretrain") else ""
    return _run_folder(run, "samples") + first


def evaluate(run: Run) -> list[str] | None:
    """Nothing to evaluate after a dry run."""
    questions, trained = run.params["questions"], run.results["finetune"]
    if not questions or "model" not in trained or run.params["train_dry_run"]:
        return None
    return ["evaluate", trained["model"], questions, *options(run.params["evaluate_options"]), "--json"]


def accurate_enough(run: Run, result: Mapping[str, Any]) -> str:
    """Why an evaluated checkpoint is not announced; empty when it is."""
    least, accuracy = run.params["min_accuracy"], result["accuracy"]
    if accuracy >= least:
        return ""
    return (
        f"{accuracy:.3f} of {result['questions']} questions were answered correctly, fewer than min_accuracy {least}."
    )


def look_at(role: str) -> Arguments:
    """What a dataset holds, as JSON; nothing where the parameter names none."""
    return lambda run: ["show", run.dataset(role), "--json"] if run.params[role] else None


def retry_download(run: Run) -> list[str]:
    return ["download", run.dataset("images"), "--retry", run.params["retry"], *_pipeline(run)]


def retry_generate(run: Run) -> list[str] | None:
    if not run.params["conversations"]:
        return None
    words = ["generate", run.dataset("images"), run.dataset("conversations"), "--retry", run.params["retry"]]
    return [*words, "--max-cost", str(run.params["max_cost"]), *_pipeline(run)]


def collect_garbage(role: str) -> Arguments:
    """`lavabeam gc` of one dataset; nothing where the parameter names none."""

    def words(run: Run) -> list[str] | None:
        if not run.params[role]:
            return None
        dry = ["--dry-run"] if run.params["gc_dry_run"] else []
        return ["gc", run.dataset(role), "--older-than", run.params["older_than"], *dry, "--json"]

    return words


def dataset_facts(run: Run, shown: Mapping[str, Any]) -> dict[str, Any]:
    """What an asset carries of a dataset, out of `lavabeam show --json`."""
    return {name: shown[name] for name in ("path", "manifest", "rows", "schema")}


def checkpoint_facts(run: Run, shown: Mapping[str, Any]) -> dict[str, Any]:
    """What the checkpoint's asset carries: the model, its figures, and the version of the mix that it learnt.

    Empty after a dry run.
    """
    if run.params["train_dry_run"]:
        return {}
    trained, evaluated = run.results["finetune"], run.results.get("evaluate") or {}
    figures = {"model": trained["model"], "steps": trained["steps"], "accuracy": evaluated.get("accuracy")}
    return {**figures, **dataset_facts(run, shown)}


def outcome(code: int) -> str:
    """What becomes of a task whose command ended with `code`: ok, fail (again would end the same), or retry.

    0 is done. 2 is bad input, 3 too few usable rows, 5 scores that say nothing: the same command gives the same code.
    All else may pass: 1 (worker processes died), 4 (another run was in the way), 130 (interrupted), a signal (negative,
    or 128 and more behind a shell).
    """
    if code == 0:
        return "ok"
    return "fail" if code in (2, 3, 5) else "retry"


def _mix(run: Run, recipe: str, target: str) -> list[str]:
    words = ["mix", recipe, target, "--folder", run.params["folder"]]
    return [*words, *_settings(run.params["mix_settings"]), *_pipeline(run)]


def _train(run: Run, recipe: str, chosen: Mapping[str, Any]) -> list[str]:
    processes = ["--processes", str(run.params["processes"])] if run.params["processes"] else []
    dry = ["--dry-run"] if run.params["train_dry_run"] else []
    return ["train", recipe, *_settings(chosen), *processes, *dry, "--json"]


def _run_folder(run: Run, role: str) -> str:
    shown = run.results[f"look_at_{role}"]
    name = os.path.basename(run.dataset(role).rstrip("/"))
    return os.path.join(run.params["runs"], f"{name}-{shown['manifest']}")


def _settings(values: Mapping[str, Any]) -> list[str]:
    pairs = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    return [word for name, value in pairs.items() for word in ("--set", f"{name}={value}")]


def _pipeline(run: Run) -> list[str]:
    """What every command takes that runs a pipeline; words for Beam come last."""
    beam = list(run.params["beam_options"])
    words = ["--runner", run.params["runner"], "--workers", str(run.params["workers"]), "--json"]
    return [*words, *(["--", *beam] if beam else [])]
