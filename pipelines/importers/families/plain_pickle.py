"""Pickles of plain values (lists, tuples, dicts, text, bytes, numbers), parsed without executing them.

Python's unpickler imports and calls whatever a file names. This reader has the opcodes that build plain values, of
protocols 0 to 5 (CPython, Lib/pickletools.py, describes them all), and refuses every other one: no name is looked up.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any, NoReturn

from pipelines.importers.families.pickle_machine import DICT, LIST, NUMBER, TEXT, Machine
from schemas.errors import InputError
from schemas.streams import open_text

_HIGHEST_PROTOCOL = 5
_STOP = ord(".")
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
    values take more than pickle_machine.BUDGET bytes.
    """
    with open_text(path) as file:
        machine = Machine(file, path)
        try:
            return _run(machine)
        except (ValueError, IndexError, KeyError) as error:
            machine.refuse(f"the pickle is truncated or damaged ({' '.join(str(error).split())[:100]})")


def _run(machine: Machine) -> Any:
    if not machine.peek():
        machine.refuse("the file is empty")
    actions = [_ACTIONS.get(bytes([code])) for code in range(256)]
    while (code := machine.opcode()) != _STOP:
        action = actions[code]
        if action is None:
            _refuse_opcode(machine, bytes([code]))
        action(machine)
    if len(machine.stack) != 1 or machine.marks:
        machine.refuse(f"the pickle ends with {len(machine.stack)} values, expected one")
    if machine.peek():
        machine.refuse("there is data after the end of the pickle")
    return machine.stack[0]


def _refuse_opcode(machine: Machine, code: bytes) -> NoReturn:
    if code in _CALLS:
        raise InputError(
            f"{machine.place}: the pickle names a class or a function ({_CALLS[code]}), expected lists, dicts, text "
            "and numbers. Nothing was executed. Get the file from its publisher."
        )
    raise InputError(f"{machine.place}: {code!r} is not an opcode of a pickle of plain values. Get the file again.")


def _integer_line(machine: Machine) -> None:
    line = machine.line()
    machine.push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))


def _long_line(machine: Machine) -> None:
    machine.push(int(machine.line().removesuffix(b"L")))


def _long(machine: Machine, size: int) -> None:
    if size > 8:
        raise ValueError(f"a number of {size} bytes")
    machine.push(int.from_bytes(machine.take(size), "little", signed=True))


def _string_line(machine: Machine) -> None:
    """Python 2's repr of a text."""
    line = machine.line()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a text without quotes")
    machine.charge(TEXT + len(line))
    machine.push_bytes_as_text(codecs.escape_decode(line[1:-1])[0])


def _unicode_line(machine: Machine) -> None:
    line = machine.line()
    machine.charge(TEXT + 4 * len(line))
    machine.push_text(line.decode("raw-unicode-escape"))


def _unicode(machine: Machine, size: int) -> None:
    machine.push_text(machine.text_of(size).decode("utf-8", "surrogatepass"))


def _bytes(machine: Machine, size: int) -> None:
    machine.stack.append(machine.text_of(size))


def _tuple(machine: Machine, values: list[Any]) -> None:
    machine.push(tuple(values), LIST + 8 * len(values))


def _list(machine: Machine) -> None:
    values = machine.group()
    machine.push(values, LIST + 8 * len(values))


def _dict(machine: Machine) -> None:
    values = machine.group()
    machine.push({}, DICT)
    machine.update(values)


def _append(machine: Machine) -> None:
    machine.extend(machine.values(1))


def _set_item(machine: Machine) -> None:
    machine.update(machine.values(2))


def _mark(machine: Machine) -> None:
    machine.charge(NUMBER)
    machine.marks.append(len(machine.stack))


def _pop(machine: Machine) -> None:
    """Takes off a mark where nothing is above it, as Python's does."""
    if machine.marks and machine.marks[-1] == len(machine.stack):
        machine.marks.pop()
    else:
        machine.values(1)


def _protocol(machine: Machine) -> None:
    protocol = machine.take(1)[0]
    if protocol > _HIGHEST_PROTOCOL:
        machine.refuse(f"protocol {protocol}, expected at most {_HIGHEST_PROTOCOL}")


_ACTIONS: dict[bytes, Callable[[Machine], object]] = {
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
    b"]": lambda machine: machine.push([], LIST),
    b"l": _list,
    b"a": _append,
    b"e": lambda machine: machine.extend(machine.group()),
    b")": lambda machine: machine.push((), NUMBER),
    b"t": lambda machine: _tuple(machine, machine.group()),
    b"\x85": lambda machine: _tuple(machine, machine.values(1)),
    b"\x86": lambda machine: _tuple(machine, machine.values(2)),
    b"\x87": lambda machine: _tuple(machine, machine.values(3)),
    b"}": lambda machine: machine.push({}, DICT),
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
