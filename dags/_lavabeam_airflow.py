"""`lavabeam` commands as Airflow tasks, and the assets that connect the DAGs.

A task's log holds what its command writes on stderr; what the command prints as JSON is the task's XCom.
"""

from __future__ import annotations

import json
import shlex
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from _lavabeam import Arguments, Run, dataset_facts, lists_of, look_at, outcome
from _lavabeam_command import Command
from _lavabeam_settings import PARAMS, read_settings
from airflow.sdk import Asset, BaseOperator, Context, Param, PokeReturnValue, task
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

SETTINGS = read_settings()
IMAGES = Asset(name="lavabeam_images", uri="lavabeam://datasets/images")
CONVERSATIONS = Asset(name="lavabeam_conversations", uri="lavabeam://datasets/conversations")
SAMPLES = Asset(name="lavabeam_samples", uri="lavabeam://datasets/samples")
CHECKPOINT = Asset(name="lavabeam_checkpoint", uri="lavabeam://checkpoint")
LLM_POOL, TRAIN_POOL, POOL = "lavabeam_llm", "lavabeam_train", "lavabeam"
"""pools.json makes them: how many commands run at a time that ask an LLM, that train, and all others."""
SHOWN_CHARACTERS = 2000
ALERT_TIMEOUT_S = 10


def settings_of_dag(doc: str | None, *params: str) -> dict[str, Any]:
    """What all DAGs have in common, for `@dag(**settings_of_dag(__doc__, "folder", ...))`; `params` of `PARAMS`."""
    return {
        "params": {name: _param(name) for name in params},
        "doc_md": doc,
        "start_date": datetime(2020, 1, 1, tzinfo=UTC),
        "catchup": False,
        "max_active_runs": 1,
        "tags": ["lavabeam"],
        "default_args": {
            "pool": POOL,
            "retries": SETTINGS["retries"],
            "retry_delay": timedelta(seconds=SETTINGS["retry_delay_s"]),
            "retry_exponential_backoff": 2,
            "execution_timeout": timedelta(hours=SETTINGS["timeout_h"]),
            "on_failure_callback": alert if SETTINGS["alert_url"] else None,
        },
    }


class LavabeamOperator(BaseOperator):
    """One `lavabeam` command. Its exit code is the task's state (`_lavabeam.outcome`).

    arguments: the words behind `lavabeam`, or None to skip the task.
    check: given the run and the command's JSON, why the result is not good enough; empty when it is.
    """

    ui_color = "#f6e7d8"

    def __init__(self, *, arguments: Arguments, check: Callable[[Run, Any], str] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.arguments, self.check = arguments, check
        self._command: Command | None = None

    def execute(self, context: Context) -> Any:
        return self.run_command(self.run_of(context))

    def run_command(self, run: Run) -> Any:
        """What the command printed as JSON."""
        words = self.arguments(run)
        if words is None:
            raise AirflowSkipException("The run's parameters do not ask for this.")
        result = self._result(words)
        if isinstance(result, dict) and result.get("stopped"):
            raise AirflowException("Stopped from outside with a checkpoint; a retry continues there.")
        if complaint := self.check(run, result) if self.check else "":
            raise AirflowFailException(complaint)
        return result

    def run_of(self, context: Context) -> Run:
        """The run's parameters and date, and the results of all tasks before this one."""
        dag_run, params = context["dag_run"], context["params"]
        moment = dag_run.logical_date or dag_run.run_after
        before = sorted(self.get_flat_relative_ids(upstream=True))
        results = {name: context["ti"].xcom_pull(task_ids=name) for name in before}
        return Run(dict(params), params.get("date") or f"{moment:%Y-%m-%d}", results)

    def on_kill(self) -> None:
        if self._command is not None:
            self._command.ask_to_stop()

    def _result(self, words: Sequence[str]) -> Any:
        """Run the command; raises what makes Airflow fail or retry the task."""
        command = Command([*shlex.split(SETTINGS["command"]), *words])
        self._command = command
        self.log.info("$ %s", shlex.join(command.words))
        try:
            code, printed = command.run(self.log.info)
        except OSError as error:
            raise AirflowFailException(
                f"{command.words[0]!r} cannot be started: {error.strerror}. Set `command` in lavabeam.yaml to the "
                "lavabeam of its own virtual environment."
            ) from error
        message = f"exit code {code}: {command.complaint}"
        if outcome(code) == "fail":
            raise AirflowFailException(message)
        if outcome(code) == "retry":
            raise AirflowException(message)
        self.log.info("%s", printed[:SHOWN_CHARACTERS])
        return json.loads(printed)


class Announce(LavabeamOperator):
    """Tells the DAGs that wait for `asset` of a new version; skipped where the last announcement says the same.

    facts: what the asset carries in `extra`, given the run and `lavabeam show --json` of its dataset.
    """

    def __init__(
        self,
        *,
        asset: Asset,
        role: str,
        facts: Callable[[Run, Mapping[str, Any]], dict[str, Any]] = dataset_facts,
        **kwargs: Any,
    ):
        super().__init__(arguments=look_at(role), outlets=[asset], inlets=[asset], **kwargs)
        self.asset, self.facts = asset, facts

    def execute(self, context: Context) -> dict[str, Any]:
        run = self.run_of(context)
        found = self.facts(run, self.run_command(run))
        if not found:
            raise AirflowSkipException("There is nothing to announce.")
        events = context["inlet_events"][self.asset]
        if len(events) and {name: events[-1].extra.get(name) for name in found} == found:
            raise AirflowSkipException(f"{found['path']} was announced with manifest {found['manifest']} before.")
        context["outlet_events"][self.asset].extra.update(found)
        return found


def command(arguments: Arguments, **kwargs: Any) -> LavabeamOperator:
    """A task that runs `lavabeam` with the words of `arguments`, named after it unless `task_id` says otherwise."""
    return LavabeamOperator(**{"task_id": arguments.__name__, "arguments": arguments, **kwargs})


def announce(asset: Asset, role: str, **kwargs: Any) -> Announce:
    """A task that announces the dataset `role` once all before it are done, unless all of them were skipped."""
    given = {"task_id": f"announce_{asset.name.removeprefix('lavabeam_')}", **kwargs}
    return Announce(asset=asset, role=role, trigger_rule="none_failed_min_one_success", **given)


@task.sensor(poke_interval=60, timeout=SETTINGS["wait_for_lists_s"], mode="reschedule", soft_fail=True)
def new_lists(params: dict[str, Any], dag_run: Any) -> PokeReturnValue:
    """Waits until there is a URL list of the date; the run is skipped where none comes."""
    import fsspec

    moment = dag_run.logical_date or dag_run.run_after
    pattern = lists_of(Run(params, params.get("date") or f"{moment:%Y-%m-%d}"))
    filesystem, path = fsspec.core.url_to_fs(pattern)
    found = filesystem.glob(path)
    print(f"{pattern}: {len(found)} lists")
    return PokeReturnValue(is_done=bool(found), xcom_value=found)


def alert(context: Context) -> None:
    """POST what failed to `alert_url`, as chat services take it: {"text": ...}."""
    instance = context["ti"]
    words = f"{instance.dag_id}.{instance.task_id} failed in run {instance.run_id}: {context.get('exception')}"
    body = json.dumps({"text": words}).encode()
    request = urllib.request.Request(SETTINGS["alert_url"], body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=ALERT_TIMEOUT_S).close()


def _param(name: str) -> Param:
    return Param(SETTINGS[name], description=PARAMS[name].description, **PARAMS[name].schema)
