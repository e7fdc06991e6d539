"""`lavabeam serve add|remove|list`: client of the admin API."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from lavabeam.serving.run import token_file
from lavabeam.serving.settings import ModelSpec
from schemas.errors import InputError

_TOKEN = re.compile(r"[\w-]{1,200}", re.ASCII)
_SECONDS = 3600
"""Adding answers when the checkpoint is loaded."""


class Administration:
    """A running gateway at `address`. Raises InputError for one that is not there, and with what it says is wrong."""

    def __init__(self, address: str, token: Path | None = None):
        self._address = address.rstrip("/").removesuffix("/v1")
        port = urlsplit(self._address).port or 80
        file = token or token_file(port)
        if not file.is_file():
            raise InputError(
                f"{file}: no such file. Is `lavabeam serve` running at {address}? Give its address with --url, and the "
                "file that it printed with --token-file."
            )
        self._token = file.read_text(encoding="utf-8", errors="replace").strip()
        if not _TOKEN.fullmatch(self._token):
            raise InputError(f"{file}: not a token. Give the file that `lavabeam serve` printed.")

    def add(self, spec: ModelSpec) -> dict[str, Any]:
        """The model as listed, once it is ready. A folder's path is made absolute: the server has its own."""
        if spec.backend != "remote":
            spec = spec.model_copy(update={"checkpoint": str(Path(spec.checkpoint).absolute())})
        return self._call("POST", "/admin/models", spec.model_dump(mode="json"))

    def remove(self, name: str) -> None:
        self._call("DELETE", f"/admin/models/{quote(name, safe='')}")

    def models(self) -> list[dict[str, Any]]:
        return self._call("GET", "/admin/models")["models"]

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, headers, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(request, timeout=_SECONDS) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            raise InputError(_message(error)) from error
        except (OSError, ValueError) as error:
            raise InputError(f"{self._address}: no answer ({error}). Is `lavabeam serve` running there?") from error


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{error.url}: HTTP {error.code}. Is this the address of `lavabeam serve`?"
