"""A local stand-in for Dataflow's REST service, which executes the very jobs that it is sent.

It takes the graph that was staged (pipeline.pb), and runs it with worker processes of a virtual environment that holds
what the job's packages install there, and nothing else. Those of one list of requirements are kept in `folder`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.transforms.environments import SubprocessSDKEnvironment
from google.cloud.dataflow_v1beta3 import JobState

from tests.dataflow.buckets import Buckets


class Dataflow:
    """`jobs` by id, as they were sent, each with its `currentState`. `execute(job)` runs one and may raise."""

    def __init__(self, execute: Callable[[dict[str, Any]], None]):
        self.jobs: dict[str, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.execute = execute
        handler = type("JobHandler", (Handler,), {"service": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server.server_address[1]}"

    def create(self, path: str, job: dict[str, Any]) -> dict[str, Any]:
        parts = path.split("/")
        number = f"2026-11-28_00_00_00-{len(self.jobs) + 1}"
        placed = {"id": number, "projectId": parts[parts.index("projects") + 1]}
        placed |= {"location": parts[parts.index("locations") + 1], "createTime": "2026-11-28T00:00:00Z"}
        self.jobs[number] = {**job, **placed, "currentState": "JOB_STATE_RUNNING"}
        threading.Thread(target=self._run, args=(number,), daemon=True).start()
        return self.jobs[number]

    def update(self, number: str, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted.get("requestedState") == JobState.JOB_STATE_CANCELLED:
            self.cancelled.append(number)
            self.jobs[number]["currentState"] = "JOB_STATE_CANCELLED"
        return self.jobs[number]

    def messages(self, number: str) -> dict[str, Any]:
        if number not in self.errors:
            return {"jobMessages": []}
        importance, time = "JOB_MESSAGE_ERROR", "2026-11-28T00:00:01Z"
        message = {"id": "1", "time": time, "messageText": self.errors[number], "messageImportance": importance}
        return {"jobMessages": [message]}

    def _run(self, number: str) -> None:
        job = self.jobs[number]
        try:
            self.execute(job)
        except Exception as error:
            self.errors[number] = str(error)
            job["currentState"] = "JOB_STATE_FAILED"
        else:
            job["currentState"] = "JOB_STATE_DONE"


class Handler(BaseHTTPRequestHandler):
    """projects.locations.jobs: create, get, update, messages.list."""

    service: Dataflow
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        self._send(self.service.create(self.path.partition("?")[0], self._body()))

    def do_PUT(self) -> None:
        self._send(self.service.update(self.path.partition("?")[0].rsplit("/", 1)[-1], self._body()))

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        number = path.partition("/jobs/")[2].partition("/")[0]
        if path.endswith("/messages"):
            return self._send(self.service.messages(number))
        return self._send(self.service.jobs[number])

    def _body(self) -> dict[str, Any]:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _send(self, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Workers:
    """Executes jobs in processes of their own virtual environment; `graphs` are those that ran.

    Processes get `environment` besides that of the test; `folder` keeps virtual environments.
    """

    def __init__(self, buckets: Buckets, folder: Path, environment: Mapping[str, str]):
        self.buckets, self.folder = buckets, folder
        self.environment = [f"{name}={value}" for name, value in environment.items()]
        self.graphs: list[bytes] = []
        self.wheels: dict[str, bytes] = {}

    def execute(self, job: dict[str, Any]) -> None:
        graph = beam_runner_api_pb2.Pipeline.FromString(self.staged(job)["pipeline.pb"])
        self.graphs.append(graph.SerializeToString())
        module = "apache_beam.runners.worker.sdk_worker_main"
        command = shlex.join(["env", *self.environment, str(self.installed(job)), "-P", "-m", module])
        subprocesses = SubprocessSDKEnvironment(command_string=command).to_runner_api(None)
        for environment in graph.components.environments.values():
            environment.urn, environment.payload = subprocesses.urn, subprocesses.payload
            del environment.dependencies[:]
        FnApiRunner().run_via_runner_api(graph, PipelineOptions()).wait_until_finish()

    def staged(self, job: dict[str, Any]) -> dict[str, bytes]:
        """The files of a job by name: its packages, and its graph."""
        places = {one["name"]: one["location"] for one in job["environment"]["workerPools"][0].get("packages", ())}
        options = job["environment"]["sdkPipelineOptions"]["options"]
        places["pipeline.pb"] = options["pipelineUrl"].replace("gs://", "storage.googleapis.com/")
        return {name: self._content(place) for name, place in places.items()}

    def _content(self, place: str) -> bytes:
        bucket, _, name = place.removeprefix("storage.googleapis.com/").partition("/")
        return self.buckets.get((bucket, name)).content

    def installed(self, job: dict[str, Any]) -> Path:
        """The interpreter of a job's workers: as Beam's container does, pip installs the list, then the wheels."""
        files = self.staged(job)
        named = hashlib.sha256(files["requirements.txt"] + sys.version.encode()).hexdigest()[:12]
        place = self.folder / f"workers-{named}"
        python = place / "bin" / "python"
        if not (place / "ready").exists():
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            (place / "requirements.txt").write_bytes(files["requirements.txt"])
            _pip(python, "install", "--no-compile", "-r", str(place / "requirements.txt"))
            (place / "ready").touch()
        wheels = {name: files[name] for name in files if name.endswith(".whl")}
        if self.wheels != wheels:
            for name, content in wheels.items():
                (place / name).write_bytes(content)
                _pip(python, "install", "--force-reinstall", "--no-deps", str(place / name))
            _pip(python, "check")
            found = [python, "-P", "-c", "import pipelines; print(pipelines.__file__)"]
            assert subprocess.check_output(found, text=True).startswith(str(place))
            self.wheels = wheels
        return python


def _pip(python: Path, *words: str) -> None:
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"pip {' '.join(words)}: {done.stdout}{done.stderr}")
