"""The virtual machine of a pickle: its bytes, stack and memo, and an estimate of the values' memory."""

from __future__ import annotations

from typing import Any, BinaryIO, NoReturn

from schemas.errors import InputError

BUDGET = 1 << 30
"""Bytes that the values of one file may take, by the estimates below. Those of RefCOCO's largest file take a third."""

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 20
LIST, DICT, ITEM, TEXT, NUMBER, MEMO = 72, 232, 104, 60, 32, 104
"""Bytes of an empty list, a dict, one item of it, a text beside its characters, a number, one entry of the memo."""


class Machine:
    """The pickle machine: a stack, the starts of open groups on it, and the memo of values to come back to."""

    def __init__(self, file: BinaryIO, path: str):
        self._file, self._path = file, path
        self._data, self._at, self._before = b"", 0, 0
        self._left = BUDGET
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._texts: dict[str, str] = {}

    @property
    def place(self) -> str:
        """File and byte, for messages."""
        return f"{self._path}, byte {self._before + self._at}"

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._at + count
        if end > len(self._data):
            self._fill(count)
            end = count
        data = self._data[end - count : end]
        self._at = end
        return data

    def text_of(self, size: int) -> bytes:
        """`size` bytes of a text, which are paid for before they are read: a size is four bytes, or eight."""
        self.charge(TEXT + size)
        return self.take(size)

    def size(self, count: int) -> int:
        """The next `count` bytes as a number that is not negative."""
        return int.from_bytes(self.take(count), "little")

    def line(self) -> bytes:
        """The next line, without its end."""
        while (end := self._data.find(b"\n", self._at)) < 0:
            held = len(self._data) - self._at
            if held > _LONGEST_LINE:
                self.refuse(f"a line of more than {_LONGEST_LINE} bytes")
            self._fill(held + 1)
        line = self._data[self._at : end]
        self._at = end + 1
        return line

    def charge(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            self.refuse(f"its values take more than {BUDGET >> 20} MB of memory; this is not such a data set")

    def push(self, value: Any, cost: int = NUMBER) -> None:
        self.charge(cost)
        self.stack.append(value)

    def push_text(self, text: str) -> None:
        """A text that was paid for; words come back thousands of times, so each is kept once."""
        self.stack.append(self._texts.setdefault(text, text))

    def push_bytes_as_text(self, data: bytes) -> None:
        try:
            self.push_text(data.decode())
        except UnicodeDecodeError:
            self.stack.append(data)

    def group(self) -> list[Any]:
        """The values since the last mark, taken off the stack."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def values(self, count: int) -> list[Any]:
        """The last `count` values, taken off the stack."""
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise IndexError("values are missing")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def extend(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not list:
            raise ValueError(f"values are added to {type(target).__name__}, not to a list")
        self.charge(8 * len(values))
        target += values

    def update(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is not dict or len(values) % 2:
            raise ValueError(f"pairs are set in {type(target).__name__}, or one is incomplete")
        self.charge(ITEM * len(values) // 2)
        for place in range(0, len(values), 2):
            name = values[place]
            if type(name) is not str:  # a tuple of tuples may take forever to hash, and chosen numbers collide
                raise ValueError(f"a name in a dict is {type(name).__name__}, expected text")
            target[name] = values[place + 1]

    def top(self) -> Any:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise IndexError("a value is missing")
        return self.stack[-1]

    def put(self, index: int) -> None:
        self.charge(MEMO)
        self.memo[index] = self.top()

    def refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self.place}: {what}. Get the file again.") from None

    def opcode(self) -> int:
        """The next byte."""
        if self._at == len(self._data):
            self._fill(1)
        code = self._data[self._at]
        self._at += 1
        return code

    def peek(self) -> bytes:
        """The next byte, which stays there; empty at the end of the file."""
        if self._at == len(self._data):
            self._before += self._at
            self._data, self._at = self._file.read(_CHUNK), 0
        return self._data[self._at : self._at + 1]

    def _fill(self, count: int) -> None:
        """Read on until `count` bytes are there."""
        rest = self._data[self._at :]
        parts, held = [rest], len(rest)
        while held < count:
            more = self._file.read(_CHUNK)
            if not more:
                raise ValueError("the file ends within a value")
            parts.append(more)
            held += len(more)
        self._before += self._at
        self._data, self._at = b"".join(parts), 0
