"""Cached responses, keyed by the content of their request, and the data for `lavabeam cache`."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.llm.answer import Answer, ErrorResponse, MalformedResponse, read_response
from pipelines.llm.request import ChatRequest
from pipelines.llm.stores import AnswerStore, Connection, open_for_reading, open_store
from schemas.errors import InputError

_COLUMNS = ("key", "provider", "model", "prompt", "response", "input_tokens", "output_tokens", "cost", "created")
_SUMS = ("answers", "response_bytes", "input_tokens", "output_tokens", "cost", "hits", "saved")
_SPEND = ("requests", "tokens", "cost", "lost_requests", "lost_tokens", "lost_cost")
# Hits are counted in memory and written in groups: a count is no reason for a write per row.
_HITS_PER_WRITE = 256
# An import is written in portions, because other processes wait for the end of a transaction.
_ROWS_PER_WRITE = 500
_INSERT = (
    f"INSERT INTO answers ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    "ON CONFLICT (key) DO NOTHING"
)
# SQLite's own sums are integers; PostgreSQL's are decimals.
_SUMMED = (
    "COUNT(*), CAST(SUM(LENGTH(response)) AS BIGINT), CAST(SUM(input_tokens) AS BIGINT), "
    "CAST(SUM(output_tokens) AS BIGINT), SUM(cost), CAST(SUM(hits) AS BIGINT), SUM(hits * cost)"
)


class AnswerCache:
    """Raw responses by request key. Only answers are kept, never failures."""

    def __init__(self, store: AnswerStore):
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

    def next_sample(self, request: ChatRequest) -> ChatRequest:
        """`request` as it is, or with `after` the sample after the one that returned that answer.

        Where the cache does not know that answer, the first sample that it does not have.
        """
        if request.after is None:
            return request
        for sample in itertools.count():
            one = request.sampled(sample)
            row = self._store.connection.execute("SELECT response FROM answers WHERE key = ?", (one.key(),)).fetchone()
            if row is None:
                return one
            with contextlib.suppress(MalformedResponse, ErrorResponse):
                if request.after and read_response(row[0]).request_id == request.after:
                    return request.sampled(sample + 1)
        raise AssertionError("unreachable")

    def put(self, connection: Connection, key: str, names: tuple[str, str, str], raw: str, answer: Answer) -> None:
        """Store the raw response of `key`, asked of (provider, model) with a prompt; within a transaction."""
        usage = answer.usage
        tokens = (usage.input, usage.output) if usage else (None, None)
        row = (key, *names, raw, *tokens, answer.cost, time.time())
        connection.execute(_INSERT, row)

    def write_hits(self) -> None:
        """Add the hits counted so far to the stored ones."""
        counted, self._hits = self._hits, Counter()
        if counted:
            rows = [(hits, key) for key, hits in counted.items()]
            statement = "UPDATE answers SET hits = hits + ? WHERE key = ?"
            self._store.atomically(lambda connection: connection.executemany(statement, rows))


def summary(place: str | Path) -> dict[str, Any]:
    """What the cache at `place` holds: answers, bytes, tokens, USD spent, hits, USD saved; by model and prompt too."""
    with contextlib.closing(open_for_reading(place)) as connection:
        grouped = f"SELECT provider, model, prompt, {_SUMMED} FROM answers GROUP BY provider, model, prompt"
        rows = list(connection.stream(f"{grouped} ORDER BY provider, model, prompt"))
        spends = list(connection.stream("SELECT * FROM spend ORDER BY budget"))
        size = connection.stored_bytes()
    groups = [
        {"provider": row[0], "model": row[1], "prompt": row[2], **_named(_SUMS, [number or 0 for number in row[3:]])}
        for row in rows
    ]
    totals = {name: sum(group[name] for group in groups) for name in _SUMS}
    budgets = {row[0]: _named(_SPEND, row[1:]) for row in spends}
    return {"folder": str(place), "file_bytes": size, **totals, "by_prompt": groups, "budgets": budgets}


def export_answers(place: str | Path, target: str | Path) -> int:
    """Write every answer as one JSON line to `target`, in the order of their keys; returns how many."""
    count = 0
    with contextlib.closing(open_for_reading(place)) as connection:
        try:
            with Path(target).open("w", encoding="utf-8") as file:
                for row in connection.stream(f"SELECT {', '.join(_COLUMNS)} FROM answers ORDER BY key"):
                    file.write(json.dumps(_named(_COLUMNS, row), ensure_ascii=False) + "\n")
                    count += 1
        except OSError as error:
            raise InputError(f"{target}: cannot be written ({error}). Give a file in an existing folder.") from error
    return count


def import_answers(place: str | Path, source: str | Path) -> int:
    """Add the answers of an exported file; those that are there already stay. Returns how many were added.

    Raises InputError naming the file and line of the first entry that is no answer; nothing is added then.
    """
    path = Path(source)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a file that `lavabeam cache export` wrote.")
    store = open_store(place)
    try:
        for _ in _exported(path):
            pass
        count, rows = 0, _exported(path)
        while portion := list(itertools.islice(rows, _ROWS_PER_WRITE)):
            count += store.atomically(partial(_insert, portion))
        return count
    finally:
        store.close()


def _insert(rows: list[list[Any]], connection: Connection) -> int:
    return connection.executemany(_INSERT, rows).rowcount


def _exported(path: Path) -> Iterator[list[Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            yield _imported(line, f"{path}, line {number}")


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


def _named(names: tuple[str, ...], values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))
