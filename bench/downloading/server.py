"""A picture server in a process of its own: HTTP and HTTPS, the same pictures under any number of URLs.

`/7.jpg` is picture 7; `/2007.jpg` is it again when there are 2,000. Each answer ends its connection, as when every
picture lies on another host, which is what lists of URLs from the web are like; under `/keep/` it stays open. Under
`/log/` the number goes to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from pathlib import Path


class Pictures(asyncio.Protocol):
    """One connection. Requests are a few hundred bytes, so one read holds one request."""

    def __init__(self, pictures: list[bytes]):
        self._pictures = pictures

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self._transport, asyncio.Transport)
        path = data.split(b" ", 2)[1].decode()
        if path == "/robots.txt":
            self._transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            self._transport.close()
            return
        if path.startswith("/log/"):
            os.write(2, b"%07d\n" % int(Path(path).stem))
        picture = self._pictures[int(Path(path).stem) % len(self._pictures)]
        stays = path.startswith("/keep/")
        connection = b"keep-alive" if stays else b"close"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nConnection: %s\r\n\r\n"
        self._transport.write(head % (len(picture), connection) + picture)
        if not stays:
            self._transport.close()


async def serve(folder: Path) -> None:
    pictures = [file.read_bytes() for file in sorted((folder / "pictures").glob("*.jpg"))]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    loop = asyncio.get_running_loop()
    plain = await loop.create_server(lambda: Pictures(pictures), "127.0.0.1", 0, backlog=512)
    secure = await loop.create_server(lambda: Pictures(pictures), "127.0.0.1", 0, ssl=context, backlog=512)
    ports = [server.sockets[0].getsockname()[1] for server in (plain, secure)]
    print(json.dumps({"http": ports[0], "https": ports[1]}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
