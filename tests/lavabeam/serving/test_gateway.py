"""The gateway as clients meet it: answers, streams, true reasons, and workers that come and go behind it."""

import asyncio
import json

import pytest

from lavabeam.serving.registry import Registry
from lavabeam.serving.settings import ModelSpec, ServeSettings
from schemas.errors import InputError


def events(text):
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line]


def test_an_answer_and_a_stream_are_openais(played):
    async def scenario():
        async with played(m="first") as gateway:
            whole = (await gateway.chat("hello")).parsed
            assert whole["choices"][0] == {
                "index": 0,
                "message": {"role": "assistant", "content": "first: hello", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
            assert whole["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
            asked = await gateway.chat("long", stream=True, stream_options={"include_usage": True})
            *chunks, done = events(asked.parsed)
            assert (asked.content_type, done) == ("text/event-stream", "[DONE]")
            chunks = [json.loads(chunk) for chunk in chunks]
            assert chunks[-1]["usage"]["total_tokens"] == 10
            assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
            pieces = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]]
            assert "".join(pieces) == "".join(f"{number} " for number in range(100)) + "first: long"
            assert len({chunk["id"] for chunk in chunks}) == 1

    asyncio.run(scenario())


def test_what_is_asked_reaches_the_worker(played):
    async def scenario():
        async with played(m="first") as gateway:
            given = {"temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "x", "max_completion_tokens": 5, "user": "me"}
            assert (await gateway.chat("hello", **given)).status == 200
            asked = gateway.stage.asked[-1]
            assert (asked.temperature, asked.top_p, asked.seed, asked.stop, asked.max_tokens) == (
                0.5,
                0.9,
                3,
                ("x",),
                5,
            )

    asyncio.run(scenario())


def test_a_name_that_there_is_not_is_404_with_those_that_there_are(played):
    async def scenario():
        async with played(m="first", other="second") as gateway:
            answer = await gateway.chat(model="none")
            assert (answer.status, answer.parsed["error"]["code"]) == (404, "model_not_found")
            assert "Models: m, other." in answer.parsed["error"]["message"]
            listed = (await gateway.call("GET", "/v1/models")).parsed
            shown = {(one["id"], one["family"], one["precision"], one["state"]) for one in listed["data"]}
            assert shown == {(name, "llava/played", "float32", "ready") for name in ("m", "other")}

    asyncio.run(scenario())


def test_a_full_queue_is_429_and_is_told_when_to_come_again(played):
    async def scenario():
        async with played({"most_running": 1, "most_waiting": 1}, m="first") as gateway:
            held = [asyncio.create_task(gateway.chat("hold")) for _ in range(2)]
            while gateway.registry.models()[0].host.waiting < 2:
                await asyncio.sleep(0.01)
            refused = await gateway.chat()
            assert (refused.status, refused.parsed["error"]["code"]) == (429, "queue_full")
            assert int(refused.headers["Retry-After"]) >= 1
            gateway.stage.release.set()
            assert [(await one).status for one in held] == [200, 200]
            assert (await gateway.chat()).status == 200

    asyncio.run(scenario())


def test_a_worker_that_is_lost_is_503_and_the_next_question_is_answered(played):
    async def scenario():
        async with played(m="first") as gateway:
            held = asyncio.create_task(gateway.chat("half"))
            lost = await gateway.chat("die")
            assert (lost.status, lost.parsed["error"]["code"], lost.headers["Retry-After"]) == (503, "worker_lost", "1")
            assert (await held).status == 503
            assert (await gateway.chat()).parsed["choices"][0]["message"]["content"] == "first: hello"
            assert gateway.stage.started == ["first", "first"]
            stream = await gateway.chat("half", stream=True)
            last = json.loads(events(stream.parsed)[-1])
            assert (stream.status, last["error"]["code"]) == (200, "worker_lost")

    asyncio.run(scenario())


def test_a_worker_that_does_not_start_again_is_said_to_have_failed(played, monkeypatch):
    monkeypatch.setattr("lavabeam.serving.host.WAITS", (0.01, 0.01))

    async def scenario():
        async with played(m="first") as gateway:
            gateway.stage.broken.add("first")
            await gateway.chat("die")
            answer = await gateway.chat()
            assert (answer.status, answer.parsed["error"]["code"]) == (503, "not_available")
            assert "cannot be loaded" in answer.parsed["error"]["message"]
            gateway.stage.broken.clear()
            while (await gateway.call("GET", "/health")).parsed["models"]["m"] != "ready":
                await asyncio.sleep(0.01)
            assert (await gateway.chat()).status == 200

    asyncio.run(scenario())


def test_a_replaced_checkpoint_serves_until_the_new_one_has_answered(played):
    async def scenario():
        async with played(m="first") as gateway:
            running = asyncio.create_task(gateway.chat("hold"))
            replacing = asyncio.create_task(gateway.admin("POST", body=gateway.spec("m", "late")))
            while "late" not in gateway.stage.started:
                await asyncio.sleep(0.01)
            assert (await gateway.chat()).parsed["choices"][0]["message"]["content"] == "first: hello"
            gateway.stage.release.set()
            assert (await replacing).parsed["state"] == "ready"
            assert (await running).parsed["choices"][0]["message"]["content"] == "held first: hold"
            assert (await gateway.chat()).parsed["choices"][0]["message"]["content"] == "late: hello"
            assert gateway.stage.stopped == ["first"]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("checkpoint", "words"), [("mute", "failed to answer a test question"), ("wrong", "no such folder")]
)
def test_a_replacement_that_does_not_answer_changes_nothing(played, checkpoint, words):
    async def scenario():
        async with played(m="first") as gateway:
            refused = await gateway.admin("POST", body=gateway.spec("m", checkpoint))
            assert refused.status == 400
            assert words in refused.parsed["error"]["message"]
            assert (await gateway.chat()).parsed["choices"][0]["message"]["content"] == "first: hello"

    asyncio.run(scenario())


def test_names_come_and_go_by_the_token_alone(played):
    async def scenario():
        async with played(m="first") as gateway:
            for method, path in (("GET", ""), ("POST", ""), ("DELETE", "/m")):
                refused = await gateway.admin(method, path, {}, token="guessed")
                assert (refused.status, refused.parsed["error"]["code"]) == (401, "invalid_api_key")
            assert (await gateway.admin("POST", body=gateway.spec("n", "second"))).status == 200
            listed = (await gateway.admin("GET")).parsed["models"]
            assert [(one["id"], one["spec"]["checkpoint"]) for one in listed] == [("m", "first"), ("n", "second")]
            assert (await gateway.admin("DELETE", "/m")).status == 200
            assert (await gateway.chat()).status == 404
            assert (await gateway.admin("DELETE", "/m")).status == 404
            bad = await gateway.admin("POST", body={"name": "a/b", "checkpoint": "x"})
            assert (bad.status, "name" in bad.parsed["error"]["message"]) == (400, True)

    asyncio.run(scenario())


def test_keys_are_asked_for_where_there_are_some(played):
    async def scenario():
        async with played({"api_keys": ("secret",)}, m="first") as gateway:
            assert (await gateway.chat()).status == 401
            assert (await gateway.chat(headers={"Authorization": "Bearer wrong"})).status == 401
            assert (await gateway.chat(headers={"Authorization": "Bearer secret"})).status == 200
            assert (await gateway.call("GET", "/v1/models")).status == 401
            assert (await gateway.call("GET", "/health")).status == 200

    asyncio.run(scenario())


def test_a_worker_that_nobody_asks_is_unloaded_and_loaded_again(played):
    async def scenario():
        async with played({"idle_seconds": 0.05}, m="first") as gateway:
            while (await gateway.call("GET", "/health")).parsed["models"]["m"] != "idle":
                await asyncio.sleep(0.02)
            assert gateway.stage.stopped == ["first"]
            assert (await gateway.chat()).parsed["choices"][0]["message"]["content"] == "first: hello"
            assert gateway.stage.started == ["first", "first"]

    asyncio.run(scenario())


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_place(played, stream):
    async def scenario():
        async with played(m="first") as gateway:
            asking = asyncio.create_task(gateway.chat("hold", stream=stream))
            while not gateway.stage.workers[0].running:
                await asyncio.sleep(0.01)
            asking.cancel()
            while gateway.stage.workers[0].running:
                await asyncio.sleep(0.01)
            assert gateway.registry.models()[0].host.waiting == 0
            text = (await gateway.call("GET", "/metrics")).parsed
            assert 'lavabeam_requests_total{model="m",status="499"} 1.0' in text

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_body_is_bounded_before_it_is_read_and_in_time(played):
    async def scenario():
        async with played({"max_body": 2000, "body_seconds": 0.2}, m="first") as gateway:
            for words in ("x" * 3000, "y" * 300_000):
                refused = await gateway.chat(words)
                assert (refused.status, refused.parsed["error"]["code"]) == (413, "body_too_large")

            async def many():
                for _ in range(5):
                    yield b"x" * 1000

            headers = {"Content-Type": "application/json"}
            async with gateway.client.post("/v1/chat/completions", data=many(), headers=headers) as refused:
                assert refused.status == 413
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            assert await reader.read() == b""  # it sent nothing, and was not waited for
            writer.close()
            assert (await gateway.chat()).status == 200

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_what_takes_too_long_is_504(played):
    async def scenario():
        async with played({"answer_seconds": 0.1}, m="first") as gateway:
            late = await gateway.chat("hold")
            assert (late.status, late.parsed["error"]["code"]) == (504, "timeout")
            stream = await gateway.chat("hold", stream=True)
            assert json.loads(events(stream.parsed)[-1])["error"]["code"] == "timeout"
            assert gateway.stage.workers[0].running == 0

    asyncio.run(scenario())


def test_no_other_origin_and_no_form_is_served(played):
    async def scenario():
        async with played(m="first") as gateway:
            headers = {"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"}
            asked = await gateway.call("OPTIONS", "/v1/chat/completions", headers=headers)
            assert asked.status == 405
            assert not any(name.lower().startswith("access-control") for name in asked.headers)
            async with gateway.client.post("/v1/chat/completions", data=b"{}") as form:
                assert form.status == 415
            for path in ("/docs", "/openapi.json", "/nowhere"):
                missing = await gateway.call("GET", path)
                assert (missing.status, "message" in missing.parsed["error"]) == (404, True)

    asyncio.run(scenario())


def test_one_checkpoint_that_cannot_start_stops_the_others(played, monkeypatch):
    async def scenario():
        async with played(m="first") as gateway:
            gateway.stage.broken.add("second")
            specs = [ModelSpec(name=name, checkpoint=name, backend="played") for name in ("never", "second")]
            with pytest.raises(InputError, match="second: cannot be loaded"):
                await Registry(ServeSettings()).open(specs)
            assert {"never", "second"} <= set(gateway.stage.stopped)

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_names_of_one_group_share_a_worker_on_the_device_that_was_asked_for(played):
    async def scenario():
        async with played(group=True) as gateway:
            for name, device in (("a", "cpu"), ("b", None), ("c", "cpu"), ("d", "mps")):
                assert (await gateway.admin("POST", body=gateway.spec(name, "base", device=device))).status == 200
            assert gateway.stage.started == ["base", "base"]
            assert [(await gateway.chat(model=name)).status for name in "abcd"] == [200] * 4
            for name in "abc":
                assert gateway.stage.stopped == []
                assert (await gateway.admin("DELETE", f"/{name}")).status == 200
            assert gateway.stage.stopped == ["base"]
            assert (await gateway.chat(model="d")).status == 200

    asyncio.run(scenario())


def test_a_name_that_is_being_added_keeps_the_worker_of_one_that_is_removed(played):
    async def scenario():
        async with played(group=True) as gateway:
            gateway.stage.slow_attach = True
            assert (await gateway.admin("POST", body=gateway.spec("a", "base"))).status == 200
            adding = asyncio.create_task(gateway.admin("POST", body=gateway.spec("b", "base")))
            while not gateway.stage.attached:
                await asyncio.sleep(0.01)
            assert (await gateway.admin("DELETE", "/a")).status == 200
            assert gateway.stage.stopped == []
            gateway.stage.release.set()
            assert (await adding).status == 200
            assert (await gateway.chat(model="b")).status == 200
            assert (await gateway.admin("DELETE", "/b")).status == 200
            assert gateway.stage.stopped == ["base"]

    asyncio.run(asyncio.wait_for(scenario(), 30))
