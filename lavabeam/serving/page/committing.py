"""Events of the journal become fragments: pictures first, then conversations with their votes, in one commit each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lavabeam.serving.page import votes
from lavabeam.serving.page.votes import Verdict, read_verdicts, write_verdicts
from pipelines.importers.base import ImportStatus, conversation_table
from pipelines.importers.stored import stored_row, stored_table
from schemas.commit import Change, commit
from schemas.dataset import Dataset
from schemas.entries import FileEntry, StatusRule, StepEntry
from schemas.errors import ConflictError, InputError
from schemas.lookup import RowsByKey
from schemas.records import version_text
from schemas.store import Store
from schemas.writing import write_fragment

Event = dict[str, Any]
PictureOf = Callable[[str], bytes | None]
TRIES = 5
"""Commits that are tried when somebody else adds rows at the same time."""


def images_path(dataset: Path) -> Path:
    """Where the pictures of recorded conversations are."""
    return dataset.with_name(dataset.name + "-images")


def open_datasets(dataset: Path) -> None:
    """Raises InputError where one of the two places holds something else."""
    for path, schema in ((dataset, "conversations"), (images_path(dataset), "images")):
        if Dataset.exists(path) and (found := Dataset.open(path).schema_name) != schema:
            raise InputError(f"--record: {path} is a dataset of {found}, expected {schema}. Choose another folder.")


def commit_events(dataset: Path, events: Sequence[Event], picture: PictureOf) -> None:
    """Add what `events` say; rows that are there already are not added again, so a commit may be repeated."""
    answers = {event["key"]: event for event in events if event["event"] == "answer"}
    shown = {one["key"]: one for event in answers.values() for one in event["pictures"]}
    for attempt in range(TRIES):
        try:
            _add_images(images_path(dataset), shown, picture)
            return _add_conversations(dataset, answers, events)
        except ConflictError:
            if attempt == TRIES - 1:
                raise
    return None


def _add_images(path: Path, shown: Mapping[str, Event], picture: PictureOf) -> None:
    there = _there(path, list(shown))
    rows = [_image_row(one, picture(key)) for key, one in shown.items() if key not in there]
    if rows:
        rule = StatusRule(step="page", column="import_status", unusable=["*"])
        _append(path, "images", stored_table(rows), rule, {})


def _image_row(shown: Event, data: bytes | None) -> Event:
    row = {"key": shown["key"], "url": shown["url"], "source": "page", **stored_row(data, None)}
    if data is None:
        row |= {"import_status": ImportStatus.no_image, "import_detail": shown["detail"]}
    return row


def _add_conversations(path: Path, answers: Mapping[str, Event], events: Sequence[Event]) -> None:
    there = _there(path, list(answers))
    rows = [event["row"] for key, event in answers.items() if key not in there]
    verdicts = {row["key"]: Verdict() for row in rows}
    changed: dict[str, list[Event]] = {}
    for event in events:
        if event["key"] in verdicts:
            verdicts[event["key"]].apply(event)
        elif event["event"] != "answer":
            changed.setdefault(event["key"], []).append(event)
    older = _older(path, changed)
    rule = StatusRule(step="page", column="status", unusable=["*"])
    if rows or older:
        _append(path, "conversations", conversation_table(rows), rule, older, list(verdicts.values()))


def _older(path: Path, changed: Mapping[str, Sequence[Event]]) -> dict[str, dict[str, FileEntry]]:
    """Fragment -> the vote file that replaces its present one, for events about rows that were committed before.

    An event about a row that nobody recorded (its answer came before the page began to record) says nothing.
    """
    if not changed or not Dataset.exists(path):
        return {}
    dataset = Dataset.open(path)
    found = RowsByKey(dataset).find_all(list(changed))
    by_fragment: dict[str, tuple[Any, list[Verdict]]] = {}
    for key, row in zip(changed, found, strict=True):
        if row < 0:
            continue
        fragment, offset = dataset.locate(int(row))
        known = by_fragment.setdefault(fragment.id, (fragment, read_verdicts(fragment)))
        for event in changed[key]:
            known[1][offset].apply(event)
    return {
        name: {votes.NAME: write_verdicts(dataset.store, name, fragment.entry.files["base"], verdicts)}
        for name, (fragment, verdicts) in by_fragment.items()
    }


def _append(
    path: Path,
    schema: str,
    table: pa.Table,
    rule: StatusRule,
    older: Mapping[str, Mapping[str, FileEntry]],
    verdicts: Sequence[Verdict] = (),
) -> None:
    """One commit: a new fragment with `table`, if it has rows, and other files of older ones."""
    store = Store(path)
    before = Dataset.open(path).manifest if Dataset.exists(path) else None
    listed = list(before.fragments) if before else []
    files = {name: dict(one) for name, one in older.items()}
    if table.num_rows:
        new = write_fragment(store, schema, len(listed), table, status_column=rule.column)
        listed.append(new)
        if verdicts:
            files[new.id] = {votes.NAME: write_verdicts(store, new.id, new.files["base"], verdicts)}
    steps = {"base": StepEntry(version=1, config={}, name="page", statuses=rule)}
    commit(
        store,
        Change(
            base=before.number if before else 0,
            schema_version=version_text(schema),
            message=f"page: {table.num_rows} rows",
            fragments=listed,
            files=files,
            steps={**steps, **({votes.NAME: votes.ENTRY} if files else {})},
        ),
    )


def _there(path: Path, keys: Sequence[str]) -> set[str]:
    if not keys or not Dataset.exists(path):
        return set()
    found = RowsByKey(Dataset.open(path)).find_all(list(keys))
    return {key for key, row in zip(keys, found, strict=True) if row >= 0}
