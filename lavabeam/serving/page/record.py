"""Conversations become rows: a `conversations` dataset, its pictures in `<dataset>-images`, votes as a column.

An answer is a row with the conversation up to it, so that a vote means one answer; `votes.py` says which of the rows
of a conversation has all of it. Answers wait in a journal and are committed together, since each commit makes a
fragment of each dataset.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lavabeam.serving.page.committing import commit_events, open_datasets
from lavabeam.serving.page.journal import Journal
from lavabeam.serving.page.session import Column, Picture, Turn
from schemas.errors import InputError, LavaBeamError

BATCH_ROWS = 256
"""Answers that are committed at once..."""
BATCH_S = 600.0
"""... and seconds after which fewer are."""


class Recorder:
    """Adds to one dataset until `close`, which commits the rest. Methods may be called from any thread.

    Raises InputError for a place that holds another kind of dataset, or that another page records to, and StorageError.
    """

    def __init__(self, dataset: str | Path, gateway: str, allow_private_hosts: tuple[str, ...] = ()):
        if "://" in str(dataset) or ":/" in str(dataset):
            raise InputError(
                f"--record {dataset}: expected a folder of this machine. Copy the dataset when it is made."
            )
        dataset = Path(dataset)
        open_datasets(dataset)
        self._dataset, self._gateway, self._allowed = dataset, gateway, allow_private_hosts
        self._journal = Journal(dataset.with_name(dataset.name + ".incoming"))
        self._lock = threading.RLock()
        self._commit()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._commit_now_and_then, daemon=True)
        self._thread.start()

    def keep(self, column: Column, turn: Turn, settings: Mapping[str, Any]) -> None:
        """Record the answer of `turn`, and that it continues the answered turn before it."""
        answered = [one for one in column.turns[: column.turns.index(turn) + 1] if one.is_answered]
        pictures = [self._picture(picture) for one in answered for picture in one.pictures]
        with self._lock:
            for picture in pictures:
                picture["key"] = self._keep(picture)
            row = {
                "key": turn.key,
                "image_keys": [picture["key"] for picture in pictures],
                "messages": [message for one in answered for message in _messages(one)],
                "kind": "conversation",
                "source": "page",
                "generator": self._generator(column.model, turn, settings),
                "status": "ok",
            }
            shown = [{"key": one["key"], "url": one["url"], "detail": one["detail"]} for one in pictures]
            self._journal.add({"event": "answer", "key": turn.key, "row": row, "pictures": shown})
            turn.recorded = True
            if turn.vote:
                self._journal.add({"event": "vote", "key": turn.key, "vote": turn.vote})
            if len(answered) > 1:
                self._journal.add({"event": "continued", "key": answered[-2].key, "by": turn.key})
            if self._waiting >= BATCH_ROWS:
                self._commit()

    def voted(self, turn: Turn) -> None:
        """Record the vote; one that comes before its answer is recorded goes along with it."""
        with self._lock:
            if turn.recorded:
                self._journal.add({"event": "vote", "key": turn.key, "vote": turn.vote})

    def replaced(self, old: Turn) -> None:
        """`old` was answered anew. An error that was is in no dataset."""
        with self._lock:
            if old.recorded:
                self._journal.add({"event": "replaced", "key": old.key})

    def close(self) -> None:
        """Commit what waits. A second call does nothing."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._thread.join()
        with self._lock:
            self._commit()
            self._journal.close()

    @property
    def _waiting(self) -> int:
        return sum(event["event"] == "answer" for event in self._journal.events)

    def _commit(self) -> None:
        if self._journal.events:
            commit_events(self._dataset, self._journal.events, self._journal.picture)
            self._journal.forget()

    def _commit_now_and_then(self) -> None:
        """A commit that fails is tried again: the journal keeps what waits, and the last one says why at the end."""
        while not self._ending.wait(BATCH_S):
            with self._lock:
                try:
                    self._commit()
                except (LavaBeamError, OSError) as error:
                    print(f"lavabeam: not recorded yet: {error}", flush=True)

    def _picture(self, picture: Picture) -> dict[str, Any]:
        """Bytes of a picture. An address is fetched once more, by the guard that the gateway has: it alone saw them."""
        if picture.path:
            return {"data": picture.bytes(), "url": None, "detail": None}
        from pipelines.download.single import fetch_picture

        try:
            return {"data": fetch_picture(picture.url, self._allowed), "url": picture.url, "detail": None}
        except InputError as error:
            return {"data": None, "url": picture.url, "detail": str(error)}

    def _keep(self, picture: Mapping[str, Any]) -> str:
        """The key of a picture: of its bytes, or of its address where they could not be had."""
        if picture["data"] is None:
            return hashlib.sha256(picture["url"].encode()).hexdigest()
        return self._journal.keep_picture(picture["data"])

    def _generator(self, model: str, turn: Turn, settings: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "provider": self._gateway,
            "model": model,
            "parameters": json.dumps(dict(settings), sort_keys=True),
            "request_id": turn.answer.request_id,
            "input_tokens": turn.answer.input_tokens,
            "output_tokens": turn.answer.output_tokens,
        }


def _messages(turn: Turn) -> Sequence[dict[str, Any]]:
    pictures = [{"type": "image", "text": None} for _ in turn.pictures]
    question = {"type": "text", "text": turn.question}
    answer = {"type": "text", "text": turn.answer.text}
    return [{"role": "user", "content": [*pictures, question]}, {"role": "assistant", "content": [answer]}]
