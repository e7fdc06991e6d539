"""Scheduler, api-server and dag-processor as `up.sh` starts them: a backfill, a killed task, what assets set off."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from lavabeam.demo.web import Page
from tests.dags.airflow.conftest import Airflow, manifest
from tests.dags.conftest import DATES, SLOW, pages, seen

PATIENCE_S = 1200


def wait_for(what, found, patience_s=PATIENCE_S):
    """The first value of `found()` that is not empty."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if value := found():
            return value
        time.sleep(0.5)
    raise AssertionError(f"no {what} after {patience_s} s")


def answers(address):
    """Whether a server answers with success."""
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            return response.status == 200
    except OSError:
        return False


@pytest.fixture
def running(settings, recipes, tmp_path):
    """Airflow with everything running, a backfill of three dates that waits, newest first, and all DAGs paused.

    On data of its own; training only says what it would do.
    """
    chosen = {
        "folder": str(tmp_path / "data"),
        "mix_recipe": str(recipes / "mix.yaml"),
        "train_dry_run": True,
        "retries": 5,
    }
    trained = {"train_recipe": str(recipes / "finetune.yaml"), "processes": 1}
    airflow = Airflow(tmp_path, {**settings, **chosen, **trained})
    # Before anything runs: two writers of one sqlite file get in each other's way.
    airflow.call("dags", "reserialize")
    dates = ("--from-date", DATES[0], "--to-date", f"{DATES[-1]}T23:00:00")
    backwards = ("--run-backwards", "--max-active-runs", "1")
    airflow.call("backfill", "create", "--dag-id", "lavabeam_ingest", *dates, *backwards)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    airflow.environment |= {
        "PORT": port,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",  # the files stay as they are
    }
    started = subprocess.Popen(
        [airflow.dags / "up.sh"],
        env=airflow.environment,
        cwd=tmp_path,
        stdout=airflow.log,
        stderr=airflow.log,
        start_new_session=True,
    )
    try:
        wait_for("api-server", lambda: answers(f"http://127.0.0.1:{port}/api/v2/version"))
        yield airflow
        os.killpg(started.pid, signal.SIGINT)
        started.wait(PATIENCE_S)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()


def test_a_backfill_that_is_disturbed_ends_like_one_that_is_not(running, undisturbed, site):
    """Newest date first, and the download of a slow picture is killed: the rows are those of the undisturbed order."""
    site.pages[SLOW] = pages(slow_s=20)[SLOW]
    running.call("dags", "unpause", "--yes", "--treat-dag-id-as-regex", "lavabeam_(ingest|generate|mix|train)")
    asked = site.requests[SLOW]
    wait_for("request for the slow picture", lambda: site.requests[SLOW] > asked)
    process = "SELECT pid, run_id FROM task_instance WHERE task_id = 'download' AND state = 'running'"
    killed, run = running.query(process)[0]
    os.kill(killed, signal.SIGKILL)
    site.pages[SLOW] = Page(site.pages[SLOW].content)

    ended = "SELECT count(*) FROM dag_run WHERE run_type = 'backfill' AND state = 'success'"
    wait_for("end of the backfill", lambda: running.query(ended)[0][0] == len(DATES))
    tries = "SELECT try_number FROM task_instance WHERE task_id = 'download' AND run_id = ?"
    assert running.query(tries, run)[0][0] >= 2
    photos = f"{running.home}/data/photos"
    assert seen(photos) == seen(undisturbed / "photos")

    done = "SELECT state FROM dag_run WHERE dag_id = 'lavabeam_train' AND run_type = 'asset_triggered'"
    wait_for("training after a mix", lambda: ("success",) in running.query(done))
    finetune = f"{running.home}/data/finetune"
    wait_for(
        "announcement of the newest mix", lambda: running.announced("samples")[-1]["manifest"] == manifest(finetune)
    )
    assert running.announced("samples")[-1]["path"] == finetune
    assert running.query("SELECT count(*) FROM dag_run WHERE state = 'failed'") == [(0,)]
