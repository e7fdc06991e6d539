"""Answers that were paid for, by the content of their question; and what `lavabeam cache` shows and carries."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.llm.answer import Answer, ErrorResponse, MalformedResponse, read_response
from pipelines.llm.store import FILE, CacheStore, check_folder, errors_naming, open_file
from schemas.errors import InputError

_COLUMNS = ("key", "provider", "model", "prompt", "response", "input_tokens", "output_tokens", "cost", "created")
_SUMS = ("answers", "response_bytes", "input_tokens", "output_tokens", "cost", "hits", "saved")
_SPEND = ("requests", "tokens", "cost", "lost_requests", "lost_tokens", "lost_cost")
# Hits are counted in memory and written in groups: a count is no reason for a write per row.
_HITS_PER_WRITE = 256


class AnswerCache:
    """Raw responses by request key. Only answers are kept, never failures."""

    def __init__(self, store: CacheStore):
        self._store = store
        self._hits: Counter[str] = Counter()

    def get(self, key: str) -> Answer | None:
        """The stored answer (marked as cached), or None."""
        connection = self._store.connection
        row = connection.execute("SELECT response, cost FROM answers WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        try:
            answer = _answer(*row)
        except (MalformedResponse, ErrorResponse):
            # Damaged, or taken for an answer by an older version: it must not block a good one.
            connection.execute("DELETE FROM answers WHERE key = ?", (key,))
            return None
        self.count_hit(key)
        return answer

    def count_hit(self, key: str) -> None:
        """An answer that was there, or on its way, served another row."""
        self._hits[key] += 1
        if self._hits.total() >= _HITS_PER_WRITE:
            self.write_hits()

    def holds(self, key: str) -> bool:
        """Whether `get` would find an answer; counts no hit."""
        return self._store.connection.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone() is not None

    def put(
        self, connection: sqlite3.Connection, key: str, names: tuple[str, str, str], raw: str, answer: Answer
    ) -> None:
        """Store the raw response of `key`, asked of (provider, model) with a prompt; within a transaction."""
        usage = answer.usage
        tokens = (usage.input, usage.output) if usage else (None, None)
        row = (key, *names, raw, *tokens, answer.cost, time.time())
        connection.execute(f"INSERT OR IGNORE INTO answers ({', '.join(_COLUMNS)}) VALUES ({_marks()})", row)

    def write_hits(self) -> None:
        """Add the hits counted so far to the file."""
        counted, self._hits = self._hits, Counter()
        if counted:
            with self._store.transaction() as connection:
                connection.executemany(
                    "UPDATE answers SET hits = hits + ? WHERE key = ?", [(hits, key) for key, hits in counted.items()]
                )


def summary(folder: str | Path) -> dict[str, Any]:
    """What the cache folder holds: answers, bytes, tokens, USD spent, hits, USD saved; also by model and prompt."""
    connection = _open_for_reading(folder)
    with contextlib.closing(connection), errors_naming(check_folder(folder) / FILE):
        rows = connection.execute(
            "SELECT provider, model, prompt, COUNT(*), SUM(LENGTH(response)), SUM(input_tokens), SUM(output_tokens), "
            "SUM(cost), SUM(hits), SUM(hits * cost) FROM answers GROUP BY provider, model, prompt ORDER BY 1, 2, 3"
        ).fetchall()
        spends = connection.execute("SELECT * FROM spend ORDER BY budget").fetchall()
    groups = [
        {"provider": row[0], "model": row[1], "prompt": row[2], **_named(_SUMS, [number or 0 for number in row[3:]])}
        for row in rows
    ]
    totals = {name: sum(group[name] for group in groups) for name in _SUMS}
    size = sum(file.stat().st_size for file in check_folder(folder).glob(FILE + "*"))
    budgets = {row[0]: _named(_SPEND, row[1:]) for row in spends}
    return {"folder": str(folder), "file_bytes": size, **totals, "by_prompt": groups, "budgets": budgets}


def export_answers(folder: str | Path, target: str | Path) -> int:
    """Write every answer as one JSON line to `target`, in the order of their keys; returns how many."""
    connection = _open_for_reading(folder)
    count = 0
    try:
        with errors_naming(check_folder(folder) / FILE), Path(target).open("w", encoding="utf-8") as file:
            for row in connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM answers ORDER BY key"):
                file.write(json.dumps(dict(zip(_COLUMNS, row, strict=True)), ensure_ascii=False) + "\n")
                count += 1
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error}). Give a file in an existing folder.") from error
    finally:
        connection.close()
    return count


def import_answers(folder: str | Path, source: str | Path) -> int:
    """Add the answers of an exported file; those that are there already stay. Returns how many were added.

    Raises InputError naming the file and line of the first entry that is no answer; nothing is added then.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a file that `lavabeam cache export` wrote.")
    store = CacheStore(folder)
    try:
        with store.transaction() as connection, path.open(encoding="utf-8") as file:
            before = connection.total_changes
            for number, line in enumerate(file, start=1):
                row = _imported(line, f"{path}, line {number}")
                connection.execute(f"INSERT OR IGNORE INTO answers ({', '.join(_COLUMNS)}) VALUES ({_marks()})", row)
            return connection.total_changes - before
    finally:
        store.close()


def _imported(line: str, where: str) -> list[Any]:
    try:
        entry = json.loads(line)
        row = [entry[column] for column in _COLUMNS]
        read_response(entry["response"])
    except (ValueError, KeyError, TypeError, MalformedResponse, ErrorResponse) as error:
        raise InputError(
            f"{where}: not an exported answer ({type(error).__name__}: {error}). "
            "Nothing was imported; export the file again."
        ) from error
    return row


def _answer(raw: str, cost: float | None) -> Answer:
    return replace(read_response(raw), cost=cost, cached=True)


def _open_for_reading(folder: str | Path) -> sqlite3.Connection:
    path = check_folder(folder) / FILE
    if not path.is_file():
        raise InputError(f"{folder}: there is no answer cache here (no {FILE}). Give the `cache` folder of a recipe.")
    return open_file(path, read_only=True)


def _named(names: tuple[str, ...], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))


def _marks() -> str:
    return ", ".join("?" * len(_COLUMNS))
