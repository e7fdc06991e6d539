"""The files that a batch leaves behind: one JSON line per request, answered or not, in any order."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from pipelines.llm.answer import AnswerStatus, error_text
from pipelines.llm.failures import Failure, explain_http


def read_lines(content: bytes) -> dict[str, str | Failure]:
    """An output or error file: the raw response or the failure of each line that reads well, by the request's key."""
    results = {}
    # Not splitlines: answers may hold other characters that end a line for it (U+2028).
    for text in content.decode(errors="replace").split("\n"):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            key, result = _read_line(json.loads(text))
            results[key] = result
    return results


def _read_line(line: dict[str, Any]) -> tuple[str, str | Failure]:
    response, error = line.get("response") or {}, line.get("error") or {}
    if response.get("status_code") == 200:
        return line["custom_id"], json.dumps(response["body"])
    if response:
        reported = error_text((response.get("body") or {}).get("error"))
        return line["custom_id"], explain_http(response["status_code"], {}, reported)
    return line["custom_id"], Failure(AnswerStatus.unavailable, error_text(error), retry=True)
