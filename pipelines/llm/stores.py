"""The stores for responses, claims and spend: a local folder, or a shared database."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

from pipelines.llm import postgres, store
from pipelines.llm.postgres import is_database
from schemas.errors import InputError

AnswerStore: TypeAlias = store.CacheStore | postgres.DatabaseStore
Connection: TypeAlias = store.Connection | postgres.DatabaseConnection


def open_store(place: str | Path) -> AnswerStore:
    """The store at `place`, made if there is none; raises InputError."""
    return postgres.DatabaseStore(str(place)) if is_database(str(place)) else store.CacheStore(place)


def open_if_there(place: str | Path) -> AnswerStore | None:
    """The store at `place`, or None where no run has made one on this machine."""
    there = is_database(str(place)) or (store.check_folder(place) / store.FILE).is_file()
    return open_store(place) if there else None


def open_for_reading(place: str | Path) -> Connection:
    """What `place` holds, for reading only; raises InputError where there is nothing."""
    if is_database(str(place)):
        return postgres.open_for_reading(str(place))
    path = store.check_folder(place) / store.FILE
    if not path.is_file():
        raise InputError(
            f"{place}: there is no answer cache here (no {store.FILE}). Give the `cache` folder of a recipe."
        )
    return store.open_file(path, read_only=True)
