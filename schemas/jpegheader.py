"""The segments of a JPEG (ISO/IEC 10918-1, annex B), bounded before libjpeg sees them, and EXIF's orientation."""

from __future__ import annotations

import re
import struct

from schemas.picturetypes import Header, at_most, corrupt, make_header, truncated

MAX_SCANS = 200
"""Scans of a JPEG. Progressive encoders write about 10 (libjpeg's script), and every further one is another pass over
all coefficients: a megabyte with 20,000 of them takes half a minute."""

MAX_SEGMENTS = 10_000
"""Segments and marks before the first scan. An ICC profile of the largest size takes 255."""

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_ADOBE = b"Adobe"


def jpeg_header(data: bytes) -> Header:
    """Segments up to the first scan, and an end-of-image mark after it."""
    position, size, orientation, traits = 2, None, 1, []
    components, progressive, several, segments = 0, False, False, 0
    while True:
        position = _marker(data, position)
        marker = data[position + 1]
        segments += 1
        at_most(segments, MAX_SEGMENTS, "the jpeg: segments before its first scan")
        if _has_no_length(marker):
            if marker == 0xD8:
                raise corrupt("the jpeg begins twice")
            position += 2
            continue
        length = struct.unpack_from(">H", data, position + 2)[0]
        # Start of frame: C0 to CF without the tables C4 and CC and the reserved C8.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if size is not None:
                raise corrupt("the jpeg has two frames")
            precision, height, width, components = struct.unpack_from(">BHHB", data, position + 4)
            size, progressive = (width, height), marker & 3 == 2
            traits += ["16-bit"] * (precision != 8) + ["cmyk"] * (components == 4)
        elif marker == 0xE1 and data[position + 4 : position + 10] == b"Exif\0\0" and orientation == 1:
            orientation = exif_orientation(data[position + 10 : position + 2 + length])
        elif marker == 0xDA:
            # Decoders take a single scan with all components in one pass; only other files can ask for more of them.
            several = progressive or data[position + 4] < components
            break
        position += 2 + length
    if size is None:
        raise corrupt("the jpeg has no frame before its scan")
    if data.rfind(b"\xff\xd9", position) < 0:
        raise truncated("jpeg")
    if several and (scans := data.count(b"\xff\xda", position)) > MAX_SCANS:
        raise corrupt(f"the jpeg has {scans} scans, more than {MAX_SCANS}")
    return make_header("jpeg", *size, traits, orientation, several)


def without_metadata(data: bytes) -> bytes:
    """A JPEG that `jpeg_header` accepts, without the segments that say nothing of its pixels.

    Pillow parses EXIF, ICC, Photoshop and MPF blocks in Python when it opens a file: entries of an EXIF block may
    overlap and copy it thousands of times. Adobe's APP14 (the colour transform) stays.
    """
    position, parts = 2, [data[:2]]
    while True:
        position = _marker(data, position)
        marker = data[position + 1]
        if marker == 0xDA:
            return b"".join([*parts, data[position:]])
        if _has_no_length(marker):
            position += 2
            continue
        end = position + 2 + struct.unpack_from(">H", data, position + 2)[0]
        is_application = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_application or (marker == 0xEE and data[position + 4 : position + 9] == _ADOBE):
            parts.append(data[position:end])
        position = end


def exif_orientation(exif: bytes) -> int:
    """Tag 274 of the first directory (TIFF 6.0 section 2), or 1 when it is absent or broken."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(entries):
            tag, kind = struct.unpack_from(order + "HH", exif, start + 2 + 12 * entry)
            if tag == 274:
                # A SHORT by the specification; some cameras write a LONG (type 4).
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), exif, start + 10 + 12 * entry)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        return 1
    return 1


def _marker(data: bytes, position: int) -> int:
    """Where the next marker begins. Stray and fill bytes before it are passed over, as decoders do."""
    found = _MARKER.search(data, position)
    if found is None:
        raise IndexError
    return found.end() - 2


def _has_no_length(marker: int) -> bool:
    return marker == 0x01 or 0xD0 <= marker <= 0xD8
