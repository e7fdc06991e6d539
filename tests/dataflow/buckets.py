"""A local stand-in for Cloud Storage: the part of its JSON API that gcsfs and google-cloud-storage use.

Generations and preconditions are the service's: `ifGenerationMatch=0` writes only what is not there. A bucket exists as
soon as it is named.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Stored:
    content: bytes
    generation: int


class Refused(Exception):
    """An answer that is no success: `status` is its HTTP status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Buckets:
    """All objects by (bucket, name); every change takes the lock."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, tuple[tuple[str, str], bytes]] = {}
        self._lock, self._numbers = threading.Lock(), itertools.count(1)

    def put(self, key: tuple[str, str], content: bytes, query: Mapping[str, str]) -> dict[str, Any]:
        with self._lock:
            found, wanted = self.objects.get(key), query.get("ifGenerationMatch")
            if wanted is not None and int(wanted) != (found.generation if found else 0):
                raise Refused(412, "conditionNotMet")
            self.objects[key] = Stored(content, next(self._numbers))
            return described(key, self.objects[key])

    def get(self, key: tuple[str, str]) -> Stored:
        if key not in self.objects:
            raise Refused(404, f"No such object: {'/'.join(key)}")
        return self.objects[key]

    def remove(self, key: tuple[str, str]) -> None:
        with self._lock:
            self.get(key)
            del self.objects[key]

    def list(self, bucket: str, query: Mapping[str, str]) -> dict[str, Any]:
        """All at once: no page is ever full."""
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, folders = [], set()
        for key, stored in sorted(self.objects.items()):
            if key[0] != bucket or not key[1].startswith(prefix):
                continue
            inside, found, _ = key[1][len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if found:
                folders.add(prefix + inside + delimiter)
            else:
                items.append(described(key, stored))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def start(self, key: tuple[str, str], query: Mapping[str, str]) -> str:
        """A resumable upload: its id. The precondition is looked at now, and again at the end."""
        number = str(next(self._numbers))
        self.uploads[number] = (key, b"")
        return urllib.parse.urlencode({"upload_id": number, **query})


def described(key: tuple[str, str], stored: Stored) -> dict[str, Any]:
    import google_crc32c

    bucket, name = key
    checksum = google_crc32c.value(stored.content).to_bytes(4, "big")
    return {
        "kind": "storage#object",
        "id": f"{bucket}/{name}/{stored.generation}",
        "bucket": bucket,
        "name": name,
        "generation": str(stored.generation),
        "metageneration": "1",
        "size": str(len(stored.content)),
        "contentType": "application/octet-stream",
        "storageClass": "STANDARD",
        "timeCreated": "2026-11-28T00:00:00.000Z",
        "updated": "2026-11-28T00:00:00.000Z",
        "md5Hash": base64.b64encode(hashlib.md5(stored.content).digest()).decode(),
        "crc32c": base64.b64encode(checksum).decode(),
    }


_OBJECT = re.compile(r"/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)(?:/(?P<verb>rewriteTo|copyTo|moveTo)/(?P<to>.+))?$")


class Handler(BaseHTTPRequestHandler):
    """One request; `buckets` is set by `serve`."""

    buckets: Buckets
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answered(self._get)

    def do_POST(self) -> None:
        self._answered(self._post)

    def do_PUT(self) -> None:
        self._answered(self._resumed)

    def do_DELETE(self) -> None:
        self._answered(self._delete)

    def _answered(self, act: Any) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.query = dict(urllib.parse.parse_qsl(url.query))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            act(url.path)
        except Refused as refused:
            self._send(refused.status, {"error": {"code": refused.status, "message": str(refused)}})

    def _get(self, path: str) -> None:
        found = _OBJECT.search(path)
        if found is None and path.endswith("/o"):
            return self._send(200, self.buckets.list(path.split("/")[-2], self.query))
        if found is None:
            bucket = path.rsplit("/", 1)[-1]
            return self._send(200, {"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "EU"})
        key = _key(found)
        stored = self.buckets.get(key)
        if self.query.get("alt") != "media":
            return self._send(200, described(key, stored))
        return self._send_part(stored.content)

    def _send_part(self, content: bytes) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self._send(200, content)
        start, end = int(asked[1]), int(asked[2] or len(content) - 1)
        if start >= len(content):
            raise Refused(416, "The requested range cannot be satisfied.")
        part = content[start : end + 1]
        return self._send(206, part, {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(content)}"})

    def _post(self, path: str) -> None:
        found = _OBJECT.search(path)
        if found is not None and found["verb"]:
            return self._copied(found)
        kind, bucket = self.query.get("uploadType"), path.split("/")[-2]
        if kind == "resumable":
            named = json.loads(self.body or b"{}")
            key = (bucket, self.query.get("name") or named["name"])
            host = self.headers["Host"]
            where = f"http://{host}{path}?{self.buckets.start(key, self.query)}"
            return self._send(200, {}, {"Location": where})
        if kind == "multipart":
            head, content = _parts(self.body, self.headers["Content-Type"])
            return self._send(200, self.buckets.put((bucket, json.loads(head)["name"]), content, self.query))
        return self._send(200, self.buckets.put((bucket, self.query["name"]), self.body, self.query))

    def _copied(self, found: re.Match[str]) -> None:
        source = _key(found)
        if found["verb"] == "moveTo":
            target = (source[0], urllib.parse.unquote(found["to"].removeprefix("o/")))
        else:
            bucket, _, name = found["to"].removeprefix("b/").partition("/o/")
            target = (bucket, urllib.parse.unquote(name))
        made = self.buckets.put(target, self.buckets.get(source).content, self.query)
        if found["verb"] == "moveTo":
            self.buckets.remove(source)
        rewritten = {"kind": "storage#rewriteResponse", "done": True, "resource": made, "objectSize": made["size"]}
        return self._send(200, rewritten if found["verb"] == "rewriteTo" else made)

    def _resumed(self, path: str) -> None:
        """A part of a resumable upload: `bytes 0-99/*`, the last one `bytes 100-149/150`, or `bytes */150`."""
        number = self.query["upload_id"]
        key, before = self.buckets.uploads[number]
        content = before + self.body
        self.buckets.uploads[number] = (key, content)
        if self.headers["Content-Range"].endswith("/*"):
            return self._send(308, b"", {"Range": f"bytes=0-{len(content) - 1}"} if content else {})
        return self._send(200, self.buckets.put(key, content, self.query))

    def _delete(self, path: str) -> None:
        found = _OBJECT.search(path)
        assert found is not None, path
        self.buckets.remove(_key(found))
        self._send(204, b"")

    def _send(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        lengths = {"Content-Type": kind, "Content-Length": str(len(data))}
        for name, value in {**lengths, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def serve(buckets: Buckets) -> ThreadingHTTPServer:
    """A running server on a free port of this machine; `shutdown` ends it."""
    handler = type("BucketHandler", (Handler,), {"buckets": buckets})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _key(found: re.Match[str]) -> tuple[str, str]:
    return found["bucket"], urllib.parse.unquote(found["name"])


def _parts(body: bytes, content_type: str) -> tuple[bytes, bytes]:
    """The JSON and the content of a multipart/related upload; gcsfs ends lines with \\n, others with \\r\\n."""
    mark = b"--" + content_type.partition("boundary=")[2].strip("\"'").encode()
    line = b"\r\n" if body.startswith(mark + b"\r\n") else b"\n"
    _, head, content, _ = body.split(mark)
    head, content = (part.partition(line * 2)[2].removesuffix(line) for part in (head, content))
    return head, content
