"""Bodies of requests and pictures in them: what is wrong is said by field; nothing of this machine is read."""

import asyncio
import base64
import json
import threading

import pytest

from lavabeam.serving.errors import RequestError
from lavabeam.serving.pictures import Pictures
from lavabeam.serving.requests import parse_request
from lavabeam.serving.settings import ModelSpec, ServeSettings, parse_specs
from schemas.errors import InputError
from tests.lavabeam.serving.conftest import hollow
from tests.pipelines.download.web import Web
from tests.trainer.conftest import picture

USER = {"role": "user", "content": "hello"}


def parsed(**given):
    return parse_request(json.dumps({"model": "m", "messages": [USER], **given}).encode())


def refused(body):
    with pytest.raises(RequestError) as caught:
        parse_request(body if isinstance(body, bytes) else json.dumps(body).encode())
    assert caught.value.status == 400
    return caught.value


def test_messages_become_those_of_a_samples_row():
    shown = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}}]}
    shown["content"].append({"type": "text", "text": "what?"})
    said = [{"role": "developer", "content": "be short"}, shown, {"role": "assistant", "content": None}, USER]
    request = parsed(messages=said)
    assert request.messages == [
        {"role": "system", "content": [{"type": "text", "text": "be short"}]},
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "what?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": ""}]},
        {"role": "user", "content": [{"type": "text", "text": "hello"}]},
    ]
    assert request.images == [("data:a", "messages.1.content.0.image_url.url")]
    assert (request.temperature, request.top_p, request.stop, request.max_tokens) == (0.0, 1.0, (), None)


def test_what_asks_for_nothing_is_no_error():
    parsed(n=1, logprobs=False, tools=[], frequency_penalty=0, response_format={"type": "text"}, user="u", seed=None)


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"temprature": 1}, "temprature", "Did you mean 'temperature'?"),
        ({"n": 2}, "n", "not supported"),
        ({"tools": [{}]}, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
        ({"temperature": 2.1}, "temperature", "from 0 to 2"),
        ({"temperature": True}, "temperature", "a number"),
        *(({name: 10**400}, name, "expected a") for name in ("max_tokens", "temperature", "top_p", "seed")),
        ({"\ud800": 1}, "\\ud800", "unknown field"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://\ud800/"}}]}
                ]
            },
            "messages.0.content.0.image_url",
            "surrogate",
        ),
        ({"top_p": float("nan")}, "top_p", "from 0 to 1"),
        ({"max_tokens": 0}, "max_tokens", "whole number"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "not both"),
        ({"seed": 1.5}, "seed", "whole number"),
        ({"stop": ["a", ""]}, "stop", "none empty"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": {"usage": True}}, "stream_options", "include_usage"),
        ({"model": None}, "model", "the name of a model"),
        ({"messages": []}, "messages", "1 to 1024"),
        ({"messages": ["hello"]}, "messages.0", "an object"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "system, user or assistant"),
        ({"messages": [USER, {"role": "system", "content": "x"}, USER]}, "messages.1.role", "in front of"),
        ({"messages": [USER, {"role": "assistant", "content": "x"}]}, "messages.1.role", "a user message as the last"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content", "list of parts"),
        ({"messages": [{"role": "user", "content": [{"type": "audio"}]}]}, "messages.0.content.0.type", "image_url"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content", "surrogate"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.image_url",
            "url",
        ),
        (
            {"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": "x"}]}, USER]},
            "messages.0.content.0.type",
            "only a user message",
        ),
    ],
)
def test_a_wrong_field_is_named(given, param, words):
    error = refused({"model": "m", "messages": [USER], **given})
    assert (error.param, words in error.message) == (param, True), error.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe{}", b"3"])
def test_a_body_that_is_no_object_is_400(body):
    assert refused(body).code in ("invalid_json", "invalid_value")


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def collected(*urls, **settings):
    pictures = Pictures(ServeSettings(**settings))
    return asyncio.run(pictures.collect([(url, f"place {number}") for number, url in enumerate(urls)]))


