"""Clients that send heads and bodies as no client should: they take no room from others, and are ended in time."""

import asyncio
import json

import pytest

from lavabeam.serving.limits import Body
from lavabeam.serving.settings import ServeSettings

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n"


async def connected(gateway, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize("announced", [b"Transfer-Encoding: chunked", b"Content-Length: 33554432"])
def test_large_bodies_that_are_announced_and_never_sent_take_no_room(played, announced):
    async def scenario():
        async with played(m="first") as gateway:
            idle = [await connected(gateway, CHAT + announced + b"\r\n\r\n") for _ in range(20)]
            await asyncio.sleep(0.1)
            assert (await gateway.chat()).status == 200
            for _, writer in idle:
                writer.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_bodies_that_are_held_make_large_ones_wait_and_small_ones_not():
    """Eight bodies that lack their last byte are held; the application counts what reaches it."""
    most, reached = 2 << 20, []

    async def application(scope, receive, send):
        reached.append(len((await receive())["body"]))

    async def scenario():
        bounded = Body(application, ServeSettings(max_body=most), lambda scope: None)
        scope = {"type": "http", "headers": [(b"transfer-encoding", b"chunked")]}
        last, sent = asyncio.Event(), []

        async def ask(size, held=False):
            """The status of what was refused."""
            pieces = [{"type": "http.request", "body": bytes(size), "more_body": held}]

            async def receive():
                if not pieces:
                    await last.wait()
                    return {"type": "http.request", "body": b"x", "more_body": False}
                return pieces.pop()

            sent.clear()

            async def send(message):
                sent.append(message.get("status"))

            await bounded(scope, receive, send)
            return sent[:1]

        held = [asyncio.create_task(ask(most - 1, held=True)) for _ in range(8)]
        await asyncio.sleep(0)
        assert await ask(most - 100) == [503]
        assert await ask(1 << 20) == []
        last.set()
        await asyncio.gather(*held)
        assert await ask(most - 100) == []
        assert reached == [1 << 20, *[most] * 8, most - 100]

    asyncio.run(asyncio.wait_for(scenario(), 30))


@pytest.mark.parametrize("rest", [b"X-Long: " + b"a" * 100_000, b"X-Many: a\r\n" * 10_000])
def test_a_head_is_bounded(played, rest):
    async def scenario():
        async with played(m="first") as gateway:
            reader, writer = await connected(gateway, CHAT + rest)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400")
            assert json.loads(body)["error"]["code"] == "invalid_http"
            writer.close()
            assert (await gateway.chat()).status == 200

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_the_next_head_of_a_connection_has_its_time_too(played):
    async def scenario():
        async with played({"body_seconds": 0.3}, m="first") as gateway:
            reader, writer = await connected(gateway, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            for byte in CHAT:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.05)
                if writer.is_closing() or reader.at_eof():
                    break
            else:
                raise AssertionError("a head of a byte at a time was waited for")

    asyncio.run(asyncio.wait_for(scenario(), 30))


def test_a_key_is_looked_at_before_the_body_is_read(played):
    async def scenario():
        async with played({"api_keys": ("secret",)}, m="first") as gateway:
            reader, _ = await connected(gateway, CHAT + b"Content-Length: 100\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
            assert (await gateway.call("GET", "/nowhere")).status == 401

    asyncio.run(asyncio.wait_for(scenario(), 30))
