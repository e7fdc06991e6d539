"""A stand-in for llava_v1_5_mix665k.json: the published counts, folders and oddities, with made-up text.

python -m bench.mix665k rows.json [--scale 0.01]

Counts and folders are those of the published file (haotian-liu/LLaVA issues 702 and 657: 665,298 rows). So are its
oddities: ids of five kinds that repeat across parts and four times within A-OKVQA (LLaVA's README and file), OCR-VQA's
ids with leading zeros and a final X, text rows with `model` and without `image` near the end. Lengths are plausible
(bench/mixes.py), words follow Zipf's law; no text is anybody's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WORD = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."
TRAIN2017 = 118_287
VOCABULARY = 120_000


@dataclass(frozen=True)
class Part:
    """One source: `rows` conversations of about `rounds` rounds with `asked` and `said` words each."""

    name: str
    rows: int
    folder: str
    rounds: float
    asked: int
    said: int
    suffix: str = ""


PARTS = (
    Part("llava", 157_712, "coco/train2017", 2.3, 12, 55),
    Part("vqav2", 82_783, "coco/train2017", 5.4, 6, 1, WORD),
    Part("gqa", 72_140, "gqa/images", 13.0, 8, 1, WORD),
    Part("okvqa", 8_998, "coco/train2017", 1.0, 8, 1, WORD),
    Part("ocrvqa", 80_000, "ocr_vqa/images", 4.8, 6, 4, WORD),
    Part("aokvqa", 66_160, "coco/train2017", 1.03, 16, 1, LETTER),
    Part("textcaps", 21_953, "textvqa/train_images", 1.0, 24, 11),
    Part("refcoco", 48_447, "coco/train2017", 7.0, 14, 5),
    Part("vg", 86_417, "vg", 8.0, 14, 5),
    Part("sharegpt", 40_688, "", 3.6, 30, 190),
)
"""In an order of our own; the published file has ShareGPT near its end too."""

ROWS = sum(part.rows for part in PARTS)


class Words:
    """Made-up words with the frequencies of a language; a text is a slice of one long sequence."""

    def __init__(self, seed: int = 0):
        random = np.random.default_rng(seed)
        syllables = [
            first + middle for first in "bcdfghjklmnprstvwz" for middle in ("a", "e", "i", "o", "u", "an", "er")
        ]
        lengths = random.integers(1, 5, VOCABULARY)
        ends = np.cumsum(lengths)
        drawn = [syllables[number] for number in random.integers(0, len(syllables), ends[-1]).tolist()]
        made = ["".join(drawn[end - length : end]) for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
        # Mandelbrot's form of Zipf's law, with his 2.7: the most frequent word is 3 % of a text.
        share = 1 / (np.arange(VOCABULARY) + 1 + 2.7)
        rank = np.searchsorted(np.cumsum(share / share.sum()), random.random(1_500_000)).clip(max=VOCABULARY - 1)
        marks = random.random(len(rank))
        self.sequence = [
            f"{made[word]}{'.' if mark < 0.05 else ',' if mark < 0.1 else ''}"
            for word, mark in zip(rank.tolist(), marks.tolist(), strict=True)
        ]
        self.random = random
        self.place = 0

    def text(self, words: int) -> str:
        """The next `words` words; from the start again, a few words on, when the sequence ends."""
        start = self.place if self.place + words <= len(self.sequence) else self.place % 97
        self.place = start + words
        return " ".join(self.sequence[start : start + words])


def rows(scale: float = 1.0, seed: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """(part, row) of the whole file, in its order."""
    words = Words(seed)
    for part in PARTS:
        count = max(4, round(part.rows * scale))
        rounds = 1 + words.random.poisson(part.rounds - 1, count)
        for number in range(count):
            yield part.name, _row(part, number, int(rounds[number]), words)


def _row(part: Part, number: int, rounds: int, words: Words) -> dict[str, Any]:
    key, image = _names(part, number)
    row: dict[str, Any] = {"id": key} if image is None else {"id": key, "image": image}
    if image is None:
        row["model"] = ""
    turns = []
    for turn in range(rounds):
        asked = words.text(max(1, int(words.random.poisson(part.asked))))
        if turn == 0:
            asked = f"<image>\n{asked}" if image is not None else asked
            asked += f"\n{part.suffix}" if part.suffix else ""
        turns.append({"from": "human", "value": asked})
        turns.append({"from": "gpt", "value": _answer(part, words)})
    return {**row, "conversations": turns}


def _answer(part: Part, words: Words) -> str:
    if part.name == "aokvqa":
        return "ABCD"[int(words.random.integers(4))]
    if part.name in ("refcoco", "vg") and words.random.random() < 0.5:
        box = np.round(np.sort(words.random.random(4)), 2)
        return f"[{', '.join(f'{side:g}' for side in box)}]"
    return words.text(max(1, int(words.random.poisson(part.said))))


def _names(part: Part, number: int) -> tuple[str, str | None]:
    """The id and picture of a row, in the way of its part."""
    if part.name == "sharegpt":
        return f"{(number * 7919) % 36**5:07d}_{number % 9}", None
    if part.name == "ocrvqa":
        isbn = f"{number * 37 % 10**9:09d}{'X' if number % 11 == 0 else number % 10}"
        return isbn, f"{part.folder}/{isbn}.jpg"
    if part.name == "textcaps":
        name = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"
    elif part.name == "vg":
        name = str(number + 1)
        return name, f"vg/VG_100K{'_2' if number % 5 < 2 else ''}/{name}.jpg"
    elif part.name == "gqa":
        name = f"n{number}" if number % 50 == 0 else str(2_300_000 + number)
    else:
        place = number // 4 if part.name == "aokvqa" else number
        name = f"{place % TRAIN2017 * 4 + 9:012d}"
    return name, f"{part.folder}/{name}.jpg"


def write(path: Path, scale: float = 1.0, seed: int = 0) -> dict[str, int]:
    """Write the list, row by row; rows of each part."""
    counts: dict[str, int] = {}
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, (part, row) in enumerate(rows(scale, seed)):
            counts[part] = counts.get(part, 0) + 1
            file.write((",\n" if number else "") + json.dumps(row))
        file.write("]")
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    counts = write(arguments.path, arguments.scale)
    print(json.dumps({**counts, "rows": sum(counts.values()), "bytes": arguments.path.stat().st_size}))


if __name__ == "__main__":
    main()
