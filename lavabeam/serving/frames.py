"""Frames between the gateway and its worker processes: a JSON object followed by bytes.

A frame is two big-endian 32-bit lengths, the JSON, and the bytes. No pickle: a worker is not trusted more than
its checkpoint.
"""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any, BinaryIO

HEAD = struct.Struct(">II")


def pack(message: dict[str, Any], *parts: bytes) -> bytes:
    """One frame; the lengths of `parts` go into the message as `parts`."""
    if parts:
        message = {**message, "parts": [len(part) for part in parts]}
    text = json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return b"".join([HEAD.pack(len(text), sum(map(len, parts))), text, *parts])


def read(file: BinaryIO) -> tuple[dict[str, Any], list[bytes]] | None:
    """The next frame of a file; None at its end, also in the middle of a frame."""
    head = file.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    words, more = HEAD.unpack(head)
    text, rest = file.read(words), file.read(more)
    return None if len(text) < words or len(rest) < more else _parsed(text, rest)


async def receive(reader: asyncio.StreamReader) -> tuple[dict[str, Any], list[bytes]]:
    """The next frame of a stream; raises IncompleteReadError at its end."""
    words, more = HEAD.unpack(await reader.readexactly(HEAD.size))
    return _parsed(await reader.readexactly(words), await reader.readexactly(more))


def _parsed(text: bytes, rest: bytes) -> tuple[dict[str, Any], list[bytes]]:
    message = json.loads(text.decode("utf-8", "surrogatepass"))
    parts, start = [], 0
    for length in message.pop("parts", ()):
        parts.append(rest[start : start + length])
        start += length
    return message, parts
