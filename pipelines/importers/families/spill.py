"""Passes finished rows from the process that read a source to the workers that write them.

What a slice's location holds travels through Beam's graph, where a megabyte costs 26 MB of memory and 1.5 s (measured
with 118 slices). So rows of a source on this machine wait in a temporary file; those of any other source travel.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import InputError


class Spill:
    """Keeps rows until it is collected; `source` is the path that they come from."""

    def __init__(self, source: str):
        # Not closed here: it lasts as long as this object, and is deleted with it.
        self._file = None if "://" in source else tempfile.NamedTemporaryFile(prefix="lavabeam-rows-")  # noqa: SIM115

    def put(self, rows: Sequence[str]) -> dict[str, Any]:
        """The location of rows, each a line of text."""
        data = zlib.compress("\n".join(rows).encode(), 1)
        if self._file is None:
            return {"rows": data}
        start = self._file.tell()
        self._file.write(data)
        self._file.flush()
        return {"file": self._file.name, "start": start, "bytes": len(data)}


def taken(location: Mapping[str, Any]) -> list[str]:
    """The rows at a location; raises InputError on a machine that does not have the file."""
    if "rows" in location:
        return zlib.decompress(location["rows"]).decode().split("\n")
    try:
        with open(location["file"], "rb") as file:
            file.seek(location["start"])
            return zlib.decompress(file.read(location["bytes"])).decode().split("\n")
    except OSError as error:
        raise InputError(
            f"{location['file']}: the rows that were read from this machine's files are not here ({error.strerror}). "
            "Import with `--runner local`, or from an address that every worker reaches."
        ) from error
