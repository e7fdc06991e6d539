"""The pool of connections: how many files it may need."""

from __future__ import annotations

import resource

import pytest

from pipelines.download.connect import guarded_connector, tls_context
from pipelines.download.guard import Guard
from schemas.errors import InputError


def test_more_connections_than_the_process_may_open_files_are_refused(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    with pytest.raises(InputError, match=r"need 2256 open files, this process may have 1024.*ulimit -n"):
        guarded_connector(Guard(), 2000, tls_context())


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes(monkeypatch):
    raised = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    with pytest.raises(RuntimeError, match="no running event loop"):
        guarded_connector(Guard(), 72, tls_context())
    assert raised == [(1024, 1024)]
