"""Fingerprints: a hash of everything that a column file was made from. Equal fingerprints mean equal content."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(*parts: Any) -> str:
    """sha256 (64 hexadecimal digits) of the JSON of `parts`; dictionaries count by content, not by order."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
