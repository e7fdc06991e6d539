"""Pickles of plain values (lists, tuples, dicts, text, bytes, numbers), read without running them.

Python's unpickler imports and calls whatever a file names. This reader has the opcodes that build plain values, of
protocols 0 to 5 (CPython, Lib/pickletools.py, describes them all), and refuses every other one: no name is looked up.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn

from pipelines.importers.streams import open_text
from schemas.errors import InputError

BUDGET = 1 << 30
"""Bytes that the values of one file may take, by the estimates below. Those of RefCOCO's largest file take a third."""

_CHUNK = 1 << 20
_LONGEST_LINE = 1 << 20
_HIGHEST_PROTOCOL = 5
_STOP = ord(".")
_LIST, _DICT, _ITEM, _TEXT, _NUMBER, _MEMO = 72, 232, 104, 60, 32, 104
"""Bytes of an empty list, a dict, one item of it, a text beside its characters, a number, one entry of the memo."""

_CALLS = {
    b"c": "GLOBAL", b"\x93": "STACK_GLOBAL", b"R": "REDUCE", b"b": "BUILD", b"i": "INST", b"o": "OBJ",
    b"\x81": "NEWOBJ", b"\x92": "NEWOBJ_EX", b"\x82": "EXT1", b"\x83": "EXT2", b"\x84": "EXT4", b"P": "PERSID",
    b"Q": "BINPERSID",
}  # fmt: skip
"""Opcodes that name a class or call one; any other one that is missing here is an unknown byte to the user."""


def load_plain(path: str) -> Any:
    """The value in the pickle at `path` (also gzip, bzip2, xz, zstd, or a zip archive of one file).

    Text of Python 2 (`str`) is decoded as UTF-8, and stays bytes where it is something else. Names in dicts are text.
    Raises InputError, naming the byte, for a pickle of anything but plain values, a cut or damaged one, and one whose
    values take more than BUDGET bytes.
    """
    with open_text(path) as file:
        machine = _Machine(file, path)
        try:
            return machine.run()
        except (ValueError, IndexError, KeyError) as error:
            machine.refuse(f"the pickle is cut or damaged ({' '.join(str(error).split())[:100]})")


