"""A server that does everything wrong, over real sockets, against the step in a process of its own."""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import subprocess
import sys
from contextlib import ExitStack

import pytest

from tests.pipelines.download.images import encoded, jpeg, png_claiming, scene
from tests.pipelines.download.web import Request, Web, body

GOOD = jpeg(320, 240)
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><rect width='9' height='9'/></svg>"
HTML = b"<!DOCTYPE html><html><body>Please log in</body></html>"


async def rate_limited(request: Request) -> None:
    if request.number == 1:
        await request.send(b"", "429 Too Many Requests", Retry_After="0")
    else:
        await request.send(GOOD)


async def always_rate_limited(request: Request) -> None:
    await request.send(b"", "429 Too Many Requests", Retry_After="86400")


async def fails_once(request: Request) -> None:
    if request.number == 1:
        await request.send(b"oops", "500 Internal Server Error")
    else:
        await request.send(GOOD)


async def reset(request: Request) -> None:
    await request.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + GOOD[:100])
    request.writer.transport.abort()


async def reset_at_once(request: Request) -> None:
    request.writer.transport.abort()


async def stall(request: Request) -> None:
    await request.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    await asyncio.sleep(60)


async def drip(request: Request) -> None:
    await request.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + GOOD[:64])
    while True:
        await asyncio.sleep(0.05)
        await request.raw(b"x")


async def endless(request: Request) -> None:
    await request.raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + GOOD[:64])
    while True:
        await request.raw(b"\0" * 65536)


async def ends_early(request: Request) -> None:
    await request.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + GOOD[:200])


