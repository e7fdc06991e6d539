"""Other servers as workers: one that runs, and one that is started from an environment of its own."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lavabeam.serving import launched, remote
from lavabeam.serving.errors import RequestError
from lavabeam.serving.launched import LaunchedWorker
from lavabeam.serving.probe import PICTURE, probe
from lavabeam.serving.remote import RemoteWorker
from lavabeam.serving.settings import ModelSpec, ServeSettings, parse_specs
from lavabeam.serving.worker import Question, WorkerLost, answer
from schemas.errors import InputError
from tests.lavabeam.serving.stub import Stub, serving
from tests.trainer.conftest import tiny  # noqa: F401
from trainer.models.folder import ModelFolder
from trainer.runfolder import WEIGHTS, weights_digest

PARTS = [{"type": "image", "text": None}, {"type": "text", "text": "What is this?"}]
QUESTION = Question([{"role": "user", "content": PARTS}], (PICTURE,), 5, 0.5, 0.9, 3, ("END",))


@pytest.fixture
def stub():
    with serving(Stub()) as made:
        made.models = {"llava": lambda body: ["a ", "square"]}
        yield made


def asked(worker, work):
    """What `work(worker)` gives, between the worker's start and its end."""

    async def run():
        await worker.start()
        try:
            return await work(worker)
        finally:
            await worker.stop(1)

    return asyncio.run(run())


def remote_to(address, name="mine", **options):
    return RemoteWorker(ModelSpec(name=f"{name}.1", checkpoint=address, backend="remote", options=options))


def test_a_server_that_runs_answers_and_gets_checked_pictures_alone(stub):
    text, last = asked(remote_to(stub.address), lambda worker: answer(worker, QUESTION))
    assert (text, last.finish, last.prompt_tokens, last.answer_tokens) == ("a square", "stop", 7, 2)
    (body,) = stub.asked
    shown, words = body.pop("messages")[0]["content"]
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert words["text"] == "What is this?"
    assert body == {
        "model": "llava",
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 5,
        "seed": 3,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_a_model_is_named_or_the_one_of_our_name_or_the_only_one(stub):
    async def model(worker):
        return worker.called(QUESTION)

    assert asked(remote_to(stub.address), model) == "llava"
    stub.models["mine"] = stub.models["llava"]
    assert asked(remote_to(stub.address), model) == "mine"
    assert asked(remote_to(f"{stub.address}#llava"), model) == "llava"
    with pytest.raises(InputError, match=r"has no model 'other'. Models: llava, mine."):
        asked(remote_to(f"{stub.address}/v1#other"), model)


def test_errors_of_a_server_are_the_clients_or_a_lost_worker(stub):
    stub.models["llava"] = lambda body: "the prompt has 600 tokens, at most 512 fit."
    with pytest.raises(RequestError, match="600 tokens") as refused:
        asked(remote_to(stub.address), lambda worker: answer(worker, QUESTION))
    assert refused.value.status == 400

    async def cut(worker):
        stub.models["llava"], stub.cut = lambda body: ["half"], {"llava"}
        with pytest.raises(WorkerLost, match="ended in the middle"):
            await answer(worker, QUESTION)
        return await asyncio.wait_for(worker.lost(), 5)

    assert "ended in the middle" in asked(remote_to(stub.address), cut)


def test_a_server_that_goes_away_is_lost_also_when_nobody_asks(monkeypatch):
    monkeypatch.setattr(remote, "LOOK_S", 0.05)

    async def run(stub):
        worker = remote_to(stub.address)
        await worker.start()
        return worker

    async def lost():
        with serving(Stub()) as stub:
            stub.models = {"llava": lambda body: ["a"]}
            worker = await run(stub)
        assert "no longer answers" in await asyncio.wait_for(worker.lost(), 10)
        await worker.stop(0)

    asyncio.run(lost())


def test_leaving_an_answer_early_ends_the_request(stub):
    stub.word_s, stub.models["llava"] = 0.05, lambda body: ["word "] * 200

    async def leave(worker):
        pieces = worker.ask(QUESTION)
        await anext(pieces)
        await pieces.aclose()
        for _ in range(100):
            if stub.left_early:
                return True
            await asyncio.sleep(0.05)
        return False

    assert asked(remote_to(stub.address), leave)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"load": "4bit"}, "--load does not apply to a server that is already running"),
        ({"options": {"modle": "x"}}, "has no option 'modle'. Did you mean 'model'"),
        ({"options": {"key_env": "NO_SUCH_VARIABLE"}}, "NO_SUCH_VARIABLE holds no key"),
        ({"checkpoint": "ftp://host"}, "expected the http or https address"),
    ],
)
def test_what_a_server_that_runs_cannot_be_told_is_refused(given, words):
    spec = {"name": "mine", "checkpoint": "http://127.0.0.1:9", "backend": "remote", **given}
    with pytest.raises(InputError, match=words):
        remote.check(ModelSpec(**spec))


