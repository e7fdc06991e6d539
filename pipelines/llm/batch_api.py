"""Calls of the Batch API with validated replies; anything else raises MalformedResponse.

openai's own models take whatever a server sends: a list as status, a number as id. These are checked.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import openai

from pipelines.llm.answer import MalformedResponse, error_text, read_json
from pipelines.llm.transport import expecting_file

_ENDPOINT: Final = "/v1/chat/completions"
# Pages of 100 batches that are looked through for a lost one: the API lists the newest first.
_MOST_PAGES = 100
# A file's lines are as long as replies; all of them together stay below this.
_MOST_FILE_BYTES = 2**30
_LONGEST_ID = 200


@dataclass(frozen=True)
class Batch:
    """A batch as the server sees it. `files`: ids of its results and errors. `code`, `message`: why it was refused."""

    id: str
    status: str
    files: tuple[str, ...] = ()
    code: str = ""
    message: str = ""


class BatchApi:
    """Every method raises what `failures.EXPECTED` lists, and nothing else."""

    def __init__(self, http: openai.AsyncOpenAI):
        self._http = http

    async def upload(self, content: bytes) -> str:
        """The id of a new file of requests."""
        sent = ("requests.jsonl", content)
        reply = await self._http.files.with_raw_response.create(file=sent, purpose="batch")
        return _identity(read_json(reply.text), "id")

    async def create(self, file_id: str, name: str) -> str:
        """The id of a new batch of that file, with `name` in its metadata."""
        body = {"input_file_id": file_id, "endpoint": _ENDPOINT, "completion_window": "24h"}
        body["metadata"] = {"lavabeam": name}  # type: ignore[assignment]
        reply = await self._http.post("/batches", body=body, cast_to=httpx2.Response)
        return _identity(read_json(reply.text), "id")

    async def state(self, batch_id: str) -> Batch:
        reply = await self._http.get(f"/batches/{batch_id}", cast_to=httpx2.Response)
        return _batch(read_json(reply.text))

    async def find(self, name: str) -> str | None:
        """The id of the batch with `name` in its metadata, or None."""
        after = ""
        for _ in range(_MOST_PAGES):
            query = {"limit": 100, **({"after": after} if after else {})}
            reply = await self._http.get("/batches", options={"params": query}, cast_to=httpx2.Response)
            page = read_json(reply.text)
            entries = page.get("data")
            if not isinstance(entries, list):
                raise MalformedResponse("the list of batches has no `data`")
            batches = [entry for entry in entries if isinstance(entry, dict)]
            for batch in batches:
                metadata = batch.get("metadata")
                if isinstance(metadata, dict) and metadata.get("lavabeam") == name:
                    return _identity(batch, "id")
            if not batches or not page.get("has_more"):
                return None
            after = _identity(batches[-1], "id")
        return None

    async def file(self, file_id: str, lines: int, line_bytes: int) -> bytes:
        """A file of at most so many lines of at most so many bytes each."""
        with expecting_file(min(max(lines, 1) * line_bytes, _MOST_FILE_BYTES)):
            reply = await self._http.get(f"/files/{file_id}/content", cast_to=httpx2.Response)
        return reply.content


def request_line(key: str, body: dict[str, Any]) -> str:
    """One request of a file; its answer comes back under `key`."""
    return json.dumps({"custom_id": key, "method": "POST", "url": _ENDPOINT, "body": body})


def _batch(reported: dict[str, Any]) -> Batch:
    status, errors = reported.get("status"), reported.get("errors")
    if not isinstance(status, str):
        raise MalformedResponse(f"the batch has no status but {error_text(status)[:100]!r}")
    names = [name for name in ("output_file_id", "error_file_id") if reported.get(name)]
    listed = errors.get("data") if isinstance(errors, dict) else None
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    code, message = error_text(first.get("code")), error_text(first.get("message"))
    return Batch(_identity(reported, "id"), status, tuple(_identity(reported, name) for name in names), code, message)


def _identity(reported: dict[str, Any], name: str) -> str:
    """An id, which becomes part of addresses: so it must be a plain word."""
    value = reported.get(name)
    plain = isinstance(value, str) and 0 < len(value) <= _LONGEST_ID and value.isascii()
    if not plain or not all(one.isalnum() or one in "-_:.=" for one in str(value)) or set(str(value)) == {"."}:
        raise MalformedResponse(f"`{name}` is no id but {error_text(value)[:100]!r}")
    return str(value)
