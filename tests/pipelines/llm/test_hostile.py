"""Servers that send anything but a reply: every request ends with a status, in bounded memory and time."""

import asyncio
import gzip
import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.engine.retry import RetryPolicy
from pipelines.llm.answer import Answer, AnswerStatus, ErrorResponse, MalformedResponse, as_response, read_response
from pipelines.llm.client import LlmClient
from pipelines.llm.failures import explain
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from tests.pipelines.download.web import Web

LIMIT = 200_000
OK = {
    "id": "i",
    "choices": [{"finish_reason": "stop", "message": {"content": "A red thing."}}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5},
}


def reply(body, status="200 OK", **headers):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = {
        "Content-Length": len(body),
        "Connection": "close",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def packed(body, how):
    return {"gzip": gzip.compress, "deflate": zlib.compress}[how](body)


def ask(web, tmp_path, count=1, **changes):
    values = {"timeout_s": 10, "patience": RetryPolicy(attempts=1), "max_reply_bytes": LIMIT, **changes}
    config = EndpointConfig(
        model="m",
        provider="p",
        base_url=web.url("/v1", "127.0.0.1"),
        cache=str(tmp_path / "cache"),
        concurrency=1,
        **values,
    )

    async def run():
        client = LlmClient(config, "b")
        requests = [ChatRequest("p", "m", (Message("user", f"q{n}"),), 50) for n in range(count)]
        try:
            return list(await asyncio.gather(*map(client.ask, requests)))
        finally:
            await client.close()

    return asyncio.run(run())


BAD = {
    "no_http": (b"garbage from a proxy\r\n\r\n", "malformed"),
    "http_0.9": (b"hello", "malformed"),
    "tls_alert": (b"\x15\x03\x01\x00\x02\x02\x0a", "malformed"),
    "nothing": (b"", "unavailable"),
    "status_99": (b"HTTP/1.1 99 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "malformed"),
    "status_999": (reply(b"{}", "999 X"), "malformed"),
    "no_content": (b"HTTP/1.1 204 X\r\nConnection: close\r\n\r\n", "malformed"),
    "two_lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "malformed"),
    "length_in_words": (b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\n{}", "malformed"),
    "length_too_long": (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", "unavailable"),
    "bad_chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}", "malformed"),
    "cut_chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\n{}", "unavailable"),
    "129_headers": (reply(OK, **{f"X-{n}": "a" for n in range(129)}), "malformed"),
    "long_header": (reply(OK, X="a" * 9_000), "malformed"),
    "nul_in_header": (reply(OK, X="a\0b"), "malformed"),
    "redirect": (reply(b"", "307 X", Location="http://127.0.0.1:1/v1"), "malformed"),
    "redirect_nonsense": (reply(b"", "302 X", Location="http://[bad"), "malformed"),
    "redirect_file": (reply(b"", "301 X", Location="file:///etc/passwd"), "malformed"),
    "no_gzip": (reply(b"{}", Content_Encoding="gzip"), "malformed"),
    "cut_gzip": (reply(gzip.compress(b'{"a": "b"}')[:-9], Content_Encoding="gzip"), "malformed"),
    "no_deflate": (reply(b"{}", Content_Encoding="deflate"), "malformed"),
    "brotli": (reply(b"{}", Content_Encoding="br"), "malformed"),
    "zstd": (reply(b"{}", Content_Encoding="zstd"), "malformed"),
    "gzip_twice": (reply(gzip.compress(gzip.compress(b"{}")), Content_Encoding="gzip, gzip"), "malformed"),
    "gzip_bomb": (reply(packed(b"a" * 50_000_000, "gzip"), Content_Encoding="gzip"), "malformed"),
    "deflate_bomb": (reply(packed(b"a" * 50_000_000, "deflate"), Content_Encoding="deflate"), "malformed"),
    "too_long": (reply(b"a" * (LIMIT + 1)), "malformed"),
    "says_too_long": (b"HTTP/1.1 200 OK\r\nContent-Length: 500000000\r\n\r\n{", "malformed"),
    "not_utf8": (reply(b'{"a": "\xff"}'), "malformed"),
    "charset_unknown": (reply(OK, Content_Type="application/json; charset=klingon"), "malformed"),
    "charset_undefined": (reply(OK, Content_Type="application/json; charset=undefined"), "malformed"),
    "charset_idna": (reply(OK, Content_Type="application/json; charset=idna"), "malformed"),
    "charset_utf7": (reply(OK, Content_Type="application/json; charset=utf-7"), "malformed"),
    "charset_of_error": (reply(OK, "500 X", Content_Type="text/plain; charset=punycode"), "unavailable"),
    "deep": (reply(b"[" * 90_000 + b"]" * 90_000), "malformed"),
    "long_code": (reply({"error": {"code": "9" * 5_000}}), "unavailable"),
    "long_code_400": (reply(b'{"error": {"code": ' + b"9" * 4_000 + b"}}", "400 X"), "bad_request"),
    "long_number": (reply(b'{"choices": ' + b"9" * 5_000 + b"}"), "malformed"),
    "stream": (reply(b'data: {"choices": []}\n\ndata: [DONE]\n\n', Content_Type="text/event-stream"), "malformed"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_reply_is_a_status_of_its_row(kind, tmp_path):
    raw, status = BAD[kind]

    async def serve(request):
        await request.raw(raw if request.number == 2 else reply(OK))

    with Web({"*": serve}) as web:
        answers = ask(web, tmp_path, 3)
    assert [answer.status for answer in answers] == ["ok", status, "ok"]
    assert answers[1].detail
    assert len(answers[1].detail) < 400


@pytest.mark.parametrize("depth", [900, 950, 990, 1_000])
def test_an_error_as_deep_as_python_reads(depth, tmp_path):
    async def serve(request):
        await request.raw(reply(b'{"error": {"x": ' + b"[" * depth + b"]" * depth + b"}}"))

    with Web({"*": serve}) as web:
        assert ask(web, tmp_path)[0].status in ("unavailable", "malformed")


def test_an_endless_reply_is_left_soon_after_the_limit(tmp_path):
    sent = 0

    async def serve(request):
        nonlocal sent
        await request.raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not request.writer.transport.is_closing():
            await request.raw(b"4000\r\n" + b"a" * 0x4000 + b"\r\n")
            sent += 0x4000
            await asyncio.sleep(0)

    with Web({"*": serve}) as web:
        answer = ask(web, tmp_path)[0]
    assert (answer.status, answer.detail) == ("malformed", f"the reply is longer than {LIMIT} bytes (max_reply_bytes)")
    # What the sockets between hold comes on top.
    assert sent < LIMIT + 20_000_000


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"HTTP/1.1 100 C\r\n\r\n"])
def test_a_reply_that_drips_ends_by_the_deadline(head, tmp_path):
    async def serve(request):
        await request.raw(head)
        while not request.writer.transport.is_closing():
            await request.raw(b"H" if not head else b"HTTP/1.1 100 C\r\n\r\n" if b"100" in head else b"a")
            await asyncio.sleep(0.02)

    with Web({"*": serve}) as web:
        answer = ask(web, tmp_path, timeout_s=0.3)[0]
    assert answer.status in ("unavailable", "malformed")


def test_compressed_replies_and_other_charsets_are_read(tmp_path):
    body = json.dumps(OK).encode()
    raw_deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    replies = [
        reply(gzip.compress(body), Content_Encoding="gzip"),
        reply(gzip.compress(body), Content_Encoding="x-gzip"),
        reply(zlib.compress(body), Content_Encoding="deflate"),
        reply(raw_deflate.compress(body) + raw_deflate.flush(), Content_Encoding="deflate"),
        reply(body, Content_Encoding="identity"),
        reply(b"\xef\xbb\xbf" + body),
        reply(json.dumps(OK).encode("utf-16"), Content_Type="application/json; charset=UTF-16"),
        reply(body, Content_Type='application/json; charset="UTF-8"'),
    ]

    async def serve(request):
        assert request.headers["accept-encoding"] == "gzip, deflate"
        await request.raw(replies[request.number - 1])

    with Web({"*": serve}) as web:
        answers = ask(web, tmp_path, len(replies))
    assert [answer.text for answer in answers] == ["A red thing."] * len(replies)


def test_a_redirect_is_not_followed_and_says_what_to_do(tmp_path):
    async def serve(request):
        await request.raw(reply(b"", "307 X", Location="/elsewhere?token=abcdef"))

    with Web({"*": serve}) as web:
        answer = ask(web, tmp_path)[0]
        assert list(web.hits) == ["/v1/chat/completions"]
    assert "a redirect to /elsewhere?token=***, not followed: `base_url` must be" in (answer.detail or "")


def test_cookies_are_not_kept(tmp_path):
    async def serve(request):
        await request.raw(reply(OK, Set_Cookie="sid=1; Path=/"))

    with Web({"*": serve}) as web:
        ask(web, tmp_path, 2)
        assert not any("cookie" in request.headers for request in web.requests)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    ("choices",),
    ("choices", 0),
    ("choices", 0, "message"),
    ("choices", 0, "message", "content"),
    ("choices", 0, "message", "refusal"),
    ("choices", 0, "finish_reason"),
    ("usage",),
    ("usage", "prompt_tokens"),
    ("usage", "total_tokens"),
    ("usage", "prompt_tokens_details"),
    ("id",),
    ("error",),
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(PLACES), ANYTHING, st.booleans())
def test_any_value_anywhere_is_an_answer_or_a_failure(place, value, as_error):
    response = json.loads(json.dumps(OK))
    inner = response
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value
    if as_error:
        response = {"error": value}
    try:
        answer = read_response(json.dumps(response))
    except (MalformedResponse, ErrorResponse) as error:
        assert explain(error).detail is not None
    else:
        assert answer.text.encode() is not None
        assert len(answer.request_id or "") <= 200


@pytest.mark.parametrize("status", ["ok", "truncated", "content_policy", "refused"])
def test_an_answer_is_written_as_a_reply_that_reads_the_same(status):
    reason = {"truncated": "length", "content_policy": "content_filter"}.get(status, "stop")
    message = {"content": "a", **({"refusal": "no"} if status == "refused" else {})}
    first = read_response(json.dumps({**OK, "choices": [{"finish_reason": reason, "message": message}]}))
    assert isinstance(first, Answer)
    assert first.status is AnswerStatus(status)
    assert read_response(as_response(first)) == first