def test_addresses_are_remote_and_need_a_name():
    folder, address = parse_specs(["a=/models/a", "b=http://127.0.0.1:9/v1"], "MY_KEY", load="4bit")
    assert (folder.backend, folder.load, address.backend, address.load) == ("embedded", "4bit", "remote", None)
    assert (address.checkpoint, address.options) == ("http://127.0.0.1:9/v1", {"key_env": "MY_KEY"})
    with pytest.raises(InputError, match=r"Write NAME=http://127\.0\.0\.1:9"):
        parse_specs(["http://127.0.0.1:9"])


PLAYED_VLLM = '''
"""Plays vLLM: its arguments, its routes, its slow end, a process of its own beside it."""
import json, os, signal, subprocess, sys, time
sys.path[:0] = [{root!r}]
from tests.lavabeam.serving.stub import Stub, serving

folder = sys.argv[sys.argv.index("--model") + 1]
assert "--enable-lora" in sys.argv, sys.argv
if "--die" in sys.argv:
    raise RuntimeError("head_dim=16 is unsupported")
engine = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
stub = Stub()
stub.models = {{"base": lambda body: ["base"]}}
stub.key = os.environ["VLLM_API_KEY"]
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
with serving(stub, int(sys.argv[sys.argv.index("--port") + 1])):
    open({marks!r}, "w").write(json.dumps([os.getpid(), engine.pid]))
    while not ended:
        time.sleep(0.05)
    time.sleep(0.5)
os._exit(0)
'''


@pytest.fixture
def python(tmp_path):
    """An environment with a vllm in it, as the path of its Python. It plays the routes for adapters too."""
    package = tmp_path / "lib" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    root = str(Path(__file__).parents[3])
    (package / "api_server.py").write_text(PLAYED_VLLM.format(root=root, marks=str(tmp_path / "pids")))
    script = tmp_path / "python"
    words = f'#!/bin/sh\n[ "$1" = -P ] && shift\nPYTHONPATH={tmp_path / "lib"} exec {sys.executable} "$@"\n'
    script.write_text(words)
    script.chmod(0o755)
    return script


def vllm(python, checkpoint, name="mine", **options):
    given = {"python": str(python), **options}
    return ModelSpec(name=f"{name}.1", checkpoint=str(checkpoint), backend="vllm", options=given)


def adapter(folder, base):
    """A folder that looks like the adapter of a LoRA run on `base`."""
    folder.mkdir()
    model = ModelFolder.open(base)
    origin = {"model": str(base), "weights": weights_digest(model.path, WEIGHTS), "template": model.template}
    (folder / "origin.json").write_text(json.dumps({**origin, "image": model.rule.to_dict()}))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    save_file({"q.lora_A.weight": np.zeros((2, 4), np.float32)}, folder / "adapter_model.safetensors")
    return folder


def pids(tmp_path):
    return json.loads((tmp_path / "pids").read_text())


def lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_vllm_is_started_asked_and_gone_with_its_port_and_all_that_it_started(python, tiny, tmp_path):  # noqa: F811
    spec = vllm(python, tiny / "model")
    launched.check(spec)
    worker = LaunchedWorker(spec, ServeSettings())
    lora = adapter(tmp_path / "adapter", tiny / "model")

    async def work(worker):
        await probe(worker, spec)
        other = vllm(python, lora, "tuned")
        launched.check(other)
        assert launched.group(other) == launched.group(spec)
        await worker.attach(other)
        texts = [(await answer(worker, Question(QUESTION.messages, (PICTURE,), model=name)))[0] for name in names]
        await worker.detach("tuned.1")
        with pytest.raises(InputError, match=r"vllm: .*No adapter found"):
            (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "away")
            await worker._post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(lora)}, "x")
        return texts

    names = ("mine.1", "tuned.1")
    assert asked(worker, work) == ["base", "tuned.1"]
    assert not any(lives(pid) for pid in pids(tmp_path))
    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe_socket.bind(("127.0.0.1", worker._port))


def test_a_server_that_ends_while_it_starts_says_why(python, tiny):  # noqa: F811
    worker = LaunchedWorker(vllm(python, tiny / "model", arguments=["--die"]), ServeSettings())
    with pytest.raises(InputError, match=r"vllm ended while it started: exit code 1 .*head_dim=16 is unsupported"):
        asyncio.run(worker.start())


def test_a_server_that_dies_is_lost_and_one_whose_gateway_is_killed_ends(python, tiny, tmp_path):  # noqa: F811
    async def kill(worker):
        server, engine = pids(tmp_path)
        os.kill(server, signal.SIGKILL)
        assert "exit code 137" in await asyncio.wait_for(worker.lost(), 10)
        return engine

    assert not lives(asked(LaunchedWorker(vllm(python, tiny / "model"), ServeSettings()), kill))
    code = (
        "import asyncio, os, signal; from lavabeam.serving.launched import *; from lavabeam.serving.settings import *\n"
        "async def run():\n"
        f"    spec = ModelSpec(name='m.1', checkpoint={str(tiny / 'model')!r}, backend='vllm', "
        f"options={{'python': {str(python)!r}}})\n"
        "    await LaunchedWorker(spec, ServeSettings()).start()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(run())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    server, engine = pids(tmp_path)
    end = asyncio.get_event_loop_policy().new_event_loop()
    end.run_until_complete(_until(lambda: not lives(server) and not lives(engine)))
    end.close()


async def _until(condition):
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


def test_what_vllm_cannot_serve_is_refused_before_it_starts(python, tiny, tmp_path):  # noqa: F811
    model = tiny / "model"
    lora = adapter(tmp_path / "adapter", model)
    cases = {
        "needs --backend-python": ModelSpec(name="m", checkpoint=str(model), backend="vllm"),
        "cannot be run": vllm(tmp_path / "nowhere", model),
        "there is no vllm in it": vllm(sys.executable, model),
        "--load is for our own worker": vllm(python, model).model_copy(update={"load": "4bit"}),
        "takes the folder's chat_template": vllm(python, model).model_copy(update={"template": "v1"}),
        "has no option 'arguements'": vllm(python, model, arguements=[]),
        "is an adapter, and lora is false": vllm(python, lora, lora=False),
    }
    for words, spec in cases.items():
        with pytest.raises(InputError, match=words):
            launched.check(spec)
    (lora / "projector.safetensors").write_bytes((lora / "adapter_model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"projector\.safetensors, trained in full, which vllm would silently ignore"):
        launched.check(vllm(python, lora))


REAL = os.environ.get("LAVABEAM_VLLM_PYTHON")


@pytest.mark.skipif(REAL is None, reason="vLLM: LAVABEAM_VLLM_PYTHON names no environment that has it")
def test_vllm_itself(tiny):  # noqa: F811
    """`tiny` has a head_dim that vLLM's CPU build does not take: it starts, and its first question says so."""
    arguments = ["--dtype", "float32", "--max-model-len", "256", "--enforce-eager"]
    spec = vllm(REAL, tiny / "model", arguments=arguments)
    launched.check(spec)
    with pytest.raises((InputError, WorkerLost)):
        asked(LaunchedWorker(spec, ServeSettings()), lambda worker: probe(worker, spec))
