"""The img2dataset engine: around a stand-in everywhere, and around the package where it is installed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import urllib.error
from pathlib import Path

import pytest

from pipelines.download.connect import tls_context
from pipelines.download.guard import Guard
from pipelines.download.img2dataset_engine import status_of
from pipelines.download.opener import guarded_opener
from schemas.errors import InputError
from tests.pipelines.download.images import jpeg
from tests.pipelines.download.web import Web, body

INSTALLED = ["package"] if importlib.util.find_spec("img2dataset") else []
HANDLERS = {
    "/a.jpg": body(jpeg()),
    "/page.jpg": body(b"<html>"),
    "/noai.jpg": body(jpeg(), X_Robots_Tag="noai"),
    "/broken.jpg": body(b"", "503 Busy"),
    "/loop": body(b"", "302 Found", Location="/loop"),
    "/inside": body(b"", "302 Found", Location="http://127.0.0.1:1/a.jpg"),
    "/file": body(b"", "302 Found", Location="file:///etc/passwd"),
}


@pytest.fixture(params=["stand-in", *INSTALLED])
def img2dataset(request, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "img2dataset"]:
        monkeypatch.delitem(sys.modules, name)
    if request.param == "stand-in":
        monkeypatch.syspath_prepend(str(Path(__file__).parent / "standin"))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "img2dataset"]:
        del sys.modules[name]


@pytest.mark.usefixtures("img2dataset")
def test_rows_come_back_in_order_with_our_statuses(download):
    with Web(HANDLERS) as web:
        names = ["/a.jpg", "/missing.jpg", "/page.jpg", "/noai.jpg", "/broken.jpg", "/loop", "/inside", "/file"]
        urls = [*(web.url(name) for name in names), None, "file:///etc/passwd", web.url("/a.jpg", "127.0.0.1")]
        rows = download([*urls, web.url("/a.jpg")], engine="img2dataset", retries=0)
    assert [row["download_status"] for row in rows] == [
        "ok", "not_found", "corrupt", "opt_out_header", "server_error", "too_many_redirects", "private_address",
        "bad_scheme", "no_url", "bad_scheme", "private_address", "ok",
    ]  # fmt: skip
    assert rows[0] == rows[-1]
    assert rows[0]["image"]["bytes"] == jpeg()
    assert rows[0]["sha256"] == hashlib.sha256(jpeg()).hexdigest()
    assert (rows[0]["width"], rows[0]["original_height"], rows[0]["mime"]) == (96, 64, "image/jpeg")


@pytest.mark.usefixtures("img2dataset")
def test_output_still_leads_where_it_led(download):
    before = os.readlink("/proc/self/fd/1")
    with Web(HANDLERS) as web:
        download([web.url("/a.jpg")] * 5, engine="img2dataset")
    assert os.readlink("/proc/self/fd/1") == before


def test_without_the_package_the_message_says_what_to_install(download, monkeypatch):
    monkeypatch.setitem(sys.modules, "img2dataset", None)
    with pytest.raises(InputError, match=r"Install lavabeam\[img2dataset\]"):
        download(["http://x.test/a.jpg"], engine="img2dataset")


def test_two_kinds_of_hash_are_refused(download):
    with pytest.raises(InputError, match="requires both to be the same"):
        download([], engine="img2dataset", compute_hash="md5", verify_hash=("sha256_of_list", "sha256"))


@pytest.mark.parametrize(
    ("message", "status"),
    [
        ("HTTP Error 410: Gone", "gone"),
        ("HTTP Error 429: Too Many Requests", "rate_limited"),
        ("<urlopen error timed out>", "timeout"),
        ("The read operation timed out", "timeout"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "tls"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "dns"),
        ("<urlopen error [Errno 104] Connection reset by peer>", "connection"),
        ("Remote end closed connection without response", "connection"),
        ("IncompleteRead(10 bytes read, 90 more expected)", "incomplete"),
        ("hash mismatch", "hash_mismatch"),
        ("something else", "bad_response"),
    ],
)
def test_its_words_as_our_statuses(message, status):
    assert status_of("failed_to_download", message) == status


def test_the_opener_reads_no_files_and_refuses_private_addresses():
    opener = guarded_opener(Guard(), tls_context())
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        opener.open("file:///etc/passwd")
    with pytest.raises(urllib.error.URLError, match="unknown url type"):
        opener.open("data:text/plain,hello")
    with pytest.raises(urllib.error.URLError, match="private_address"):
        opener.open("http://localhost:1/")
