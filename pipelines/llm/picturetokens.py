"""Input tokens of an image by its provider's documented rule. For estimates; caps reserve more."""

from __future__ import annotations

import math
from collections.abc import Callable

Rule = Callable[[int, int], int]

# OpenAI, guide "Images and vision", "Calculating costs" (2025-07): (tokens of every picture, tokens of each tile).
_TILES = {
    "gpt-4o-mini": (2_833, 5_667),
    "gpt-4o": (85, 170),
    "gpt-4.1": (85, 170),
    "gpt-4.5": (85, 170),
    "gpt-5": (70, 140),
    "o1": (75, 150),
    "o3": (75, 150),
    "computer-use": (65, 129),
}
# The same page: tokens for each patch of 32 x 32 pixels.
_PATCHES = {"gpt-4.1-mini": 1.62, "gpt-4.1-nano": 2.46, "gpt-5-mini": 1.62, "gpt-5-nano": 2.46, "o4-mini": 1.72}
_MOST_PATCHES = 1_536


def rule_for(model: str) -> Rule | None:
    """The rule of `model`, (width, height) in pixels -> tokens; None for a model whose rule we do not know.

    Of `openai/gpt-4o` the last part counts, and of `gpt-4o-2024-11-20` the beginning.
    """
    name = model.lower().rpartition("/")[2]
    rules: dict[str, Rule] = {
        **{start: _tiled(*counts) for start, counts in _TILES.items()},
        **{start: _patched(factor) for start, factor in _PATCHES.items()},
        "claude": _claude,
        "gemini": _gemini,
        "qwen2-vl": _qwen,
        "qwen2.5-vl": _qwen,
        "llava-1.5": lambda width, height: 576,
        "llava-v1.5": lambda width, height: 576,
    }
    found = max((start for start in rules if name.startswith(start)), key=len, default=None)
    return rules[found] if found else None


def _tiled(base: int, tile: int) -> Rule:
    """Shrunk to fit 2048 x 2048, then to a shortest side of 768, and cut into tiles of 512; never enlarged."""

    def tokens(width: int, height: int) -> int:
        scale = min(1.0, 2048 / max(width, height))
        scale *= min(1.0, 768 / (min(width, height) * scale))
        return base + tile * _cells(width * scale, height * scale, 512)

    return tokens


def _patched(factor: float) -> Rule:
    """Patches of 32 pixels; a picture that would have more than 1,536 is shrunk until a whole number of them fits."""

    def tokens(width: int, height: int) -> int:
        if _cells(width, height, 32) > _MOST_PATCHES:
            scale = math.sqrt(32 * 32 * _MOST_PATCHES / (width * height))
            across, down = width * scale / 32, height * scale / 32
            scale *= min(max(1, math.floor(across)) / across, max(1, math.floor(down)) / down)
            width, height = round(width * scale), round(height * scale)
        return math.ceil(factor * min(_MOST_PATCHES, _cells(width, height, 32)))

    return tokens


def _claude(width: int, height: int) -> int:
    """Anthropic, "Vision": width x height / 750, of at most 1568 pixels a side and 1,600 tokens."""
    scale = min(1.0, 1568 / max(width, height))
    scale = min(scale, math.sqrt(1_600 * 750 / (width * height)))
    return math.ceil(width * scale * height * scale / 750)


def _gemini(width: int, height: int) -> int:
    """Google, "Image understanding": 258 tokens up to 384 pixels, else for each tile of 2/3 of the shortest side (256
    to 768 pixels)."""
    if max(width, height) <= 384:
        return 258
    unit = min(768, max(256, math.floor(min(width, height) / 1.5)))
    return 258 * _cells(width, height, unit)


def _qwen(width: int, height: int) -> int:
    """Qwen2-VL (arXiv 2409.12191, section 2.1): a token for 28 x 28 pixels, and two around them."""
    return min(16_384, max(4, round(width / 28) * round(height / 28))) + 2


def _cells(width: float, height: float, side: int) -> int:
    """How many squares of `side` cover a picture; a rounding error of a scale makes no further row."""
    return max(1, math.ceil(width / side - 1e-6)) * max(1, math.ceil(height / side - 1e-6))
