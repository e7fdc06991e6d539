"""What was answered and is not committed yet: a folder beside the dataset, written at once. A kill loses nothing.

talks.incoming/journal.jsonl        a line per event: an answer, a vote, an answer that another one replaces
              /<sha256>             the picture of an answer
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from schemas.errors import InputError, StorageError

JOURNAL = "journal.jsonl"


class Journal:
    """The folder of one dataset, held by one process at a time; `events` are those that are not committed.

    Raises InputError when another process holds it, StorageError when it cannot be written.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        try:
            self._file = _held(folder)
        except BlockingIOError as error:
            raise InputError(f"{folder}: another page records there. Stop it, or choose another --record.") from error
        except OSError as error:
            raise StorageError(f"{folder}: cannot be written ({error.strerror}). Choose another --record.") from error
        self.events = _whole_lines(self._file)

    def add(self, event: Mapping[str, Any]) -> None:
        """Write an event at once. Raises OSError, and then nothing of it is there."""
        content, end = memoryview(json.dumps(event).encode() + b"\n"), os.fstat(self._file.fileno()).st_size
        try:
            while content:
                content = content[self._file.write(content) :]
        except OSError:
            self._file.truncate(end)
            raise
        self.events.append(dict(event))

    def keep_picture(self, data: bytes) -> str:
        """Store a picture; returns its sha256, which names it."""
        name = hashlib.sha256(data).hexdigest()
        path = self._folder / name
        if not path.exists():
            draft = path.with_suffix(".part")
            draft.write_bytes(data)
            draft.rename(path)
        return name

    def picture(self, name: str) -> bytes | None:
        path = self._folder / name
        return path.read_bytes() if path.exists() else None

    def forget(self) -> None:
        """All events are committed."""
        self._file.truncate(0)
        os.fsync(self._file.fileno())
        self.events = []
        for path in self._folder.iterdir():
            if path.name != JOURNAL:
                path.unlink()

    def close(self) -> None:
        """Let go of the folder, and leave none where nothing waits in it."""
        if not self.events and [path.name for path in self._folder.iterdir()] == [JOURNAL]:
            (self._folder / JOURNAL).unlink()
            self._folder.rmdir()
        self._file.close()


def _held(folder: Path) -> BinaryIO:
    """The journal's file, locked until it is closed. Raises BlockingIOError when another process has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / JOURNAL, "a+b", buffering=0)  # noqa: SIM115 - held until close
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                return file
        except OSError:
            file.close()
            raise
        file.close()  # another page has ended, and removed it, since it was opened


def _whole_lines(file: BinaryIO) -> list[dict[str, Any]]:
    """The events of a page that was killed; a last line that was not finished is cut off."""
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\n") + 1
    file.truncate(end)
    return [json.loads(line) for line in content[:end].splitlines()]
