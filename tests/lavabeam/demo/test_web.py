"""The demo's website answers as the web does."""

import time
import urllib.error
import urllib.request

import pytest

from lavabeam.demo.web import HOST, Page, Server, is_free, new_port, remembered_port


@pytest.fixture
def port(tmp_path):
    return new_port(tmp_path / "port")


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.status, answer.headers["Content-Type"], answer.read()


def test_pages_from_files_and_bytes(tmp_path, port):
    (tmp_path / "a.png").write_bytes(b"picture")
    pages = {"/x/a.png": Page(tmp_path / "a.png"), "/b.jpg": Page(b"<p>", "text/html; charset=utf-8")}
    with Server(pages, port) as server:
        assert server.base_url == f"http://{HOST}:{port}"
        assert get(f"{server.base_url}/x/a.png") == (200, "image/png", b"picture")
        assert get(f"{server.base_url}/b.jpg") == (200, "text/html; charset=utf-8", b"<p>")
        assert server.requests == {"/x/a.png": 1, "/b.jpg": 1}


def test_what_is_missing_and_what_is_busy(port):
    with Server({"/busy": Page(b"at last", refusals=1)}, port) as server:
        with pytest.raises(urllib.error.HTTPError) as missing:
            get(f"{server.base_url}/nothing.jpg")
        with pytest.raises(urllib.error.HTTPError) as busy:
            get(f"{server.base_url}/busy")
        assert (missing.value.code, busy.value.code, busy.value.headers["Retry-After"]) == (404, 503, "1")
        assert get(f"{server.base_url}/busy")[2] == b"at last"


def test_a_slow_page_arrives_whole(port):
    content = bytes(range(256)) * 5
    with Server({"/slow": Page(content, seconds=0.2)}, port) as server:
        started = time.monotonic()
        assert get(f"{server.base_url}/slow")[2] == content
        assert time.monotonic() - started >= 0.19


def test_the_port_is_kept_and_free_again_after_the_server(tmp_path):
    kept = tmp_path / "work" / "port"
    port, free = remembered_port(kept)
    assert free
    with Server({}, port):
        assert remembered_port(kept) == (port, False)
        with pytest.raises(OSError), Server({}, port):
            raise AssertionError("a second server took the same port")
    assert remembered_port(kept) == (port, True)
    assert is_free(port)
