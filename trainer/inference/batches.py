"""Batch sizes for inference, limited by the memory of the key-value cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

MOST = 256
"""Prompts at a time at most: beyond that a larger batch gains nothing."""

SHARE = {"cuda": 0.7, "cpu": 0.25}
"""Of the free memory: other processes share a machine's, but hardly a GPU's."""


class Batches:
    """Sizes of batches for one model on one device. `most` is lowered when the device's memory did not suffice."""

    def __init__(self, text: dict[str, Any], bytes_per_value: int, device: torch.device):
        """text: the language model's configuration (`text_config`)."""
        self.device, self.most = device, MOST
        self.token_bytes = cache_bytes(text, bytes_per_value) + working_bytes(text, bytes_per_value)

    def size(self, lengths: Sequence[int], max_tokens: int, wanted: int | None) -> int:
        """How many of the next prompts, shortest first, are answered together; at least one.

        lengths: their tokens. wanted: what the caller asks for at most, without regard to memory.
        """
        if wanted is not None:
            return min(wanted, self.most, len(lengths))
        budget = self.budget()
        count = 0
        for number, length in enumerate(lengths[: self.most], 1):
            if number * (length + max_tokens) * self.token_bytes > budget:
                break
            count = number
        return max(count, 1)

    def budget(self) -> float:
        """Bytes that the caches of a batch may take."""
        return self._free() * SHARE.get(self.device.type, 0.25)

    def _free(self) -> int:
        """Bytes of the device's memory that can still be allocated."""
        if self.device.type == "cuda":
            held = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return torch.cuda.mem_get_info(self.device)[0] + held
        return _available_memory()


def _available_memory() -> int:
    """Bytes of memory that Linux gives without swapping; elsewhere half of all memory."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def cache_bytes(text: dict[str, Any], bytes_per_value: int) -> int:
    """Bytes of the key-value cache for one token: keys and values of every layer's key-value heads."""
    heads = int(text.get("num_attention_heads", 32))
    width = int(text.get("head_dim") or int(text.get("hidden_size", 4096)) // heads)
    shared = int(text.get("num_key_value_heads") or heads)
    return 2 * int(text.get("num_hidden_layers", 32)) * shared * width * bytes_per_value


def working_bytes(text: dict[str, Any], bytes_per_value: int) -> int:
    """Bytes of one layer's intermediate values for one token of a prompt, which are computed all at once."""
    hidden = int(text.get("hidden_size", 4096))
    return (4 * hidden + 3 * int(text.get("intermediate_size", 11008))) * bytes_per_value
