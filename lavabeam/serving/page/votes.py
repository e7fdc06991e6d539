"""The column file `vote` beside recorded conversations: what people thought of an answer, and whether it was the last.

| column | meaning |
|---|---|
| `vote` | 1: liked, -1: disliked, null: nobody said |
| `vote_status` | `ok`, `disliked`, `replaced` (answered anew), `continued` (another row has more of it) |
| `vote_detail` | the key of the row that continues it |

All but `ok` leave a row out by choice (schemas/standing.py): a mix takes it when it says `where: {vote_status: [...]}`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from schemas.columnfile import column_path, write_column_file
from schemas.dataset import Fragment
from schemas.entries import FileEntry, StatusRule, StepEntry
from schemas.store import Store

NAME = "vote"
VERSION = 1
FIELDS = pa.schema(
    [("vote", pa.int8()), pa.field("vote_status", pa.string(), nullable=False), ("vote_detail", pa.string())]
)


class VoteStatus(StrEnum):
    ok = "ok"
    continued = "continued"
    replaced = "replaced"
    disliked = "disliked"


BY_CHOICE = {status.value: status.value for status in VoteStatus if status != VoteStatus.ok}
ENTRY = StepEntry(
    version=VERSION, config={}, name=NAME, statuses=StatusRule(step=NAME, column="vote_status", by_choice=BY_CHOICE)
)


@dataclass
class Verdict:
    """What is known of one row."""

    vote: int | None = None
    continued_by: str = ""
    replaced: bool = False

    def apply(self, event: dict[str, Any]) -> None:
        """Take an event of the journal in."""
        if event["event"] == "vote":
            self.vote = event["vote"] or None
        elif event["event"] == "replaced":
            self.replaced = True
        elif event["event"] == "continued":
            self.continued_by = event["by"]

    def row(self) -> dict[str, Any]:
        status, detail = VoteStatus.ok, None
        if self.replaced:
            status = VoteStatus.replaced
        elif self.vote == -1:
            status = VoteStatus.disliked
        elif self.continued_by:
            status, detail = VoteStatus.continued, self.continued_by
        return {"vote": self.vote, "vote_status": status.value, "vote_detail": detail}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Verdict:
        """The verdict that a stored row came from, as far as the row says."""
        return cls(row["vote"], row["vote_detail"] or "", row["vote_status"] == VoteStatus.replaced)


def read_verdicts(fragment: Fragment) -> list[Verdict]:
    return [Verdict.of(row) for row in fragment.read(FIELDS.names).to_pylist()]


def write_verdicts(store: Store, fragment: str, base: FileEntry, verdicts: Sequence[Verdict]) -> FileEntry:
    """The column file of one fragment. The same verdicts give the same file."""
    rows = [verdict.row() for verdict in verdicts]
    identity = json.dumps([NAME, VERSION, base.fingerprint, rows], sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()
    return write_column_file(
        store,
        column_path(fragment, NAME, fingerprint),
        pa.Table.from_pylist(rows, FIELDS).combine_chunks().to_batches(),
        FIELDS,
        "conversations",
        fingerprint=fingerprint,
        inputs={"base": base.fingerprint},
        status_column="vote_status",
    )
