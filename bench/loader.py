"""CPU per training row: a pre-resized mix through our loader and the original's way, in one process.

`python -m bench.loader [--rows 150] [--tokenizer FOLDER]`. Ours: a row of a samples dataset (JPEG resized once, when
the mix was made), decoded, cut, tokenised and labelled; the model's device normalises it. The original's: the 640x480
JPEG from its folder through Pillow and CLIP's image processor, and its own round-by-round tokenising. (Our compat mode
does that here, which is faster than the Python tokenizer that the original called: the ratio is a lower bound.) Both in
LLaVA's two modes: `pad` to a square (v1.5; the mix holds 336x252 pixels) and `square` crop (v1; 448x336 pixels).
Goals: 2 ms, and a quarter of the original's CPU. The sides alternate, so both see the same machine load. The floor is
measured as well: the same picture decoded, made square and split into planes by the fastest calls found.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from schemas.chat import ImageRule, Tokenizer, encode, get_template, load_tokenizer
from schemas.chat.llava_json import from_llava
from schemas.dataset import Dataset
from schemas.records import SAMPLES
from schemas.writing import write_dataset
from trainer.inputs.pictures import CLIP_MEAN, cut

WORK = Path(__file__).parent / "output" / "loader"
SMALL_TOKENIZER = Path("tests/schemas/chat/vectors/tokenizers/llama2.json")
COLUMNS = ("key", "images", "widths", "heights", "messages", "tokens")
SMALL = {"pad": (336, 252), "square": (448, 336)}
"""What is left of 640x480 pixels in the mix: for pad the longer side is 336, for the crop the shorter."""

QUALITY = 92
BLOCK, WARM_UP = 25, 5
"""Sides alternate every BLOCK rows; the first WARM_UP of each refill the processor's caches and do not count."""

NEW_WORDS = 0.02
"""Share of new words: our tokenizer caches the words of earlier rows."""

ROUNDS = 3
"""Questions per row; LLaVA-1.5's mix has 5 on average, of which many are one word long."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--tokenizer", default=str(SMALL_TOKENIZER))
    arguments = parser.parse_args()
    _one_thread()
    tokenizer = load_tokenizer(arguments.tokenizer)
    figures = [figure for mode in SMALL for figure in measure(mode, arguments.rows, tokenizer)]
    print(json.dumps(figures))


def measure(mode: str, rows: int, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The two figures of one image mode."""
    make(rows, SMALL[mode])
    sides = our_way(tokenizer, ImageRule(mode)), original_way(tokenizer, mode), floor_way(mode)
    value, peer, floor = compare(sides, rows)
    shutil.rmtree(WORK)
    print(
        f"{mode}: CPU per row {value:.2f} ms, the original's way {peer:.2f} ms, {peer / value:.1f} times as much; "
        f"floor (the picture alone) {floor:.2f} ms"
    )
    measured = {"value": round(value, 2), "peer": round(peer, 2), "ratio": round(peer / value, 2)}
    measured["floor"] = round(floor, 2)
    return [
        {"figure": f"loader ({mode}), CPU ms per pre-resized row", **measured, "goal": 2.0, "ok": value <= 2.0},
        {"figure": f"loader ({mode}), times less CPU", **measured, "goal": 4.0, "ok": peer >= 4 * value},
    ]


def compare(sides: Sequence[Callable[[int], Any]], rows: int) -> list[float]:
    """Median CPU milliseconds per row of each side, alternating in blocks of rows."""
    spent: list[list[float]] = [[] for _ in sides]
    for start in range(0, rows, BLOCK):
        for times, work in zip(spent, sides, strict=True):
            taken = [cpu_ms(work, number) for number in range(start, min(start + BLOCK, rows))]
            times.extend(taken[WARM_UP:])
    return [float(np.median(times)) for times in spent]


def cpu_ms(work: Callable[[int], Any], number: int) -> float:
    """CPU milliseconds of this process that one call takes."""
    start = time.process_time_ns()
    work(number)
    return (time.process_time_ns() - start) / 1e6


def our_way(tokenizer: Tokenizer, rule: ImageRule) -> Callable[[int], Any]:
    """What trainer.inputs.data does with a row of the mix."""
    mix, template = Dataset.open(str(WORK / "mix")), get_template("v1")

    def load(number: int) -> Any:
        row = mix.take([number], COLUMNS)[0]
        sizes = list(zip(row["widths"], row["heights"], strict=True))
        encoded = encode(row["messages"], sizes, template, tokenizer, rule)
        return encoded, [cut(image["bytes"], rule).pixels for image in row["images"]]

    return load


