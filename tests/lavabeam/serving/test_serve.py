"""`lavabeam serve` as a user starts it, with a real checkpoint in a real worker process."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import openai
import psutil
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from schemas.errors import InputError
from tests.lavabeam.serving.conftest import hollow
from tests.trainer.conftest import picture
from tests.trainer.inference.adapters import random_adapter
from trainer.inference.answer import Answerer
from trainer.inference.prompts import question

TEXTS = ("what color is it?", "is it red?", "say something about the picture")


def call(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture
def adapter(tiny, tmp_path):
    return random_adapter(tiny / "model", 1, tmp_path / "tuned" / "adapter")


@pytest.fixture
def served(tiny, adapter, tmp_path):
    """A running server, as (its process, its address)."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "lavabeam", "serve", f"tiny={tiny / 'model'}", adapter]
    command += ["--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        found = re.match(r"(http://127\.0\.0\.1:\d+)/v1 serves tiny, tuned \(token for add and remove: (\S+)\)", line)
        assert found, line
        yield process, found[1], found[2]
    finally:
        process.kill()
        process.wait()


def messages(text, number):
    url = f"data:image/png;base64,{base64.b64encode(picture(number)).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return [{"role": "user", "content": parts}]


def answers(checkpoint):
    """(text, number of the picture) -> what `lavabeam answer` says."""
    answerer = Answerer(checkpoint, device="cpu")
    cases = list(zip(TEXTS, (1, 2, 3), strict=True))
    return {one: answerer.answer([question(one[0], (picture(one[1]),))], 8)[0].text for one in cases}


def test_a_server_answers_as_lavabeam_answer_and_outlives_its_worker(served, tiny, adapter):
    process, address, token = served
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    wanted, tuned = answers(tiny / "model"), answers(adapter)

    def texts(model="tiny"):
        asked = {"model": model, "max_tokens": 8}
        return {
            one: client.chat.completions.create(messages=messages(*one), **asked).choices[0].message.content
            for one in wanted
        }

    assert texts() == wanted
    assert texts("tuned") == tuned != wanted
    for one, text in wanted.items():
        stream = client.chat.completions.create(model="tiny", messages=messages(*one), max_tokens=8, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    with pytest.raises(openai.BadRequestError, match=r"tokens, the model's limit is 128"):
        client.chat.completions.create(model="tiny", messages=messages("is it red? " * 100, 1))
    with pytest.raises(openai.BadRequestError, match="cannot be decoded"):
        data = base64.b64encode(hollow(64)).decode()
        part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}])
    (worker,) = psutil.Process(process.pid).children()
    worker.suspend()  # so that the question is certainly with it
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(texts)
        while b'lavabeam_questions{model="tiny"} 1.0' not in urlopen(f"{address}/metrics").read():
            time.sleep(0.02)
        worker.kill()
        with pytest.raises(openai.InternalServerError, match="signal SIGKILL"):
            waiting.result()
    assert texts() == wanted
    given = ("--url", address, "--token-file", token)
    listed = json.loads(call("serve", "list", *given, "--json").stdout)
    shown = [(one["id"], one["state"], one["precision"]) for one in listed]
    assert shown == [("tiny", "ready", "float32"), ("tuned", "ready", "float32")]
    assert isinstance(call("serve", "add", tiny / "llm", *given).exception, InputError)
    assert call("serve", "remove", "tiny", *given).exit_code == 0
    with pytest.raises(openai.NotFoundError, match="there is no model 'tiny'"):
        texts()
    assert call("serve", "add", f"again={adapter}", *given).stdout == "again: ready, llava/llama, float32\n"
    assert texts("again") == texts("tuned") == tuned
    assert len(psutil.Process(process.pid).children()) == 1  # one process, one copy of the base
    assert os.stat(token).st_mode & 0o777 == 0o600
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not os.path.exists(token)


def test_bad_input_is_one_line_before_anything_is_loaded(tiny, tmp_path, monkeypatch):
    import socket

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("lavabeam.serving.run._run", lambda *_: pytest.fail("it was started"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        cases = {
            "no such folder": ["none"],
            "given twice": [tiny / "model", tiny / "model"],
            "cannot be bound": [tiny / "model", "--port", port],
            "expected cpu": [tiny / "model", "--device", "gpu"],
            "contains no key": [tiny / "model", "--api-keys", tmp_path / "keys"],
            "is not an address": [tiny / "model", "--host", "no.such.host.invalid"],
        }
        (tmp_path / "keys").write_text("\n")
        for words, given in cases.items():
            error = call("serve", *given).exception
            assert isinstance(error, InputError), (words, error)
            assert words in str(error)
    monkeypatch.setattr("trainer.inference.checkpoint.importlib.util.find_spec", lambda name: None)
    error = call("serve", tiny / "model", "--load", "4bit").exception
    assert "pip install 'lavabeam[" in str(error)
    error = call("serve", "list", "--url", "http://127.0.0.1:9").exception
    assert "serve-9.token: no such file" in str(error)
    (tmp_path / "other").write_text("not a token\nbut a file\n")
    error = call("serve", "list", "--url", "http://127.0.0.1:9", "--token-file", tmp_path / "other").exception
    assert "other: not a token" in str(error) and "but a file" not in str(error)
