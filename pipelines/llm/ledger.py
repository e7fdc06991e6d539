"""The spend ledger: claims on requests, and the spend of each budget under its caps.

A claim is taken before a request is sent and reserves the most that it can cost; it ends when the request does. So
settled spend plus open claims never exceed a cap, whichever processes share the store. A claim whose process died
may have been paid for: it counts as spent at its full reservation ("lost").

Every change bears being done twice, because a database whose connection is lost does not say whether it was done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

from pipelines.llm.stores import AnswerStore, Connection

# Sums of many float costs differ in their last digits from the same sums in another order.
_COST_TOLERANCE = 1e-9
# What a budget beside a dataset's own is for ("talks#judge").
_PURPOSES = ("#judge",)
# fsspec's names for the same store.
_SAME_PLACE = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "az": "abfs", "adl": "abfs", "abfss": "abfs"}
_AMOUNTS = ("requests", "tokens", "cost", "lost_requests", "lost_tokens", "lost_cost")
BATCH_OWNER = "batch:"
"""Claims of a submitted batch belong to the batch, which outlives the process that sent it."""


@dataclass(frozen=True)
class Spend:
    """Requests sent, tokens and USD."""

    requests: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.requests + other.requests, self.tokens + other.tokens, self.cost + other.cost)


@dataclass(frozen=True)
class Claim:
    """What an open request reserves, and the name of the prompt that it asks."""

    most: Spend
    prompt: str


@dataclass(frozen=True)
class Caps:
    """Hard stops of a budget; None is no cap."""

    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None

    def reached(self, spend: Spend) -> str | None:
        """The name and value of the first cap that `spend` would pass."""
        if self.max_requests is not None and spend.requests > self.max_requests:
            return f"max_requests {self.max_requests}"
        if self.max_tokens is not None and spend.tokens > self.max_tokens:
            return f"max_tokens {self.max_tokens}"
        if self.max_cost is not None and spend.cost > self.max_cost + _COST_TOLERANCE:
            return f"max_cost {self.max_cost:g} USD"
        return None


class Ledger:
    """The claims and the spend of one budget; every method is one transaction."""

    def __init__(self, store: AnswerStore, budget: str, caps: Caps):
        self._store, self._budget, self._caps = store, budget, caps
        self._join_spellings()

    def reached(self, most: Spend) -> str | None:
        """Why a request that can cost `most` does not fit under the caps any more, or None."""
        spent = self._spent(self._store.connection)
        cap = self._caps.reached(spent + most)
        return cap and f"{cap}: {_amount(spent)} spent, this request could take {_amount(most)}"

    def claim(self, key: str, most: Spend, prompt: str = "", owner: str | None = None) -> bool:
        """Whether the request `key`, which can cost at most `most`, may be sent now; reserves it then.

        False when its answer has arrived meanwhile, when another process is asking it, or when what is left of a
        cap is reserved by open requests.
        """
        return self._store.atomically(lambda connection: self._claim(connection, key, most, prompt, owner))

    def settle(self, connection: Connection, key: str, paid: Spend, owner: str | None = None) -> None:
        """End the owner's claim with what the server counted; part of the transaction that stores the answer.

        Nothing is counted without a claim. Then another process has settled the same answer of a batch; or it took
        this one for dead, after a lost connection, and counted all that the claim reserved.
        """
        budget = self._end(connection, key, self._owner(owner))
        if budget is not None:
            self._add(connection, paid, budget)

    def settle_unanswered(self, key: str, paid: Spend, owner: str | None = None) -> None:
        """End the claim of a request that was paid for and brought nothing usable."""
        self._store.atomically(lambda connection: self.settle(connection, key, paid, owner))

    def release(self, key: str, owner: str | None = None) -> None:
        """End the claim of a request that cost nothing."""
        self._store.atomically(lambda connection: self._end(connection, key, self._owner(owner)))

    def lose(self, key: str, owner: str | None = None) -> None:
        """End the claim of a request that may have been paid for: it counts with all it reserved."""
        self._store.atomically(lambda connection: self._lose(connection, key, self._owner(owner)))

    def report(self) -> dict[str, Any]:
        """Spend so far, for a summary: settled (lost included), lost, and reserved by open requests."""
        return self._store.atomically(self._report)

    def claims_of(self, owner: str) -> dict[str, Claim]:
        """The open claims of an owner, by request key."""
        rows = self._store.connection.execute("SELECT key, tokens, cost, prompt FROM claims WHERE owner = ?", (owner,))
        return {key: Claim(Spend(1, tokens, cost), prompt) for key, tokens, cost, prompt in rows.fetchall()}

    def _join_spellings(self) -> None:
        """Budgets that earlier releases kept under other spellings of the same place become one."""
        if not self._store.of_this_machine:
            return
        connection = self._store.connection
        rows = connection.execute("SELECT budget FROM spend UNION SELECT budget FROM claims").fetchall()
        others = [name for (name,) in rows if name != self._budget and budget_of(name) == self._budget]
        for other in others:
            self._store.atomically(partial(self._take_over, other))

    def _take_over(self, other: str, connection: Connection) -> None:
        row = connection.execute("DELETE FROM spend WHERE budget = ? RETURNING *", (other,)).fetchone()
        if row is not None:
            lost = Spend(*row[4:])
            paid = Spend(row[1] - lost.requests, row[2] - lost.tokens, row[3] - lost.cost)
            self._add(connection, paid, self._budget)
            self._add(connection, lost, self._budget, lost=True)
        connection.execute("UPDATE claims SET budget = ? WHERE budget = ?", (self._budget, other))

    def _claim(self, connection: Connection, key: str, most: Spend, prompt: str, owner: str | None) -> bool:
        if connection.execute("SELECT 1 FROM answers WHERE key = ?", (key,)).fetchone():
            return False
        claimant = self._owner(owner)
        holder = self._holder(connection, key)
        if holder is not None:
            # Its own: the connection was lost after this very claim was taken, before that was heard of.
            return holder == claimant
        if not self._fits(connection, most):
            return False
        row = (key, self._budget, claimant, most.tokens, most.cost, prompt)
        columns = "key, budget, owner, tokens, cost, prompt"
        connection.execute(f"INSERT INTO claims ({columns}) VALUES (?, ?, ?, ?, ?, ?)", row)
        return True

    def _report(self, connection: Connection) -> dict[str, Any]:
        self._bury_dead(connection)
        row = connection.execute(
            "SELECT lost_requests, lost_tokens, lost_cost FROM spend WHERE budget = ?", (self._budget,)
        ).fetchone()
        spent, lost = self._spent(connection), Spend(*(row or (0, 0, 0.0)))
        return {"spent": spent, "lost": lost, "reserved": self._reserved(connection)}

    def _owner(self, owner: str | None) -> str:
        return owner or self._store.owner.name

    def _holder(self, connection: Connection, key: str) -> str | None:
        """The live owner of the claim on `key`."""
        row = connection.execute("SELECT owner FROM claims WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        if self._is_dead(row[0]):
            self._lose(connection, key, row[0])
            return None
        return row[0]

    def _fits(self, connection: Connection, most: Spend) -> bool:
        if self._caps == Caps():
            return True
        if self._caps.reached(self._spent(connection) + self._reserved(connection) + most) is None:
            return True
        # Reservations of dead processes become spend, which `reached` sees: so that nobody waits for them forever.
        self._bury_dead(connection)
        return False

    def _is_dead(self, owner: str) -> bool:
        return not owner.startswith(BATCH_OWNER) and self._store.owner.is_dead(owner)

    def _bury_dead(self, connection: Connection) -> None:
        """Count the claims of dead processes as lost."""
        owners = [row[0] for row in connection.execute("SELECT DISTINCT owner FROM claims").fetchall()]
        for owner in filter(self._is_dead, owners):
            for (key,) in connection.execute("SELECT key FROM claims WHERE owner = ?", (owner,)).fetchall():
                self._lose(connection, key, owner)

    def _spent(self, connection: Connection) -> Spend:
        row = connection.execute(
            "SELECT requests, tokens, cost FROM spend WHERE budget = ?", (self._budget,)
        ).fetchone()
        return Spend(*(row or (0, 0, 0.0)))

    def _reserved(self, connection: Connection) -> Spend:
        row = connection.execute(
            "SELECT COUNT(*), CAST(COALESCE(SUM(tokens), 0) AS BIGINT), COALESCE(SUM(cost), 0.0) FROM claims "
            "WHERE budget = ?",
            (self._budget,),
        ).fetchone()
        return Spend(*(row or (0, 0, 0.0)))

    def _lose(self, connection: Connection, key: str, owner: str) -> None:
        row = connection.execute(
            "DELETE FROM claims WHERE key = ? AND owner = ? RETURNING budget, tokens, cost", (key, owner)
        ).fetchone()
        if row is not None:
            self._add(connection, Spend(1, row[1], row[2]), row[0], lost=True)

    @staticmethod
    def _end(connection: Connection, key: str, owner: str) -> str | None:
        """Remove an owner's claim; the budget that it belonged to, if there was one."""
        row = connection.execute(
            "DELETE FROM claims WHERE key = ? AND owner = ? RETURNING budget", (key, owner)
        ).fetchone()
        return row[0] if row else None

    @staticmethod
    def _add(connection: Connection, paid: Spend, budget: str, lost: bool = False) -> None:
        gone = paid if lost else Spend()
        connection.execute(
            "INSERT INTO spend VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (budget) DO UPDATE SET "
            + ", ".join(f"{column} = spend.{column} + excluded.{column}" for column in _AMOUNTS),
            (budget, paid.requests, paid.tokens, paid.cost, gone.requests, gone.tokens, gone.cost),
        )


def budget_of(place: str) -> str:
    """The one name of a budget: the place of its dataset, however it is spelled, and its purpose after a `#`.

    Local places by their real path (links followed, as far as they exist); others as addresses, which are not asked.
    """
    path, mark, purpose = place.rpartition("#") if place.endswith(_PURPOSES) else (place, "", "")
    scheme, separator, rest = path.partition("://")
    if separator and scheme.lower() not in ("file", "local"):
        parts = [part for part in rest.split("/") if part]
        return f"{_SAME_PLACE.get(scheme.lower(), scheme.lower())}://{'/'.join(parts)}{mark}{purpose}"
    local = rest if separator else path
    return f"{os.path.realpath(local)}{mark}{purpose}"


def _amount(spend: Spend) -> str:
    return f"{spend.requests} requests, {spend.tokens} tokens, {spend.cost:.6f} USD"