def floor_way(mode: str) -> Callable[[int], Any]:
    """Only the picture, from bytes in memory: decoded, padded or cropped to 336 pixels, as planes of one array."""
    import cv2
    import simplejpeg

    mix = Dataset.open(str(WORK / "mix"))
    pictures = [row["images"][0]["bytes"] for row in mix.take(range(mix.rows), ["images"])]
    (width, height), colour = SMALL[mode], [int(value * 255) for value in CLIP_MEAN]
    edge = (336 - height) // 2

    def load(number: int) -> Any:
        pixels = simplejpeg.decode_jpeg(pictures[number])
        if mode == "pad":
            pixels = cv2.copyMakeBorder(pixels, edge, edge, 0, 0, cv2.BORDER_CONSTANT, value=colour)
        else:
            pixels = np.ascontiguousarray(pixels[:, (width - 336) // 2 :][:, :336])
        planes = np.empty((3, 336, 336), np.uint8)
        cv2.split(pixels, list(planes))
        return planes

    return load


def original_way(tokenizer: Tokenizer, mode: str) -> Callable[[int], Any]:
    """LazySupervisedDataset.__getitem__ of LLaVA-1.5, its image processor being transformers' own."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    processor: Any = CLIPImageProcessorPil()
    processor.size, processor.crop_size = {"shortest_edge": 336}, {"height": 336, "width": 336}
    rows = json.loads((WORK / "rows.json").read_text("utf-8"))
    background = tuple(int(value * 255) for value in CLIP_MEAN)
    template = get_template("v1")

    def load(number: int) -> Any:
        row = rows[number]
        image = Image.open(WORK / "images" / row["image"]).convert("RGB")
        if mode == "pad":
            side = max(image.size)
            square = Image.new("RGB", (side, side), background)
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
            image = square
        pixels = processor(image, return_tensors="pt")["pixel_values"][0]
        return encode(from_llava(row)[0], None, template, tokenizer, compat="llava", max_length=2048), pixels

    return load


def make(rows: int, small: tuple[int, int]) -> None:
    """The same rows as LLaVA's JSON with a folder of 640x480 JPEGs, and as a mix of `small` ones."""
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "images").mkdir(parents=True)
    random = np.random.default_rng(small)  # different texts for each mode: tokenised words are cached
    source = [_llava_row(number, random) for number in range(rows)]
    samples = []
    for row in source:
        picture = _photo(random)
        picture.save(WORK / "images" / row["image"], quality=QUALITY)
        samples.append(_sample(row, picture.resize(small, Image.Resampling.BICUBIC)))
    (WORK / "rows.json").write_text(json.dumps(source), encoding="utf-8")
    write_dataset(str(WORK / "mix"), "samples", [pa.Table.from_pylist(samples, SAMPLES)], {})


def _llava_row(number: int, random: np.random.Generator) -> dict[str, Any]:
    words = "the scene shows violet signal north bread winter maps quiet harbor meadow anchor garden lamp"
    known = np.array(words.split(" "))

    def said(length: int) -> str:
        new = ["".join(random.choice(known, 2)) + str(random.integers(1_000_000)) for _ in range(length)]
        chosen = np.where(random.random(length) < NEW_WORDS, new, random.choice(known, length))
        return " ".join(chosen).capitalize() + "."

    turns = []
    for _ in range(ROUNDS):
        turns += [{"from": "human", "value": said(12)}, {"from": "gpt", "value": said(40)}]
    turns[0]["value"] = f"<image>\n{turns[0]['value']}"
    return {"id": str(number), "image": f"{number}.jpg", "conversations": turns}


def _photo(random: np.random.Generator) -> Image.Image:
    """640x480 pixels with detail at every scale, about 90 KB as a JPEG: much like a photograph."""
    layers = np.zeros((480, 640, 3), np.float32)
    for side in (4, 16, 64, 256):
        noise = random.integers(0, 256, (side * 3 // 4, side, 3), dtype=np.uint8)
        layers += (
            np.asarray(Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC), np.float32) / side**0.5
        )
    layers -= layers.min()
    return Image.fromarray((layers * (255 / layers.max())).astype(np.uint8))


def _sample(row: dict[str, Any], small: Image.Image) -> dict[str, Any]:
    file = io.BytesIO()
    small.save(file, "JPEG", quality=QUALITY)
    counts = dict.fromkeys(("image_count", "image_tokens", "tokens", "supervised_tokens"), 1)
    return {
        "key": row["id"],
        "images": [{"bytes": file.getvalue(), "path": None}],
        "widths": [small.width],
        "heights": [small.height],
        "messages": from_llava(row)[0],
        "kind": "bench",
        "source": "bench",
        **counts,
    }


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
