"""The pool of connections: how many open files it takes."""

from __future__ import annotations

import asyncio
import resource

import pytest

from pipelines.download.connect import guarded_connector, tls_context
from pipelines.download.guard import Guard
from schemas.errors import InputError
from tests.pipelines.download.test_hostile import GOOD, run
from tests.pipelines.download.web import Request, Web


def test_more_connections_than_the_process_may_open_files_are_refused(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(InputError, match=r"need 2256 open files, but this process is limited to 1024.*ulimit -n"):
        guarded_connector(Guard(), 2000, tls_context())


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(monkeypatch):
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    with pytest.raises(RuntimeError, match="no running event loop"):
        guarded_connector(Guard(), 72, tls_context())
    assert raised == [(1024, 1024)]


def test_servers_that_keep_connections_open_do_not_use_up_the_files():
    async def keep_open(request: Request) -> None:
        await asyncio.sleep(0.01)
        await request.send(GOOD, Connection="keep-alive")
        await asyncio.sleep(60)

    with Web({"*": keep_open}, host="0.0.0.0") as web:
        urls = [web.url("/a.jpg", f"127.0.{number // 200}.{number % 200 + 1}") for number in range(320)]
        options = {"allow_private_hosts": ["127.0.0.0/8"], "respect_robots_txt": False, "thread_count": 1}
        rows = run(urls, files=300, **options)["rows"]
    assert {row["download_status"] for row in rows} == {"ok"}
