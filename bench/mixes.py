"""Made-up training mixes for measuring epoch plans: the sizes of published mixes, with plausible length distributions.

Each function returns the token count, image (tile) count and word count of every row. Row counts are those of
LLaVA-1.5's mix665k and 558k captions (arXiv 2310.03744, tables 7 and 8); the lengths of each source are estimates, and
so is all of the long mix.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from schemas.chat import ImageRule

# Tokens of a system prompt, role names and separators around a conversation.
FRAME = 40
PATCHES = 576
# Picture sizes (width, height) and their estimated frequencies: COCO's and other photographs, wide pictures and strips
# of text (two or three tiles beside the overview), and small ones.
SHAPES = {(640, 480): 0.45, (480, 640): 0.15, (500, 333): 0.15, (800, 800): 0.08, (1200, 400): 0.09, (300, 700): 0.08}


@dataclass(frozen=True)
class Mix:
    """Rows as the plan sees them (tokens with image tokens, truncated; images), and as LLaVA's sampler does (words)."""

    name: str
    tokens: np.ndarray
    images: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class Source:
    """One part of a mix: `turns` question-answer pairs of `tokens` tokens each (mean and deviation), within bounds."""

    rows: int
    tokens: float
    deviation: float
    bounds: tuple[int, int]
    turns: float = 1
    image: bool = True
    tokens_per_word: float = 1.35


INSTRUCTIONS = (
    Source(58_000, 250, 90, (60, 900)),  # LLaVA conversations
    Source(23_000, 150, 40, (60, 500)),  # LLaVA descriptions
    Source(77_000, 240, 70, (80, 700)),  # LLaVA reasoning
    Source(40_000, 1700, 1500, (40, 6000), image=False, tokens_per_word=1.75),  # ShareGPT
    Source(83_000, 17, 5, (10, 260), turns=5.4),  # VQAv2
    Source(72_000, 18, 4, (10, 720), turns=13),  # GQA
    Source(9_000, 35, 10, (20, 80)),  # OKVQA
    Source(80_000, 24, 8, (10, 240), turns=5),  # OCRVQA
    Source(66_000, 75, 18, (40, 160)),  # A-OKVQA
    Source(22_000, 50, 12, (30, 120)),  # TextCaps
    Source(48_000, 42, 8, (30, 1260), turns=7, tokens_per_word=3.2),  # RefCOCO: coordinates are many tokens a word
    Source(86_000, 46, 9, (30, 460), turns=8, tokens_per_word=3.4),  # Visual Genome
)
CAPTIONS = (Source(558_000, 22, 14, (5, 200)),)
LONG = (
    Source(760_000, 220, 190, (20, 2500)),
    Source(140_000, 900, 900, (40, 8000), image=False),
    Source(100_000, 250, 200, (20, 2000)),
)


def instructions(scale: float, seed: int = 0) -> Mix:
    """Like mix665k: one image of 576 tokens or none, at most 2048 tokens."""
    random = np.random.default_rng(seed)
    text, images, words = _text(INSTRUCTIONS, scale, random)
    return Mix("mix665k", np.minimum(text + PATCHES * images, 2048), images, words)


def anyres(scale: float, seed: int = 0) -> Mix:
    """The same rows with LLaVA-NeXT's anyres pictures, at most 4096 tokens; tiles and tokens as in training."""
    random = np.random.default_rng(seed)
    text, images, words = _text(INSTRUCTIONS, scale, random)
    rule = ImageRule("anyres")
    tokens, tiles = (np.array([count(*size) for size in SHAPES]) for count in (rule.tokens, rule.tiles))
    shape = random.choice(len(SHAPES), len(text), p=list(SHAPES.values()))
    return Mix("anyres", np.minimum(text + tokens[shape] * images, 4096), tiles[shape] * images, words)


def captions(scale: float, seed: int = 0) -> Mix:
    """Like the 558k captions of stage 1: short texts, one image each."""
    text, images, words = _text(CAPTIONS, scale, np.random.default_rng(seed))
    return Mix("stage1", text + PATCHES, images, words)


def long_multi_image(scale: float, seed: int = 0) -> Mix:
    """Tiles, several images, long text: 729 tokens per image, at most 8192 tokens."""
    random = np.random.default_rng(seed)
    text, images, words = _text(LONG, scale, random)
    tiles = images * (1 + np.minimum(random.geometric(0.28, len(text)), 9))
    return Mix("long8k", np.minimum(text + 729 * tiles, 8192), tiles, words)


def _text(
    sources: tuple[Source, ...], scale: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text tokens, whether a row has an image, and words, of all sources one after the other."""
    tokens, images, words = [], [], []
    for source in sources:
        rows = int(source.rows * scale)
        spread = np.log(1 + (source.deviation / source.tokens) ** 2)
        one = random.lognormal(np.log(source.tokens) - spread / 2, np.sqrt(spread), rows)
        turns = 1 + random.poisson(source.turns - 1, rows)
        text = np.clip(np.rint(one * turns), *source.bounds)
        tokens.append(FRAME + text)
        images.append(np.full(rows, int(source.image)))
        words.append(np.maximum(text / (source.tokens_per_word * np.exp(random.normal(0, 0.1, rows))), 1))
    whole = [np.concatenate(part).astype(np.int64) for part in (tokens, images, words)]
    return whole[0], whole[1], whole[2]
