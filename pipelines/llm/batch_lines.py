"""Output files of a batch: one JSON line per request, answered or not, in any order."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Container
from typing import Any

from pipelines.llm.answer import AnswerStatus, error_text
from pipelines.llm.failures import Failure, explain_http


def read_lines(
    content: bytes, asked: Container[str], hide: Callable[[str], str] = lambda text: text
) -> dict[str, str | Failure]:
    """An output or error file: the raw response or the failure of each line that reads well, by the request's key.

    Lines about anything but `asked` are left out; `hide` takes secrets out of each line.
    """
    results = {}
    # Lines of bytes end in \n only: answers may hold other characters that end a line for text (U+2028).
    for line in io.BytesIO(content):
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
            key, result = _read_line(json.loads(hide(line.decode(errors="replace"))))
            if key in asked:
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
