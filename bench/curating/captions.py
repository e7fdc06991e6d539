"""Captions like CC3M's: how often phrases occur is fixed here, before any rule of balancing is tried on them.

A caption has 1 to 5 noun phrases, drawn independently. A phrase's rank R follows a Lomax distribution,
P(R > r) = (1 + r / B)^-(S - 1), which is Zipf's law with exponent S and Mandelbrot's shift B. Of such a tail a share
1 - a - a (1 - a) / 2, a = 1 / S, of the phrases occurs three times or more; B sets how many there are among 9.3
million draws. Independence is an assumption: in real captions phrases keep company.

Two published figures of CC3M determine S and B, and they can be read in two ways (`SPECTRA`):

- `three_or_more`, fixed first: about 890,000 phrases in all (a user's count, LLaVA issue 1176), and the 108,182 in the
  legend of the paper's figure 7 (arXiv 2304.08485) are those that occur three times or more: 12%, so S = 1.25.
- `all`, after `three_or_more` had been tried: both readings of the rule keep every phrase that occurs three times or
  more, so there cannot be fewer of them afterwards, and the legend's 31,423 must be those among 108,182 in all: 29%, so
  S = 1.695. The share of captions that is kept, 18%, decides neither.
"""

from __future__ import annotations

import numpy as np

CC3M_CAPTIONS = 3_300_000
SPECTRA = {"three_or_more": (1.25, 7.0), "all": (1.695, 47.0)}
"""Name -> (S, B)."""
PHRASES_PER_CAPTION = (0.10, 0.30, 0.35, 0.18, 0.07)
"""Shares of captions with 1, 2, 3, 4 and 5 phrases: 2.82 on average, of captions of about ten words."""
MOST_RANKS = 2**38
"""Ranks beyond are taken modulo this: words stay short, and among millions of draws hardly two meet by it."""

_ONSETS, _NUCLEI = "bdfgklmnprtvz", "aeiou"
_SYLLABLES = [onset + nucleus for onset in _ONSETS for nucleus in _NUCLEI]
_JOINTS = (" in the ", " and a ", " with the ", " on a ")


def phrase_ranks(captions: int, seed: int = 0, spectrum: str = "three_or_more") -> tuple[np.ndarray, np.ndarray]:
    """(ranks, int64, shape (phrases of all captions,); where each caption's ranks begin, shape (captions + 1,))."""
    random = np.random.default_rng([seed, captions])
    counts = random.choice(np.arange(1, 6), captions, p=PHRASES_PER_CAPTION)
    starts = np.append(0, np.cumsum(counts))
    exponent, shift = SPECTRA[spectrum]
    drawn = shift * (random.random(starts[-1]) ** (-1 / (exponent - 1)) - 1)
    return (np.minimum(drawn, 2.0**62).astype(np.int64) % MOST_RANKS), starts


def phrase(rank: int) -> str:
    """The phrase of a rank: made-up nouns of up to three syllables and an ending, another phrase for each rank."""
    syllables = []
    while rank or not syllables:
        rank, digit = divmod(rank, len(_SYLLABLES))
        syllables.append(_SYLLABLES[digit])
    # The ending keeps words apart from English ones, and from suffixes that a tagger takes for a verb's.
    return " ".join("".join(syllables[start : start + 3]) + "zuk" for start in range(0, len(syllables), 3))


def captions(count: int, seed: int = 0) -> list[str]:
    """`count` captions as text."""
    ranks, starts = phrase_ranks(count, seed)
    made = []
    for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        first, *others = map(phrase, ranks[begin:end].tolist())
        made.append(f"a {first}" + "".join(map("".join, zip(_JOINTS, others, strict=False))))
    return made