async def to_latin_1(request: Request) -> None:
    await request.raw(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /bild-\xfc.jpg\r\n\r\n")


async def no_http(request: Request) -> None:
    await request.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


def to(target: str):
    return body(b"", "302 Found", Location=target)


HANDLERS = {
    "/good.jpg": body(GOOD),
    "/gone.jpg": body(b"", "410 Gone"),
    "/forbidden.jpg": body(b"", "403 Forbidden"),
    "/legal.jpg": body(b"", "451 Unavailable For Legal Reasons"),
    "/teapot.jpg": body(b"", "418 I'm a teapot"),
    "/busy.jpg": rate_limited,
    "/banned.jpg": always_rate_limited,
    "/flaky.jpg": fails_once,
    "/broken.jpg": body(b"", "503 Service Unavailable"),
    "/reset.jpg": reset,
    "/reset_at_once.jpg": reset_at_once,
    "/stall.jpg": stall,
    "/drip.jpg": drip,
    "/endless.jpg": endless,
    "/ends_early.jpg": ends_early,
    "/no_http.jpg": no_http,
    "/announced.jpg": body(GOOD, Content_Length="999999999"),
    "/bomb.jpg": body(gzip.compress(GOOD[:64] + b"\0" * 200_000_000, 6), Content_Encoding="gzip"),
    "/gzip.jpg": body(gzip.compress(GOOD), Content_Encoding="gzip"),
    "/brotli.jpg": body(GOOD, Content_Encoding="br"),
    "/twice.jpg": body(gzip.compress(gzip.compress(GOOD)), Content_Encoding="gzip, gzip"),
    "/no_encoding.jpg": body(GOOD, Content_Encoding="UTF-8"),
    "/s3.jpg": body(gzip.compress(GOOD), Content_Encoding="aws-chunked, gzip"),
    "/typed_wrong.jpg": body(GOOD, Content_Type="text/html"),
    "/page.jpg": body(HTML, Content_Type="image/jpeg"),
    "/empty.jpg": body(b""),
    "/nothing.jpg": body(b"", "204 No Content"),
    "/truncated.jpg": body(GOOD[: len(GOOD) // 2]),
    "/huge.png": body(png_claiming(30_000, 30_000)),
    "/drawing.svg": body(SVG, Content_Type="image/svg+xml"),
    "/photo.heic": body(b"\0\0\0\x20ftypheic" + b"\0" * 200),
    "/loop": to("/loop"),
    "/once": to("/good.jpg#top"),
    "/to_loopback": to("http://127.0.0.1:1/a.jpg"),
    "/to_mapped": to("http://[::ffff:127.0.0.1]/a.jpg"),
    "/to_metadata": to("http://169.254.169.254/latest/meta-data/"),
    "/to_file": to("file:///etc/passwd"),
    "/to_inside": to("http://inside.test/a.jpg"),
    "/to_nowhere": to("http://[bad"),
    "/to_latin_1": to_latin_1,
    "/to_space": to("/a b.jpg"),
    "/no_location": body(b"", "301 Moved Permanently"),
    "/noai.jpg": body(GOOD, X_Robots_Tag="noai"),
    "/noai_other.jpg": body(GOOD, X_Robots_Tag="otherbot: noai"),
    "/noai_us.jpg": body(GOOD, X_Robots_Tag="lavabeam: noimageai, nofollow"),
    "/tdm.jpg": body(GOOD, TDM_Reservation="1"),
    "/secret/a.jpg": body(GOOD),
    "/bild-%C3%BC.jpg": body(GOOD),
    "/bild-%FC.jpg": body(GOOD),
    "/a%20b.jpg": body(GOOD),
    "/long": body(GOOD),
    "/a.jpg": body(encoded(scene(), "PNG")),
    "/other/a.jpg": body(GOOD),
    "/robots.txt": body(b"User-agent: *\nDisallow: /secret/\n"),
}

EXPECTED = {
    "/good.jpg": ("ok", None),
    "/gone.jpg": ("gone", "HTTP 410"),
    "/missing.jpg": ("not_found", "HTTP 404"),
    "/forbidden.jpg": ("forbidden", "HTTP 403"),
    "/legal.jpg": ("forbidden", "HTTP 451"),
    "/teapot.jpg": ("client_error", "HTTP 418"),
    "/busy.jpg": ("ok", None),
    "/banned.jpg": ("rate_limited", "HTTP 429"),
    "/flaky.jpg": ("ok", None),
    "/broken.jpg": ("server_error", "HTTP 503"),
    "/reset.jpg": ("incomplete", "the body ends early"),
    "/reset_at_once.jpg": ("connection", "refused, reset or unreachable"),
    "/stall.jpg": ("timeout", "no answer in time"),
    "/drip.jpg": ("timeout", "not complete in time"),
    "/endless.jpg": ("too_large", "body beyond max_bytes"),
    "/ends_early.jpg": ("incomplete", "the body ends early"),
    "/no_http.jpg": ("bad_response", "not a valid HTTP answer"),
    "/announced.jpg": ("too_large", "Content-Length beyond max_bytes"),
    "/bomb.jpg": ("too_large", "body beyond max_bytes"),
    "/gzip.jpg": ("ok", None),
    "/brotli.jpg": ("bad_response", "Content-Encoding 'br' was not asked for"),
    "/twice.jpg": ("bad_response", "Content-Encoding 'gzip gzip' was not asked for"),
    "/no_encoding.jpg": ("ok", None),
    "/s3.jpg": ("ok", None),
    "/typed_wrong.jpg": ("ok", None),
    "/page.jpg": ("not_image", "HTML"),
    "/empty.jpg": ("empty", "the body is empty"),
    "/nothing.jpg": ("client_error", "HTTP 204"),
    "/truncated.jpg": ("truncated", "the jpeg ends before its end mark"),
    "/huge.png": ("too_many_pixels", "30000x30000"),
    "/drawing.svg": ("unsupported_format", "SVG"),
    "/photo.heic": ("unsupported_format", "HEIF or video"),
    "/loop": ("too_many_redirects", "more than 5 redirects"),
    "/once": ("ok", None),
    "/to_loopback": ("private_address", "redirect: the host is a private or special address"),
    "/to_mapped": ("private_address", "redirect: the host is a private or special address"),
    "/to_metadata": ("private_address", "redirect: the host is a private or special address"),
    "/to_file": ("bad_scheme", "redirect: scheme 'file' is not http or https"),
    "/to_inside": ("private_address", "the host resolves to a private or special address"),
    "/to_nowhere": ("bad_url", "redirect to something that is not a URL"),
    "/to_latin_1": ("ok", None),
    "/to_space": ("ok", None),
    "/no_location": ("bad_response", "HTTP 301 without a Location"),
    "/noai.jpg": ("opt_out_header", "X-Robots-Tag: noai"),
    "/noai_other.jpg": ("ok", None),
    "/noai_us.jpg": ("opt_out_header", "X-Robots-Tag: noimageai"),
    "/tdm.jpg": ("opt_out_tdm", "TDM-Reservation: 1"),
    "/secret/a.jpg": ("robots_disallowed", "robots.txt disallows this path"),
    "/bild-ü.jpg": ("ok", None),
    "/long?" + "q" * 8000: ("ok", None),
    "/a.jpg": ("ok", None),
    "/other/a.jpg": ("ok", None),
}

NAMES = {"inside.test": [["10.0.0.7"]], "mapped.test": [["::ffff:127.0.0.1"]], "nowhere.test": [[]],
         "rebind.test": [["1.1.1.1"], ["127.0.0.1"]], "down.test": [["127.0.0.1"]], "robots.test": [["127.0.0.1"]],
         "tls.test": [["127.0.0.1"]]}  # fmt: skip


def elsewhere(robots: Web, secure: Web, port: int) -> dict[str, tuple[str, str | None]]:
    """URLs of other hosts, and what must become of them."""
    private = ("private_address", "the host is a private or special address")
    inside = ("private_address", "the host resolves to a private or special address")
    disguised = ("bad_url", "the host is neither a name nor a plainly written address")
    return {
        f"http://user:secret@localhost:{port}/good.jpg": ("ok", None),
        f"http://127.0.0.1:{port}/good.jpg": private,
        f"http://[::1]:{port}/good.jpg": private,
        f"http://[::ffff:7f00:1]:{port}/good.jpg": private,
        f"http://2130706433:{port}/good.jpg": disguised,
        f"http://0x7f.1:{port}/good.jpg": disguised,
        "http://169.254.169.254/latest/meta-data/": private,
        f"http://inside.test:{port}/good.jpg": inside,
        f"http://mapped.test:{port}/good.jpg": inside,
        "http://nowhere.test/a.jpg": ("dns", "the host name cannot be resolved"),
        "http://down.test:1/a.jpg": ("connection", "refused, reset or unreachable"),
        robots.url("/good.jpg", "robots.test"): ("robots_unreachable", "robots.txt: HTTP 500"),
        secure.url("/good.jpg", "tls.test"): ("tls", "no secure connection: certificate or protocol"),
        "file:///etc/passwd": ("bad_scheme", "scheme 'file' is not http or https"),
        "ftp://localhost/a.jpg": ("bad_scheme", "scheme 'ftp' is not http or https"),
        "http://localhost/" + "a" * 20_000: ("bad_url", "longer than 16384 characters"),
        "": ("no_url", "the url is empty"),
    }


OPTIONS = {
    "allow_private_hosts": ["localhost", "down.test", "robots.test", "tls.test"],
    "retries": 1,
    "retry_wait": 0.01,
    "timeout": 1.0,
    "deadline": 2.5,
    "host_limit": 64,
    "decode_threads": 1,
}


def run(urls: list[str], files: int | None = None, **options) -> dict:
    """What a process of its own, with so many open files allowed, made of the URLs; fails when it hangs."""
    task = {"urls": urls, "options": OPTIONS | options, "names": NAMES, "files": files}
    command = [sys.executable, "-m", "tests.pipelines.download.run_download"]
    done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def certificate(tmp_path) -> ssl.SSLContext:
    """A server context whose certificate nobody trusts."""
    key, chain = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", chain,
         "-days", "2", "-subj", "/CN=tls.test"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def test_every_row_ends_with_its_status(certificate):
    with ExitStack() as stack:
        web = stack.enter_context(Web(HANDLERS))
        robots = stack.enter_context(Web({"/robots.txt": body(b"", "500 Oops"), "/good.jpg": body(GOOD)}))
        secure = stack.enter_context(Web({"*": body(GOOD)}, tls=certificate))
        expected = {web.url(path): outcome for path, outcome in EXPECTED.items()}
        expected |= elsewhere(robots, secure, web.port)
        # Every URL twice: duplicates are rows like any other.
        result = run([*expected, *expected])
    rows = result["rows"]
    found = {url: (row["download_status"], row["download_detail"]) for url, row in zip(expected, rows, strict=False)}
    assert found == expected
    assert [row["download_status"] for row in rows[len(expected) :]] == [status for status, _ in expected.values()]
    assert all((row["image"] > 0) == (row["download_status"] == "ok") for row in rows)
    assert result["peak_mb"] < 500
    assert web.hits["/robots.txt"] == 1
    assert web.hits["/missing.jpg"] == 2, "a permanent failure is not tried again"
    assert web.hits["/broken.jpg"] == 4, "a transient one is, once"
    assert web.hits["/banned.jpg"] == 2, "nobody waits for a day"
    assert web.hits["/secret/a.jpg"] == 0
    assert robots.hits["/good.jpg"] == 0
    assert not any("authorization" in request.headers for request in web.requests)


def test_a_rebinding_name_server_gains_nothing():
    with Web({"*": body(GOOD)}) as web:
        rows = run([web.url("/good.jpg", "rebind.test")], retries=2, timeout=0.3, deadline=0.5)["rows"]
    assert rows[0]["download_status"] in ("connection", "timeout", "robots_unreachable", "private_address")
    assert not web.hits


def test_many_large_bodies_stay_within_the_memory():
    large = GOOD[:-2] + b"\0" * 6_000_000 + GOOD[-2:]
    with Web({"*": body(large), "/robots.txt": body(b"User-agent: *\nAllow: /\n" + b"# padding\n" * 60_000)}) as web:
        urls = [web.url(f"/{number}.jpg") for number in range(60)]
        result = run(urls, memory=24_000_000, max_bytes=10_000_000, retries=0, deadline=60.0, timeout=30.0)
    assert [row["download_status"] for row in result["rows"]] == ["ok"] * 60
    assert result["log"][-1]["memory_peak"] <= 24_000_000 + 10_000_000