class _Machine:
    """The pickle machine: a stack, the starts of open groups on it, and the memo of values to come back to."""

    def __init__(self, file: BinaryIO, path: str):
        self._file, self._path = file, path
        self._data, self._at, self._before = b"", 0, 0
        self._left = BUDGET
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._texts: dict[str, str] = {}

    def run(self) -> Any:
        if not self._peek():
            self.refuse("the file is empty")
        actions = [_ACTIONS.get(bytes([code])) for code in range(256)]
        while True:
            if self._at == len(self._data):
                self._fill(1)
            code = self._data[self._at]
            self._at += 1
            if code == _STOP:
                break
            action = actions[code]
            if action is None:
                self._refuse_opcode(bytes([code]))
            action(self)
        if len(self.stack) != 1 or self.marks:
            self.refuse(f"the pickle ends with {len(self.stack)} values, expected one")
        if self._peek():
            self.refuse("the file goes on behind the end of the pickle")
        return self.stack[0]

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
        self.charge(_TEXT + size)
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

    def push(self, value: Any, cost: int = _NUMBER) -> None:
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
        self.charge(_ITEM * len(values) // 2)
        for place in range(0, len(values), 2):
            name = values[place]
            if type(name) is not str:  # a tuple of tuples may take for ever to hash, and chosen numbers collide
                raise ValueError(f"a name in a dict is {type(name).__name__}, expected text")
            target[name] = values[place + 1]

    def top(self) -> Any:
        if not self.stack or (self.marks and self.marks[-1] >= len(self.stack)):
            raise IndexError("a value is missing")
        return self.stack[-1]

    def put(self, index: int) -> None:
        self.charge(_MEMO)
        self.memo[index] = self.top()

    def refuse(self, what: str) -> NoReturn:
        raise InputError(f"{self._path}, byte {self._before + self._at}: {what}. Get the file again.") from None

    def _refuse_opcode(self, code: bytes) -> NoReturn:
        place = f"{self._path}, byte {self._before + self._at - 1}"
        if code in _CALLS:
            raise InputError(
                f"{place}: the pickle names a class or a function ({_CALLS[code]}), expected lists, dicts, text and "
                "numbers. Nothing of it was run. Get the file from its publisher."
            )
        raise InputError(f"{place}: {code!r} is not an opcode of a pickle of plain values. Get the file again.")

    def _peek(self) -> bytes:
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


def _integer_line(machine: _Machine) -> None:
    line = machine.line()
    machine.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _long_line(machine: _Machine) -> None:
    machine.push(int(machine.line().removesuffix(b"L")))


def _long(machine: _Machine, size: int) -> None:
    if size > 8:
        raise ValueError(f"a number of {size} bytes")
    machine.push(int.from_bytes(machine.take(size), "little", signed=True))


def _string_line(machine: _Machine) -> None:
    """Python 2's repr of a text."""
    line = machine.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a text without quotes")
    machine.charge(_TEXT + len(line))
    machine.push_bytes_as_text(codecs.escape_decode(line[1:-1])[0])


def _unicode_line(machine: _Machine) -> None:
    line = machine.line()
    machine.charge(_TEXT + 4 * len(line))
    machine.push_text(line.decode("raw-unicode-escape"))


def _unicode(machine: _Machine, size: int) -> None:
    machine.push_text(machine.text_of(size).decode("utf-8", "surrogatepass"))


def _bytes(machine: _Machine, size: int) -> None:
    machine.stack.append(machine.text_of(size))


def _tuple(machine: _Machine, values: list[Any]) -> None:
    machine.push(tuple(values), _LIST + 8 * len(values))


def _list(machine: _Machine) -> None:
    values = machine.group()
    machine.push(values, _LIST + 8 * len(values))


def _dict(machine: _Machine) -> None:
    values = machine.group()
    machine.push({}, _DICT)
    machine.update(values)


def _append(machine: _Machine) -> None:
    machine.extend(machine.values(1))


def _set_item(machine: _Machine) -> None:
    machine.update(machine.values(2))


def _mark(machine: _Machine) -> None:
    machine.charge(_NUMBER)
    machine.marks.append(len(machine.stack))


def _pop(machine: _Machine) -> None:
    """Takes off a mark where nothing stands above it, as Python's does."""
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.values(1)


def _protocol(machine: _Machine) -> None:
    protocol = machine.take(1)[0]
    if protocol > _HIGHEST_PROTOCOL:
        machine.refuse(f"protocol {protocol}, expected at most {_HIGHEST_PROTOCOL}")


_ACTIONS: dict[bytes, Callable[[_Machine], object]] = {
    b"\x80": _protocol,
    b"\x95": lambda machine: machine.take(8),  # FRAME: how many bytes belong together
    b"(": _mark,
    b"0": _pop,
    b"1": lambda machine: machine.group(),
    b"2": lambda machine: machine.push(machine.top()),
    b"N": lambda machine: machine.push(None),
    b"\x88": lambda machine: machine.push(True),
    b"\x89": lambda machine: machine.push(False),
    b"I": _integer_line,
    b"L": _long_line,
    b"J": lambda machine: _long(machine, 4),
    b"K": lambda machine: machine.push(machine.size(1)),
    b"M": lambda machine: machine.push(machine.size(2)),
    b"\x8a": lambda machine: _long(machine, machine.size(1)),
    b"\x8b": lambda machine: _long(machine, machine.size(4)),
    b"F": lambda machine: machine.push(float(machine.line())),
    b"G": lambda machine: machine.push(struct.unpack(">d", machine.take(8))[0]),
    b"S": _string_line,
    b"T": lambda machine: machine.push_bytes_as_text(machine.text_of(machine.size(4))),
    b"U": lambda machine: machine.push_bytes_as_text(machine.text_of(machine.size(1))),
    b"V": _unicode_line,
    b"X": lambda machine: _unicode(machine, machine.size(4)),
    b"\x8c": lambda machine: _unicode(machine, machine.size(1)),
    b"\x8d": lambda machine: _unicode(machine, machine.size(8)),
    b"B": lambda machine: _bytes(machine, machine.size(4)),
    b"C": lambda machine: _bytes(machine, machine.size(1)),
    b"\x8e": lambda machine: _bytes(machine, machine.size(8)),
    b"]": lambda machine: machine.push([], _LIST),
    b"l": _list,
    b"a": _append,
    b"e": lambda machine: machine.extend(machine.group()),
    b")": lambda machine: machine.push((), _NUMBER),
    b"t": lambda machine: _tuple(machine, machine.group()),
    b"\x85": lambda machine: _tuple(machine, machine.values(1)),
    b"\x86": lambda machine: _tuple(machine, machine.values(2)),
    b"\x87": lambda machine: _tuple(machine, machine.values(3)),
    b"}": lambda machine: machine.push({}, _DICT),
    b"d": _dict,
    b"s": _set_item,
    b"u": lambda machine: machine.update(machine.group()),
    b"g": lambda machine: machine.push(machine.memo[int(machine.line())]),
    b"h": lambda machine: machine.push(machine.memo[machine.size(1)]),
    b"j": lambda machine: machine.push(machine.memo[machine.size(4)]),
    b"p": lambda machine: machine.put(int(machine.line())),
    b"q": lambda machine: machine.put(machine.size(1)),
    b"r": lambda machine: machine.put(machine.size(4)),
    b"\x94": lambda machine: machine.put(len(machine.memo)),
}
