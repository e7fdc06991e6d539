"""Small steps that the framework's tests run: nothing of a real step, all that a step may do."""

import builtins
import os
import signal
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import pyarrow as pa

from pipelines.engine.blocks import aligned, divide, unpack
from pipelines.engine.filters import filter_step
from pipelines.engine.step import Config, DatasetStep, Derive, Runtime, Step
from schemas.decoding import decoding
from schemas.records import CONVERSATIONS


class Status(StrEnum):
    ok = "ok"
    odd = "odd"
    late = "late"


class ShoutConfig(Config):
    word: str = "!"
    threads: Annotated[int, Runtime()] = 1
    fail_on: str = ""
    error: str = "ArithmeticError"
    """What is raised for the key `fail_on`."""
    child: Annotated[str, Runtime()] = ""
    """A process that dies leaves a child, which keeps open what it inherited until this file is there. When there is
    none after five minutes it writes one with the suffix .late."""
    lose_rows: bool = False
    """Returns a row too few."""
    die_after: Annotated[int, Runtime()] = 0
    """Kills its process in this batch, counted over the process."""
    healed: Annotated[bool, Runtime()] = False
    sleep: Annotated[float, Runtime()] = 0
    """Seconds for every batch."""


class Shout(Step[ShoutConfig]):
    """Upper-cases the key; rows with an odd last digit have status `odd` until `healed`."""

    name, version, Config = "shout", 1, ShoutConfig
    reads = ("key",)
    adds = (pa.field("loud", pa.string()),)
    statuses, transient = Status, frozenset({"odd"})
    batches_seen = 0

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        type(self).batches_seen += 1
        if self.config.die_after and self.batches_seen >= self.config.die_after:
            if self.config.child and os.fork() == 0:
                _outlive(Path(self.config.child))
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.config.sleep)
        if self.config.fail_on in (keys := batch.column("key").to_pylist()):
            raise getattr(builtins, self.config.error)("a defect of the step")
        return self.rows_to_batch([self._row(key) for key in keys])

    def process_fragment(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in super().process_fragment(batches):
            yield batch.slice(1) if self.config.lose_rows else batch

    def _row(self, key: str) -> dict:
        odd = int(key[-1]) % 2 == 1 and not self.config.healed
        return {"loud": key.upper() + self.config.word, "status": "odd" if odd else "ok", "detail": None}


def _outlive(end: Path) -> None:
    last = time.monotonic() + 300
    while not end.exists():
        if time.monotonic() > last:
            end.with_suffix(".late").touch()
            break
        time.sleep(0.1)
    os._exit(0)


class Echo(Step[Config]):
    """Reads what Shout made."""

    name, version, Config = "echo", 1, Config
    reads = ("loud",)
    adds = (pa.field("echo", pa.string()),)
    statuses = Status

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.rows_to_batch([{"echo": word * 2, "status": "ok"} for word in batch.column("loud").to_pylist()])


class TwinKeys(Step[Config]):
    name, version, Config = "twin_keys", 1, Config
    reads = ("key",)
    adds = (pa.field("last", pa.string()),)
    statuses = Status

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.rows_to_batch([{"last": key[-1], "status": "ok"} for key in batch.column("key").to_pylist()])


class Twin(DatasetStep[Config]):
    """Rows whose keys end alike are one cluster, named by its smallest key."""

    name, version, Config = "twin", 1, Config
    keys = TwinKeys
    reads = ("last", "key")
    adds = (pa.field("cluster", pa.string()),)
    statuses = Status

    verdict_schema = pa.schema([("row", pa.int64()), ("cluster", pa.string())])

    def key(self, rows):
        places = pa.array(range(rows.num_rows), pa.int64())
        return pa.RecordBatch.from_arrays([places, *rows.columns], names=["row", *rows.schema.names])

    def verdicts(self, keys, ranges):
        import apache_beam as beam

        return (
            keys
            | "last" >> beam.FlatMap(_by_last)
            | beam.GroupByKey()
            | "cluster" >> beam.FlatMap(_cluster, self.verdict_schema, ranges)
        )

    def judge(self, rows, verdicts):
        clusters = aligned(verdicts, rows.num_rows).column("cluster").to_pylist()
        return self.rows_to_batch([{"cluster": cluster, "status": "ok"} for cluster in clusters])


def _by_last(block):
    rows = unpack(block)
    yield from divide(rows, rows.column("last").cast(pa.int64()).to_numpy())


def _cluster(grouped, schema, ranges):
    rows = pa.Table.from_batches([unpack(block) for block in grouped[1]]).combine_chunks()
    names = [min(rows.column("key").to_pylist())] * rows.num_rows
    made = pa.RecordBatch.from_pydict({"row": rows.column("row").combine_chunks(), "cluster": names}, schema=schema)
    yield from divide(made, ranges.of_rows(made.column("row").to_numpy()))


class Talk(Derive[Config]):
    """Two conversations for each row that Shout liked; one with a status for the others."""

    name, version, Config = "talk", 1, Config
    reads = ("key", "loud", "shout_status")
    schema = CONVERSATIONS
    statuses = Status

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return self.rows_to_batch([made for row in batch.to_pylist() for made in self._rows(row)])

    def _rows(self, row: dict) -> list[dict]:
        if row["shout_status"] != "ok":
            return [{"key": row["key"], "status": row["shout_status"], "detail": "shout"}]
        return [{"key": f"{row['key']}/{kind}", "kind": kind, "status": "ok"} for kind in ("a", "b")]


@filter_step("look", version=1)
def look(row):
    """The size of a picture. One decoder hangs, another one takes its process along, as C code may."""
    with decoding(row["image"], 0):
        while row["image"] == b"slow":
            hash(row["image"] * 1000)
        if row["image"] == b"crash":
            os.kill(os.getpid(), signal.SIGSEGV)
    return len(row["image"])


class FrailConfig(Config):
    dies_at: Annotated[str, Runtime()] = ""
    """The key that kills its process."""
    once: Annotated[str, Runtime()] = ""
    """A file that is made first; where it is there already, nothing dies."""


class Frail(Step[FrailConfig]):
    """Doubles the key, unless its process dies of it."""

    name, version, Config = "frail", 1, FrailConfig
    reads = ("key",)
    adds = (pa.field("twice", pa.string()),)
    statuses = Status

    def process(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        keys = batch.column("key").to_pylist()
        if self.config.dies_at in keys and not (self.config.once and Path(self.config.once).exists()):
            if self.config.once:
                Path(self.config.once).touch()
            os._exit(1)
        return self.rows_to_batch([{"twice": key * 2, "status": "ok"} for key in keys])
