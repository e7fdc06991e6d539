"""The key reaches the endpoint and nothing else: no column, log, cache, manifest, terminal or other server."""

import asyncio
import json

import pytest

from pipelines.engine.retry import RetryPolicy
from pipelines.llm.address import address_of, check_base_url, proxy_of, route_of
from pipelines.llm.client import LlmClient
from pipelines.llm.masking import Secrets, shown
from pipelines.llm.pool import Lease
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from schemas.config import parse
from schemas.errors import InputError
from tests.pipelines.download.web import Web, body

KEY = "secret-xyz/123"
ESCAPED = "".join(f"\\u{ord(one):04x}" for one in KEY)


def answer(content):
    return {"id": "i", "choices": [{"finish_reason": "stop", "message": {"content": content}}]}


def config(web, tmp_path, **changes):
    base_url = web if isinstance(web, str) else web.url("/v1", "127.0.0.1")
    patience = RetryPolicy(attempts=1)
    values = {"model": "m", "provider": "p", "base_url": base_url, "cache": str(tmp_path / "cache"), **changes}
    return EndpointConfig(patience=patience, timeout_s=10, **values)


def ask(settings):
    async def run():
        client = LlmClient(settings, "b")
        try:
            return await client.ask(ChatRequest("p", "m", (Message("user", "q"),), 50))
        finally:
            await client.close()

    return asyncio.run(run())


ECHOES = {
    "401": (json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}"}}), "401 X", {}),
    "400": (json.dumps({"error": {"message": f"headers were Authorization: Bearer {KEY}"}}), "400 X", {}),
    "500": (json.dumps({"detail": [{"headers": {"authorization": f"Bearer {KEY}"}}]}), "500 X", {}),
    "html": (f"<html>Authorization: Bearer {KEY}</html>", "200 OK", {}),
    "text": (json.dumps(answer(f"The header is {KEY}.")), "200 OK", {}),
    "upper": (json.dumps(answer(f"The header is {KEY.upper()}.")), "200 OK", {}),
    "escaped": (json.dumps(answer("KEY")).replace("KEY", ESCAPED), "200 OK", {}),
    "slash": (json.dumps(answer("KEY")).replace("KEY", KEY.replace("/", "\\/")), "200 OK", {}),
    "parts": (json.dumps(answer([{"text": KEY[:6]}, {"text": KEY[6:]}])), "200 OK", {}),
    "id": (json.dumps({**answer("a"), "id": KEY}), "200 OK", {}),
    "refusal": (json.dumps({"choices": [{"message": {"content": "", "refusal": f"no {KEY}"}}]}), "200 OK", {}),
    "redirect": ("", "307 X", {"Location": "/elsewhere?api_key=" + KEY}),
}


