"""DAG parameters, administrator settings, and lavabeam.yaml, which overrides both.

A parameter is (default, JSON schema, description); Airflow shows it in the form that starts a run, and checks it.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FILE = Path(__file__).parent / "lavabeam.yaml"


class Param(NamedTuple):
    """A parameter of a run: its default, its meaning, its JSON schema."""

    default: Any
    description: str
    schema: dict[str, Any]


def _of(kind: str | list[str], default: Any, description: str, **schema: Any) -> Param:
    return Param(default, description, {"type": kind, **schema})


def _text(default: str, description: str, **schema: Any) -> Param:
    return _of("string", default, description, minLength=1, **schema)


def _maybe(default: str | None, description: str, **schema: Any) -> Param:
    return _of(["null", "string"], default, description, minLength=1, **schema)


PARAMS = {
    "folder": _text("data", "location of the datasets: a folder or an fsspec URL"),
    "images": _text("photos", "the images dataset, in the folder"),
    "conversations": _maybe("talks", "the conversations dataset; null: none is made"),
    "samples": _maybe("finetune", "the training set; null: none is made"),
    "runner": _text("local", "local, dask, dataflow, or a Beam runner"),
    "workers": _of("integer", 0, "threads or processes; 0: one per core", minimum=0),
    "beam_options": _of("array", [], "options for Beam, such as --project=...", items={"type": "string"}),
    "date": _maybe(None, "the date to work on instead of the run's logical date", pattern=r"^\d{4}-\d{2}-\d{2}$"),
    "lists": _text(
        "lists/{date}*.csv",
        "the URL lists of a date: {date} becomes 2026-11-28; a pattern with *, any fsspec location",
        pattern=r"\{date\}",
    ),
    "import_options": _of("object", {}, "options of `lavabeam import url_list`, such as {source: web}"),
    "download_options": _of("object", {}, "options of `lavabeam download`, such as {image_size: 336}"),
    "dedupe_options": _of("object", {}, "options of `lavabeam dedupe`, such as {near_distance: 4}"),
    "caption_options": _of(
        ["null", "object"], None, "options of `lavabeam caption`, such as {engine: labels}; null: no captions are made"
    ),
    "generate_options": _of("object", {"model": "gpt-4o-mini"}, "options of `lavabeam generate`; `model` is required"),
    "max_cost": _of("number", 10, "spend cap in USD for the conversations, over all runs", minimum=0),
    "mix_recipe": _text("mix.yaml", "the recipe of the training set"),
    "mix_settings": _of("object", {}, "values for the ${names} of the recipe"),
    "pretrain_mix_recipe": _maybe(None, "the recipe of the pretraining set; null: none is mixed"),
    "pretrain_samples": _maybe(None, "the pretraining set; null: no projector is trained"),
    "train_recipe": _text("v1.5-7b-finetune", "a recipe of `lavabeam train`"),
    "train_settings": _of("object", {}, "values for the recipe, such as {plan.global_batch: 64}"),
    "pretrain_recipe": _maybe(None, "the recipe of the projector; null: the finetune recipe names its own checkpoint"),
    "pretrain_settings": _of("object", {}, "values for the recipe of the projector"),
    "runs": _text("runs", "location of run folders, one for each version of a training set"),
    "processes": _of(["null", "integer"], None, "null: one per GPU", minimum=1),
    "train_dry_run": _of("boolean", False, "show what a run would do; train nothing"),
    "questions": _maybe(None, "what the model is evaluated on; null: it is not"),
    "evaluate_options": _of("object", {}, "options of `lavabeam evaluate`, such as {limit: 1000}"),
    "min_accuracy": _of("number", 0, "minimum accuracy for a checkpoint to be announced", minimum=0, maximum=1),
    "retry": _text("transient", "statuses to retry, such as timeout,dns"),
    "older_than": _text(
        "30d", "versions committed longer ago are removed; never the newest", pattern=r"^\d+(\.\d+)?[smhdw]$"
    ),
    "gc_dry_run": _of("boolean", False, "show what would be removed; remove nothing"),
}

SETTINGS: dict[str, Any] = {
    "command": "lavabeam",
    "alert_url": None,
    "retries": 2,
    "retry_delay_s": 60,
    "timeout_h": 24,
    "wait_for_lists_s": 3600,
    "ingest_schedule": "0 6 * * *",
    "retry_schedule": "0 3 * * 6",
    "gc_schedule": "0 3 * * 0",
}
"""Not for who starts a run: no parameter names the program to run."""


def read_settings(path: Path = FILE) -> dict[str, Any]:
    """All settings and defaults of parameters, as the file changes them. Raises ValueError for an unknown name."""
    known = {**SETTINGS, **{name: param.default for name, param in PARAMS.items()}}
    given = (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else None) or {}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{path}: unknown setting {name!r}.{hint} Known: {', '.join(sorted(known))}.")
    return {**known, **given}
