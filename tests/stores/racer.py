"""One of two processes that commit to the same dataset at once: `python -m tests.stores.racer ROOT NAME`.

A line on stdin is a round; its answer on stdout is what became of its two commits, which start from the same version:
of a column of its own, and of one that the other process writes too.
"""

import json
import sys

import pyarrow as pa

from schemas import Dataset
from schemas.columnfile import column_path, write_column_file
from schemas.commit import Change, commit
from schemas.errors import ConflictError


def column(dataset: Dataset, name: str, word: str) -> Change:
    """A change of the first fragment: a column whose values, and whose fingerprint, are `word`."""
    fragment = dataset.fragments[0]
    batch = pa.record_batch({name: [word] * fragment.rows})
    path = column_path(fragment.id, name, word)
    entry = write_column_file(dataset.store, path, [batch], batch.schema, "images", fingerprint=word, inputs={})
    number, version = dataset.manifest.number, "images/1.0"
    return Change(base=number, schema_version=version, run=word, files={fragment.id: {name: entry}})


def main() -> None:
    root, name = sys.argv[1:]
    print("ready", flush=True)
    for line in sys.stdin:
        dataset = Dataset.open(root)
        own = column(dataset, name, f"{name}{line.strip()}")
        both = column(dataset, "both", f"both-{name}{line.strip()}")
        print("planned", flush=True)
        sys.stdin.readline()
        answer = {"own": commit(dataset.store, own).number}
        try:
            answer["both"] = commit(dataset.store, both).number
        except ConflictError as error:
            answer["refused"] = str(error)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
