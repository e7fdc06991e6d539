"""Image measures: functions of pixels, and their scorers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipelines.score.scorer import RowScorer, Sample, Settings

MIN_STROKES = 3
"""Changes between ink and paper that a row of pixels in a line of text has at least."""
MIN_CONTRAST = 20
"""Standard deviation of grey levels (0 to 255) in a line of text at least."""
MIN_GRADIENT = 40
"""Grey levels between neighbours that count as an edge at least, where Otsu's threshold is lower: noise has less."""


def blur(grey: np.ndarray) -> float:
    """Variance of the Laplacian (4 neighbours) of uint8 (height, width): low for blurred pictures.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    import cv2

    # Exact in 16 bits: 4 neighbours of 255 at most.
    return _mean_and_deviation(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))[1] ** 2


def entropy(grey: np.ndarray) -> float:
    """Bits per pixel of the histogram of 256 grey levels, 0 to 8 (Shannon, 1948). 0: one level alone."""
    import cv2

    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).reshape(-1).astype(np.float64)
    shares = counts[counts > 0] / grey.size
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0.0


def colourfulness(rgb: np.ndarray) -> float:
    """M of Hasler & Süsstrunk, "Measuring colourfulness in natural images" (SPIE 5007, 2003), equation 8's simple form.

    0 for grey; they call 15 slightly, 33 moderately, 59 highly, 109 extremely colourful.
    """
    import cv2

    red, green, blue = cv2.split(rgb.astype(np.int16))
    across, spread_across = _mean_and_deviation(red - green)
    along, spread_along = _mean_and_deviation(red + green - 2 * blue)  # twice the paper's, in whole numbers
    return math.hypot(spread_across, spread_along / 2) + 0.3 * math.hypot(across, along / 2)


def text_share(grey: np.ndarray) -> float:
    """The share of the picture, 0 to 1, in boxes that look like lines of printed text; uint8 (height, width).

    Edges (morphological gradient, Otsu's threshold) are joined along rows; a box counts when it is wide, full of edges,
    and its rows change between ink and paper as often as letters do. Pages, slides and screenshots score high; single
    words over a photograph are mostly missed, and rows of small objects (coins) score a little.
    """
    import cv2

    gradient = cv2.morphologyEx(grey, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    threshold, edges = cv2.threshold(gradient, 0, 1, cv2.THRESH_OTSU)
    if threshold < MIN_GRADIENT:
        edges = (gradient > MIN_GRADIENT).astype(np.uint8)
    joined = cv2.morphologyEx(edges, cv2.MORPH_CLOSE, np.ones((1, 11), np.uint8))
    joined = cv2.morphologyEx(joined, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    boxes = cv2.connectedComponentsWithStats(joined, connectivity=4)[2][1:]
    _, _, width, height, area = boxes.T
    lines = (height >= 6) & (height <= grey.shape[0] / 4) & (width >= 1.5 * height) & (2 * area >= width * height)
    found = 0
    for left, top, wide, high, _ in boxes[lines].tolist():
        if _has_letters(grey[top : top + high, left : left + wide]):
            found += wide * high
    return min(found / grey.size, 1.0)  # boxes may overlap


def _has_letters(box: np.ndarray) -> bool:
    """Whether rows change between ink and paper often enough, with few levels in between."""
    import cv2

    mean, deviation = _mean_and_deviation(box)
    if deviation < MIN_CONTRAST:
        return False
    ink = (box < mean).view(np.uint8)
    changes = cv2.countNonZero(cv2.bitwise_xor(ink[:, 1:], ink[:, :-1])) / box.shape[0]
    if changes < MIN_STROKES or changes * box.shape[0] < 0.8 * box.shape[1]:
        return False
    between = cv2.countNonZero(cv2.inRange(box, mean - 0.4 * deviation, mean + 0.4 * deviation))  # type: ignore[call-overload]
    return between <= 0.3 * box.size


class Resolution(RowScorer[Settings]):
    """The shorter side of the picture as it is stored, in pixels."""

    name, version, sees = "resolution", 1, "header"

    def score(self, sample: Sample) -> float:
        return float(min(_size(sample)))


class Aspect(RowScorer[Settings]):
    """Longer side / shorter side: 1 for a square, 3 for a banner."""

    name, version, sees = "aspect", 1, "header"

    def score(self, sample: Sample) -> float:
        return max(_size(sample)) / min(_size(sample))


class Blur(RowScorer[Settings]):
    """`blur`, in squared grey levels: below about 50 the picture looks soft at `side` pixels."""

    name, version, sees = "blur", 1, "pixels"

    def score(self, sample: Sample) -> float:
        return blur(sample.grey)


class Entropy(RowScorer[Settings]):
    """`entropy`, in bits: a flat picture has 0, a photograph 7 and more."""

    name, version, sees = "entropy", 1, "pixels"

    def score(self, sample: Sample) -> float:
        return entropy(sample.grey)


class Colourfulness(RowScorer[Settings]):
    """`colourfulness`, in levels: 0 for grey pictures."""

    name, version, sees = "colourfulness", 1, "pixels"

    def score(self, sample: Sample) -> float:
        return colourfulness(sample.small)


class TextShare(RowScorer[Settings]):
    """`text_share`, 0 to 1."""

    name, version, sees = "text_share", 1, "pixels"

    def score(self, sample: Sample) -> float:
        return text_share(sample.grey)


def _mean_and_deviation(values: np.ndarray) -> tuple[float, float]:
    import cv2

    mean, deviation = cv2.meanStdDev(values)
    return float(mean[0, 0]), float(deviation[0, 0])


def _size(sample: Sample) -> tuple[int, int]:
    header: Any = sample.header
    return header.size
