"""Reading an Arrow stream that may be damaged: an error of ours, with the file's name, or a table that is safe to use.

Arrow trusts what it maps. A cut stream reads without an error, and an offset beyond its buffer ends the process with a
signal when the value is looked at. So the end is looked for first, and what was described is validated before it is
handed out: offsets, lengths, dictionary indexes and UTF-8 of the columns that are read, at less than 1% of the cost
of turning them into Python values.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from schemas.errors import CorruptError

END = b"\xff\xff\xff\xff\0\0\0\0"
"""The end-of-stream marker (Arrow columnar format, "IPC Streaming Format"): what a cut stream lacks."""

RAW = (pa.ArrowException, OSError, ValueError, MemoryError, LookupError, TypeError, OverflowError)
"""What pyarrow raises for bytes that are no stream: errors of its own, and those of Python that its own derive from."""


def read_stream(file: pa.NativeFile, where: str, fields: Sequence[int] | None = None) -> pa.Table:
    """The columns (all, or those with these positions) of a stream; nothing is copied when `file` is a mapping.

    Raises CorruptError, with `where`, for anything but a whole and valid stream.
    """
    try:
        size = file.size()
        file.seek(max(size - len(END), 0))
        if file.read(len(END)) != END:
            raise CorruptError(damaged(where, "no end-of-stream marker", "a whole Arrow stream"), kind="cut")
        file.seek(0)
        table = pa.ipc.open_stream(file, options=pa.ipc.IpcReadOptions(included_fields=fields)).read_all()
        table.validate(full=True)
        for field in table.schema:
            _decode_names(field)
    except RAW as error:
        found = f"unreadable ({' '.join(str(error).split())[:200]})"
        raise CorruptError(damaged(where, found, "an Arrow stream"), kind="wrong bytes") from error
    return table


def _decode_names(field: pa.Field) -> None:
    """Raises UnicodeDecodeError for a name that is no text, as looking at a row would."""
    _ = field.name
    for number in range(field.type.num_fields):
        _decode_names(field.type.field(number))


def damaged(where: str, found: str, expected: str) -> str:
    """The message about a column file that is not what the manifest says."""
    return (
        f"{where}: {found}, the manifest says {expected}. The file was damaged or truncated after it was written: "
        "restore it, or delete it and run its step again."
    )
