"""urllib behind the guard: only http and https, every address checked at connect time, one TLS context."""

from __future__ import annotations

import http.client
import socket
import ssl
import urllib.request
from typing import Any

from pipelines.download.connect import GuardedError
from pipelines.download.guard import Guard
from pipelines.download.statuses import Failure


def guarded_opener(guard: Guard, context: ssl.SSLContext) -> urllib.request.OpenerDirector:
    """An opener that follows redirects, and knows no files, no ftp, no data URLs, no proxies and no passwords."""

    def connect(address: tuple[str, int], timeout: float | None = None, source_address: object = None) -> socket.socket:
        host, port = address
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        try:
            allowed = guard.vet(host, port, dict.fromkeys(str(info[4][0]) for info in found))
        except Failure as failure:
            raise GuardedError(failure) from None
        # The checked address itself is connected to, so a second look-up cannot answer differently.
        return _first_reachable(allowed, port, timeout)

    def plain(*arguments: Any, **options: Any) -> http.client.HTTPConnection:
        connection: Any = http.client.HTTPConnection(*arguments, **options)
        connection._create_connection = connect
        return connection

    def secure(*arguments: Any, **options: Any) -> http.client.HTTPSConnection:
        connection: Any = http.client.HTTPSConnection(*arguments, **options)
        connection._create_connection = connect
        return connection

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(plain, request)  # type: ignore[arg-type]

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(secure, request, context=context)  # type: ignore[arg-type]

    opener = urllib.request.OpenerDirector()
    for handler in (
        Plain(),
        Secure(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _first_reachable(addresses: list[str], port: int, timeout: float | None) -> socket.socket:
    problem: OSError | None = None
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout)
        except OSError as error:
            problem = error
    assert problem is not None
    raise problem