@pytest.mark.parametrize("place", ECHOES)
def test_a_server_that_repeats_the_key_does_not_get_it_kept(place, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    text, status, headers = ECHOES[place]
    with Web({"*": body(text.encode(), status, **headers)}) as web:
        got = ask(config(web, tmp_path))
        assert web.requests[0].headers["authorization"] == f"bearer {KEY}"
    assert KEY not in str(got).lower()
    kept = b"".join(file.read_bytes() for file in (tmp_path / "cache").iterdir()).decode("latin-1")
    assert not any(form in kept.lower() for form in (KEY, ESCAPED, KEY.replace("/", "\\/"), KEY[:6] + '"'))
    if got.received:
        assert "***" in f"{got.text}{got.request_id}{got.detail}"


PLAIN = "plain-word-without-marks"
"""A key of no known form: only its value gives it away."""
HEADS = {
    "location": f"HTTP/1.1 307 X\r\nLocation: http://other/{PLAIN}/x\r\nContent-Length: 0\r\n\r\n",
    "status line": f"HTTP/1.1 {PLAIN}\r\n\r\n",
    "header": f"HTTP/1.1 200 OK\r\n{PLAIN}\r\n\r\n",
    "encoding": f"HTTP/1.1 200 OK\r\nContent-Encoding: {PLAIN}\r\nContent-Length: 2\r\n\r\n{{}}",
    "charset": f"HTTP/1.1 200 OK\r\nContent-Type: a/b; charset={PLAIN}\r\nContent-Length: 2\r\n\r\n{{}}",
    "length": f"HTTP/1.1 200 OK\r\nContent-Length: {PLAIN}\r\n\r\n{{}}",
    "chunk": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{PLAIN}\r\n",
    "after the end": f"HTTP/1.1 304 X\r\nConnection: close\r\n\r\n{PLAIN}",
}


@pytest.mark.parametrize("place", HEADS)
def test_the_head_of_a_reply_does_not_bring_the_key_into_a_detail(place, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", PLAIN)

    async def serve(request):
        await request.raw(HEADS[place].encode())
        request.writer.close()

    with Web({"*": serve}) as web:
        got = ask(config(web, tmp_path))
    assert PLAIN not in str(got)
    assert "***" in got.detail


def test_all_keys_of_the_environment_are_masked():
    environment = {
        "MY_KEY": "k" * 9,
        "HF_TOKEN": "hf_abcdefgh12345678",
        "SECRET": "production-of-the-year",
        "HOME": "/a1",
    }
    secrets = Secrets.of_environment("MY_KEY", environment)
    text = "kkkkkkkkk hf_abcdefgh12345678 production-of-the-year /a1"
    assert secrets.hide(text) == "*** *** production-of-the-year /a1"


def test_placeholders_of_servers_without_keys_are_words():
    assert Secrets.of_environment("MY_KEY", {"MY_KEY": "EMPTY"}).hide("The box is EMPTY.") == "The box is EMPTY."


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Authorization: Bearer abc", "Authorization: ***"),
        ('{"api-key": "abc"}', '{"api-key": "***"}'),
        ("see https://h/p?a=1&token=abc&b=2", "see https://h/p?a=1&token=***&b=2"),
        ("https://h/?X-Amz-Signature=abc", "https://h/?X-Amz-Signature=***"),
        ("https://user:word@h/p", "https://***@h/p"),
        ("key sk-proj-abcdefghijklmnop is wrong", "key sk-*** is wrong"),
        ("\x1b[31mred\x07 \u202eside", "\ufffd[31mred\ufffd \ufffdside"),
        ("the token count is 5, basic rules", "the token count is 5, basic rules"),
    ],
)
def test_details_show_no_credentials_and_no_escapes(text, masked):
    assert shown(text) == masked


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hidden123@host/v1",
        "https://hidden123@host/v1",
        "https://host/v1?token=hidden123",
        "https://host/v1?key=hidden123",
        "https://host/v1?api-key=hidden123",
        "https://host/v1#hidden123",
        "https://host/v1;token=hidden123",
        "https://host/v1%3Btoken=hidden123",
        "https://host/sk-hidden123hidden123/v1",
        "https://hidden123\\@host/v1",
        "ftp://hidden123@host/v1",
        "https://:hidden123@/v1",
        "https://hidden123@[host",
    ],
)
def test_secrets_in_an_address_are_refused_and_not_repeated(url):
    with pytest.raises(InputError, match=r"^base_url: ") as raised:
        parse({"model": "m", "provider": "p", "base_url": url}, EndpointConfig, "recipe")
    assert "hidden123" not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000/v1", "https://host", "http://[::1]:8000/v1/", "https://h/a-b/v1"]
)
def test_plain_addresses_are_taken(url):
    assert check_base_url(url) == url


def test_an_address_of_the_environment_is_checked_too(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://user:hidden123@host/v1")
    with pytest.raises(InputError, match="api_key_env"):
        address_of(None)


def test_a_key_given_as_the_name_of_its_variable_is_refused_and_not_repeated():
    with pytest.raises(InputError, match="api_key_env is not the name") as raised:
        EndpointConfig(model="m", api_key_env="sk-hidden123hidden123")
    assert "hidden123" not in str(raised.value)


PROXY = "http://user:word@proxy:3128"


@pytest.mark.parametrize(
    ("address", "environment", "proxy"),
    [
        ("https://llm.example/v1", {"HTTPS_PROXY": PROXY}, PROXY),
        ("https://llm.example/v1", {"https_proxy": PROXY}, PROXY),
        ("https://llm.example/v1", {"HTTPS_PROXY": PROXY, "NO_PROXY": ".example"}, None),
        ("https://llm.example/v1", {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}, None),
        ("http://llm.example/v1", {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY}, None),
        ("https://localhost/v1", {"HTTPS_PROXY": PROXY}, None),
        ("https://127.9.9.9/v1", {"HTTPS_PROXY": PROXY}, None),
        ("https://[::1]/v1", {"HTTPS_PROXY": PROXY}, None),
    ],
)
def test_only_https_elsewhere_goes_through_the_proxy(address, environment, proxy, monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert proxy_of(address) == proxy
    assert "word" not in route_of(address)
    assert bool(route_of(address)) is bool(proxy)


def test_a_proxy_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:word@proxy:1080")
    with pytest.raises(InputError, match=r"HTTPS_PROXY: .* not an http") as raised:
        proxy_of("https://llm.example/v1")
    assert "word" not in str(raised.value)


def test_a_plain_endpoint_is_reached_directly(tmp_path, monkeypatch):
    with Web({"*": body(b"")}) as proxy, Web({"*": body(json.dumps(answer("a")).encode())}) as web:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert ask(config(web, tmp_path)).ok
        assert not proxy.requests


def test_https_goes_through_the_proxy_which_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "")
    with Web({"*": body(b"", "403 Forbidden")}) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        settings = config("https://llm.example/v1", tmp_path)
        got = ask(settings)
        assert list(proxy.hits) == ["llm.example:443"]
    assert got.status in ("malformed", "unavailable")
    for dataset in ("a", "b"):
        Lease(settings, str(tmp_path / dataset), 1).close()
    assert capsys.readouterr().err.count("requests to llm.example go through the proxy http://127.0.0.1:") == 1
