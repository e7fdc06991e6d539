"""What a worker process does with frames, in this process: its names come and go while it answers."""

import queue
import threading

import pytest

from lavabeam.serving.embedded import check
from lavabeam.serving.process import Service
from lavabeam.serving.settings import ModelSpec
from schemas.errors import InputError
from tests.trainer.inference.adapters import random_adapter
from trainer.inference.answer import Answerer
from trainer.inference.prompts import question


class Heard(queue.SimpleQueue):
    """What the worker says, until a condition holds: `pieces` by question, `failed` by question, attached names."""

    def __init__(self):
        self.pieces, self.failed, self.done, self.attached = {}, {}, set(), set()

    def send(self, message):
        self.put(message)

    def until(self, condition):
        while not condition(self):
            message = self.get(timeout=60)
            if message["is"] == "pieces":
                for number, text, finish, *_ in message["events"]:
                    self.pieces[number] = self.pieces.get(number, "") + text
                    self.done |= {number} if finish else set()
            elif message["is"] == "failed":
                self.failed[message["number"]] = (message["status"], message["message"])
            else:
                self.attached.add(message["name"])


@pytest.fixture
def worker(tiny, tmp_path):
    """(service, what it says): the tiny model as `base`, an adapter of it as `tuned`."""
    adapter = random_adapter(tiny / "model", 1, tmp_path / "adapter")
    spec = {"options": {"threads": 1}, "load": None, "device": "cpu", "template": None, "most_running": 8}
    heard = Heard()
    service = Service({**spec, "name": "base", "checkpoint": str(tiny / "model")}, heard)
    threading.Thread(target=service.run, daemon=True).start()
    service.take({**spec, "do": "attach", "name": "tuned", "checkpoint": str(adapter)}, [])
    heard.until(lambda heard: "tuned" in heard.attached)
    return service, heard


def ask(service, number, model, text, max_tokens=90):
    messages = question(text).messages
    sampling = {"temperature": 0, "top_p": 1, "seed": None, "stop": [], "stream": True}
    asked = {"do": "ask", "number": number, "model": model, "messages": messages, "max_tokens": max_tokens}
    service.take({**asked, **sampling}, [])


def test_questions_to_an_adapter_that_goes_end_and_those_to_its_base_go_on(worker, tiny):
    service, heard = worker
    texts = {number: "say it " * (number + 1) for number in range(3)}
    for number, text in texts.items():
        ask(service, number, "base", text)
        ask(service, 10 + number, "tuned", text)
    heard.until(lambda heard: {0, 10, 11, 12} <= heard.pieces.keys())
    service.take({"do": "detach", "name": "tuned"}, [])
    ask(service, 20, "tuned", "too late")
    heard.until(lambda heard: heard.done | heard.failed.keys() >= {0, 1, 2, 10, 11, 12, 20})
    removed = (404, "the model was removed before it had answered.")
    assert heard.failed == dict.fromkeys({10, 11, 12, 20} - heard.done, removed)
    assert 20 in heard.failed
    answerer = Answerer(tiny / "model", device="cpu")
    alone = {number: answerer.answer([question(text)], 90)[0].text for number, text in texts.items()}
    assert {number: heard.pieces[number] for number in texts} == alone


def test_a_question_that_was_taken_back_before_it_was_prepared_is_not(worker):
    service, heard = worker
    prepared = []
    service._prepared = lambda message, images: prepared.append(message["number"])
    service._preparing.add(1)
    service._cancelled.add(1)
    service._prepare({"number": 1}, [])
    service._prepare({"number": 2}, [])
    assert prepared == [2]
    assert (service._preparing, service._cancelled, heard.failed) == (set(), set(), {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threads": "abc"}, "option threads: found 'abc'"),
        ({"threads": -3}, "option threads: found -3"),
        ({"base": 5}, "option base: found 5"),
        ({"thread": 1}, "Did you mean 'threads'"),
    ],
)
def test_an_option_is_checked_before_anything_is_loaded(tiny, options, words):
    with pytest.raises(InputError, match=words):
        check(ModelSpec(name="a", checkpoint=str(tiny / "model"), options=options))