def test_pictures_come_in_their_order():
    assert collected(data_url(picture(1)), data_url(picture(2), "image/PNG")) == (picture(1), picture(2))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/etc/passwd", "Files of the server are not read"),
        ("file:///etc/passwd", "Files of the server are not read"),
        ("FTP://host/a.png", "expected an http"),
        ("data:image/png,abc", "base64"),
        ("data:image/png;base64,@@@@", "not base64"),
        (data_url(b"<html>"), "not_image"),
        (data_url(hollow(30_000)), "too_many_pixels"),
        (data_url(hollow(6_000)), "at most"),
        (data_url(b"\x89PNG" + bytes(3000)), "more than 2000 bytes"),
        ("http://127.0.0.1:9/a.png", "private_address"),
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("http://[::1]/a.png", "private_address"),
        ("https://", "bad_url"),
    ],
)
def test_what_is_no_picture_is_400_and_nothing_is_read(url, words):
    with pytest.raises(RequestError) as caught:
        collected(url, max_image_bytes=2000)
    assert (caught.value.status, caught.value.param) == (400, "place 0")
    assert words in caught.value.message


def test_a_pictures_address_passes_the_guard_of_downloads_at_every_hop():
    async def shown(request):
        await request.send(picture(1), Content_Type="image/png")

    async def inwards(request):
        await request.send(status="302 Found", Location="http://169.254.169.254/a.png")

    async def endless(request):
        await asyncio.sleep(60)

    with Web({"/a.png": shown, "/in": inwards, "/slow": endless}) as web:
        home, allowed = f"http://127.0.0.1:{web.port}", (f"127.0.0.1:{web.port}",)
        with pytest.raises(RequestError, match="private_address"):
            collected(f"{home}/a.png")
        assert not web.hits
        assert collected(f"{home}/a.png", allow_private_hosts=allowed) == (picture(1),)
        with pytest.raises(RequestError, match="private_address"):
            collected(f"{home}/in", allow_private_hosts=allowed)
        with pytest.raises(RequestError, match="timeout"):
            collected(f"{home}/slow", allow_private_hosts=allowed, fetch_seconds=0.2)


def test_too_many_pictures_are_refused():
    with pytest.raises(RequestError, match="3 pictures, at most 2"):
        collected(*[data_url(picture(1))] * 3, max_images=2)


def test_names_of_checkpoints(tmp_path):
    (tmp_path / "a=b").mkdir()
    words = ["x=/models/one", "/runs/tuned/model", "/runs/lora/adapter/", str(tmp_path / "a=b")]
    with pytest.raises(InputError, match="'a=b' is not a name"):
        parse_specs(words)
    specs = parse_specs(words[:3], load="4bit")
    assert [spec.name for spec in specs] == ["x", "tuned", "lora"]
    assert specs[0] == ModelSpec(name="x", checkpoint="/models/one", load="4bit")
    with pytest.raises(InputError, match="'x' is given twice"):
        parse_specs(["x=a", "x=b"])


def test_a_host_that_is_slow_holds_up_no_other_host_and_not_for_ever(monkeypatch):
    ended = threading.Event()

    def fetch(url, *_, **__):
        if "slow" in url:
            ended.wait(30)
        return picture(1)

    monkeypatch.setattr("pipelines.download.single.fetch_picture", fetch)

    async def scenario():
        pictures = Pictures(ServeSettings(fetch_seconds=0.5))
        slow = [asyncio.create_task(pictures.collect([("https://slow/a.png", "one")])) for _ in range(60)]
        await asyncio.sleep(0)
        for task in slow[:20]:
            task.cancel()  # their threads are still at it
        assert await pictures.collect([("https://quick/a.png", "one")]) == (picture(1),)
        with pytest.raises(RequestError, match="slow hosts") as caught:
            await slow[-1]
        assert caught.value.status == 503
        ended.set()
        await asyncio.gather(*slow, return_exceptions=True)
        assert await pictures.collect([("https://slow/a.png", "one")] * 16) == (picture(1),) * 16

    try:
        asyncio.run(asyncio.wait_for(scenario(), 30))
    finally:
        ended.set()


@pytest.mark.parametrize("name", ["../é x", "a/b", "é", "", " ", "-x", "a b", "a\nb", "x" * 65, "/runs/lr"])
def test_a_name_that_is_none_is_not_taken_for_a_part_of_a_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"is not a name \(letters, digits.*Write NAME=models/one\.") as caught:
        parse_specs([f"{name}=models/one"])
    assert repr(name) in str(caught.value) and "no such folder" in str(caught.value)


def test_a_folder_that_is_there_may_have_an_equals_sign(tmp_path):
    folder = tmp_path / "lr=2e-5" / "run1" / "model"
    folder.mkdir(parents=True)
    assert [(one.name, one.checkpoint) for one in parse_specs([str(folder), f"b={folder}"])] == [
        ("run1", str(folder)),
        ("b", str(folder)),
    ]
