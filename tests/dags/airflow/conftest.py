"""Airflow with the DAGs that `lavabeam dags` writes, in a home of its own; a website and an LLM on this machine."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from lavabeam.demo.teacher import MODEL, Teacher
from schemas import Dataset
from schemas.chat import load_tokenizer
from tests.dags.conftest import AIRFLOW, DATES, DOWNLOAD, ROOT
from tests.trainer.conftest import RULE, save_llm
from tests.trainer.conftest import tiny as tiny_models
from trainer.models.assemble import assemble

tiny = tiny_models
LAVABEAM = f"env PYTHONPATH={ROOT} {sys.executable} -m lavabeam"


@pytest.fixture(scope="session")
def teacher():
    with Teacher() as running:
        yield running


@pytest.fixture(scope="session")
def alerts():
    """(the address that failures are told to, what was told)"""
    told: list[str] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self):
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Chat) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", told
        server.shutdown()


@pytest.fixture(scope="session")
def settings(lists, teacher, alerts, tmp_path_factory):
    """What all runs have in common: small, quick, and only servers of this machine."""
    cache = tmp_path_factory.mktemp("cache")
    asked = {"base_url": teacher.base_url, "provider": MODEL, "model": MODEL, "temperature": 0, "cache": str(cache)}
    return {
        "command": LAVABEAM,
        "alert_url": alerts[0],
        "retry_delay_s": 1,
        "wait_for_lists_s": 0,
        "lists": f"{lists}/{{date}}*.csv",
        "workers": 1,
        "download_options": DOWNLOAD,
        "caption_options": None,
        "generate_options": {**asked, "kinds": ["detail"], "price": {"input": 1, "output": 1}},
        "train_recipe": "recipe.yaml",
    }


class Airflow:
    """A home: DAG files, settings, a migrated database, and the environment that Airflow's commands need."""

    def __init__(self, home: Path, settings: dict):
        self.home, self.dags = home, home / "dags"
        self.log = (home / "log.txt").open("ab")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{AIRFLOW / 'bin'}:{os.environ['PATH']}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
        }
        subprocess.run([*LAVABEAM.split(), "dags", "--out", str(self.dags)], check=True, capture_output=True)
        (self.dags / "lavabeam.yaml").write_text(yaml.safe_dump(settings))
        self.call("db", "migrate")

    @property
    def database(self) -> Path:
        return self.home / "airflow.db"

    def call(self, *words: str) -> None:
        subprocess.run(["airflow", *words], env=self.environment, stdout=self.log, stderr=self.log, check=True)

    def query(self, text: str, *values: str) -> list[tuple]:
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30) as connection:
            return connection.execute(text, values).fetchall()

    def announced(self, asset: str) -> list[dict]:
        """What every event of an asset carries, oldest first."""
        text = "SELECT e.extra FROM asset_event e JOIN asset a ON a.id = e.asset_id WHERE a.name = ? ORDER BY e.id"
        return [json.loads(extra) for (extra,) in self.query(text, f"lavabeam_{asset}")]


class Driver:
    """The process that runs DAGs with `dag.test()`."""

    def __init__(self, airflow: Airflow):
        python, script = AIRFLOW / "bin/python", Path(__file__).with_name("driver.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": airflow.log, "text": True}
        self.airflow = airflow
        self.process = subprocess.Popen([python, script], env=airflow.environment, **pipes)
        self.loaded = json.loads(self.process.stdout.readline())

    def run(self, dag: str, date: str | None = None, **conf) -> dict[str, str]:
        """Task -> state."""
        self.process.stdin.write(json.dumps({"dag": f"lavabeam_{dag}", "date": date, "conf": conf}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def said(self) -> str:
        """All that was logged so far."""
        return (self.airflow.home / "log.txt").read_text()


@pytest.fixture(scope="session")
def driver(settings, tmp_path_factory):
    """With the example of the documentation among the DAGs."""
    airflow = Airflow(tmp_path_factory.mktemp("airflow"), settings)
    shutil.copy(airflow.dags / "examples" / "verify.py", airflow.dags)
    found = Driver(airflow)
    yield found
    found.process.stdin.close()
    assert found.process.wait(60) == 0


@pytest.fixture(scope="session")
def ingested(driver, tmp_path_factory):
    """The folder after one date."""
    folder = tmp_path_factory.mktemp("ingested")
    states = driver.run("ingest", DATES[0], folder=str(folder))
    assert set(states.values()) == {"success"}, driver.said()[-5000:]
    return folder


@pytest.fixture(scope="session")
def recipes(tiny, tmp_path_factory):
    """Recipes of both mixes and both stages, around a tiny model that takes 2,048 tokens."""
    tokenizer = load_tokenizer(tiny / "tokenizer")
    save_llm(tiny / "long", tiny / "tokenizer", tokenizer.vocab_size, max_position_embeddings=2048)
    assemble(tiny / "tower", tiny / "long", tiny / "start", rule=RULE, template="mistral")
    folder = tmp_path_factory.mktemp("recipes")
    image = {"mode": RULE.mode, "image_size": RULE.image_size, "patch_size": RULE.patch_size}
    mixed = {"tokenizer": str(tiny / "start"), "template": "mistral", "image": image}
    sources = {"talks": {"conversations": "talks", "images": "photos"}}
    captions = {"captions": {"captions": "alt_text", "images": "photos"}}
    (folder / "mix.yaml").write_text(yaml.safe_dump({**mixed, "sources": sources}))
    (folder / "mix-pretrain.yaml").write_text(yaml.safe_dump({**mixed, "sources": captions}))
    for stage in ("pretrain", "finetune"):
        values = {
            "stage": stage,
            "model": {"checkpoint": str(tiny / "start")},
            "data": {"mix": "set by the DAG"},
            "plan": {"global_batch": 4},
            "optimizer": {"learning_rate": 1e-3},
            "steps": 2,
            "trackers": [],
            "output": "set by the DAG",
        }
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(values))
    return folder


def manifest(dataset) -> int:
    return Dataset.open(dataset).manifest.number
