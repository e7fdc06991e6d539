"""Decontaminate: recall of planted leaks, false hits, and what a run costs at growing sizes.

    python -m bench.curating.decontaminate [--sizes 10000,50000] [--index 10000]

Recall and false hits are of the pictures in scikit-image's wheel (photographs, scans, two drawings; 26 that have 100
pixels) and of made charts that share a template. Each run is the whole command on rows with known hashes and a
caption of 20 words; 1% of them are planted. The peer keeps the index's runs of words as tuples in a set, as
decontamination scripts do, and compares hashes of pictures with all others in numpy.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance

from bench.curating.captions import phrase
from bench.curating.commands import Cost, lavabeam
from pipelines.decontaminate.hashes import VIEWS, gram_hashes, views
from pipelines.decontaminate.index import FORMAT, VERSION, Meta, Settings, assembled
from pipelines.texts import ngrams, words
from schemas.dataset import Dataset
from schemas.phash import hash_picture
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

WORK = Path(__file__).parents[1] / "output" / "decontaminate"
DISTANCE, FRAGMENT_ROWS, PLANTED = 8, 5000, 100
Picture = Image.Image


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=_sizes, default="10000,50000")
    parser.add_argument("--index", type=int, default=10_000, help="rows of the evaluation set")
    chosen = parser.parse_args(arguments)
    pictures = photographs()
    found: list[dict[str, Any]] = [
        recall(pictures),
        false_hits(pictures, "photographs"),
        false_hits(charts(), "charts"),
    ]
    for figure in found:
        print(json.dumps(figure), flush=True)
    if chosen.sizes:
        found += costs(chosen.sizes, chosen.index)
    print(json.dumps(found))


def recall(pictures: dict[str, Picture]) -> dict[str, Any]:
    """Share of changed pictures that are found, by change."""
    index = {name: np.array(views(_png(picture), 96)[1], np.uint64) for name, picture in pictures.items()}
    own = {name: hashes for name, hashes in index.items() if len(hashes)}
    shares = {}
    for change, make in changes().items():
        random, near = np.random.default_rng(1), 0
        for name, hashes in own.items():
            asked = np.uint64(int(hash_picture(make(pictures[name], random)), 16))
            near += int(np.bitwise_count(hashes ^ asked).min()) <= DISTANCE
        shares[change] = round(near / len(own), 3)
    return {"figure": "recall", "pictures": len(own), "shares": shares}


def false_hits(pictures: dict[str, Picture], title: str) -> dict[str, Any]:
    """Pairs of different pictures that are taken for each other."""
    index = {name: np.array(views(_png(picture), 96)[1], np.uint64) for name, picture in pictures.items()}
    own = {name: hashes for name, hashes in index.items() if len(hashes)}
    pairs = [
        (first, second, int(np.bitwise_count(own[first][:, None] ^ own[second][None, :1]).min()))
        for first in own
        for second in own
        if first != second
    ]
    false = [pair for pair in pairs if pair[2] <= DISTANCE]
    least = min((bits for *_, bits in pairs if bits > DISTANCE), default=None)
    return {
        "figure": f"false hits, {title}",
        "pairs": len(pairs),
        "within": false[:6],
        "count": len(false),
        "next": least,
    }


def changes() -> dict[str, Callable[[Picture, np.random.Generator], bytes]]:
    """Name -> what somebody did to a picture, as encoded bytes."""
    made: dict[str, Callable[[Picture, np.random.Generator], bytes]] = {
        f"saved again, quality {quality}": lambda p, _, q=quality: _jpeg(p, q) for quality in (30, 50, 75, 95)
    }
    for factor in (0.5, 0.75, 2.0):
        made[f"resized to {factor}"] = lambda p, _, f=factor: _jpeg(p.resize((int(p.width * f), int(p.height * f))))
    for factor in (0.8, 1.2):
        made[f"brightness {factor}"] = lambda p, _, f=factor: _jpeg(ImageEnhance.Brightness(p).enhance(f))
    made["cropped 5% on one side"] = _one_side
    made["cropped to 95% x 95%, anywhere"] = _window
    made["cropped 5% on every side"] = lambda p, _: _jpeg(_cut(p, 0.05, 0.05, 0.05, 0.05))
    made["cropped 10% on one side"] = lambda p, _: _jpeg(_cut(p, 0.1, 0, 0, 0))
    made["mirrored"] = lambda p, _: _jpeg(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    return made


def photographs() -> dict[str, Picture]:
    """The pictures of scikit-image's wheel with at least 100 pixels on the shorter side; one of two equal boards."""
    import skimage

    found = {}
    for path in sorted((Path(skimage.__path__[0]) / "data").glob("*")):
        if path.suffix in (".png", ".jpg") and path.name != "chessboard_GRAY.png":
            picture = Image.open(path).convert("RGB")
            if min(picture.size) >= 100:
                found[path.name] = picture
    return found


def charts(count: int = 20) -> dict[str, Picture]:
    """Bar charts on one template, with other values each."""
    random, made = np.random.default_rng(2), {}
    for number in range(count):
        pixels = np.full((300, 400, 3), 255, np.uint8)
        pixels[20:260, 38:40] = pixels[260:262, 38:380] = 0
        for bar, height in enumerate(random.integers(20, 230, 6).tolist()):
            pixels[260 - height : 260, 60 + 52 * bar : 95 + 52 * bar] = (60, 90, 170)
        made[f"chart{number}"] = Image.fromarray(pixels)
    return made


def costs(sizes: Sequence[int], index_rows: int) -> list[dict[str, Any]]:
    """Rows a second, CPU and memory of the command at each size, with 1 and 2 workers."""
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / "index.npz"
    hashes, texts = index_of(index_rows, path)
    found: list[dict[str, Any]] = [{"figure": "index", "rows": index_rows, "bytes": path.stat().st_size}]
    print(json.dumps(found[-1]), flush=True)
    seconds: dict[int, float] = {}
    for rows in sizes:
        for workers in (1, 2):
            cost, missed, others = measured(rows, workers, path, hashes, texts)
            seconds.setdefault(rows, cost.cpu)
            found.append({"rows": rows, "workers": workers, "rows_per_s": round(rows / cost.wall)})
            found[-1] |= {"cpu": round(cost.cpu, 1), "peak_mb": round(cost.peak_mb), "missed": missed, "others": others}
            if workers == 1 and rows == min(sizes):
                peer = by_comparing(rows, hashes, texts)
                found[-1] |= {"peer": round(peer, 1), "ratio": round(peer / cost.cpu, 2)}
            print(json.dumps(found[-1]), flush=True)
    if len(seconds) > 1:
        least, most = min(seconds), max(seconds)
        exponent = math.log(seconds[most] / seconds[least]) / math.log(most / least)
        found.append({"figure": "growth exponent of CPU, start-up included", "value": round(exponent, 2)})
    return found


def index_of(rows: int, path: Path) -> tuple[np.ndarray, list[str]]:
    """Write an index of `rows` pictures with `VIEWS` random hashes each and a text; returns (own hashes, texts)."""
    random = np.random.default_rng(rows)
    hashes = random.integers(0, 2**64, (rows, VIEWS), np.uint64)
    texts = [_text(10**9 + row) for row in range(rows)]
    grams, owners = gram_hashes([words(text) for text in texts], 13)
    meta = Meta(format=FORMAT, version=VERSION, settings=Settings(), sets=[{"name": "made", "rows": rows}])
    entries = {"picture": [hashes.ravel(), np.repeat(np.arange(rows), VIEWS)], "ngram": [grams, owners]}
    assembled(meta, [0] * rows, [f"e{row}" for row in range(rows)], entries).write(path)
    return hashes[:, 0], texts


def measured(rows: int, workers: int, path: Path, hashes: np.ndarray, texts: list[str]) -> tuple[Cost, int, int]:
    """(cost of the command, planted rows that it missed, other rows that it found)."""
    folder = WORK / f"{rows}-{workers}"
    shutil.rmtree(folder, ignore_errors=True)
    write_dataset(folder, "images", tables(rows, hashes, texts))
    cost = lavabeam("decontaminate", str(folder), "--index", str(path), "--workers", str(workers))
    leaked: list[bool] = []
    for fragment in Dataset.open(folder).fragments:
        leaked += [one == "leaked" for one in fragment.read(["decontaminate_status"]).column(0).to_pylist()]
    shutil.rmtree(folder)
    planted = sum(leaked[::PLANTED])
    return cost, len(leaked[::PLANTED]) - planted, sum(leaked) - planted


def tables(rows: int, hashes: np.ndarray, texts: list[str]) -> Iterator[pa.Table]:
    """Rows with a perceptual hash and a caption; one in a hundred has those of an evaluation row, 4 bits changed."""
    schema = pa.schema([*BASE["images"], *STORED_IMAGE])
    for start in range(0, rows, FRAGMENT_ROWS):
        numbers = range(start, min(start + FRAGMENT_ROWS, rows))
        columns = {field.name: pa.nulls(len(numbers), field.type) for field in schema}
        made = [rows_hash(number, hashes) for number in numbers]
        captions = [texts[number // PLANTED % len(texts)] if number % 200 == 0 else _text(number) for number in numbers]
        columns |= {"key": pa.array([f"k{number}" for number in numbers]), "alt_text": pa.array(captions)}
        columns |= {"phash": pa.array([f"{one:016x}" for one in made])}
        yield pa.table(columns, schema=schema)


def rows_hash(number: int, hashes: np.ndarray) -> int:
    """The perceptual hash of a row: odd hundreds have an evaluation picture's, with 4 bits changed."""
    if number % PLANTED == 0 and number % (2 * PLANTED):
        return int(hashes[number // PLANTED % len(hashes)]) ^ 0x8000_0100_0040_0001
    return (number + 1) * 0x9E3779B97F4A7C15 % 2**64


def by_comparing(rows: int, hashes: np.ndarray, texts: list[str]) -> float:
    """Seconds of CPU of the peer; its views are as many as the index has."""
    known = np.tile(hashes, VIEWS)
    grams = {gram for text in texts for gram in ngrams(words(text), 13)}
    started = time.process_time()
    for number in range(rows):
        bits = np.bitwise_count(known ^ np.uint64(rows_hash(number, hashes)))
        _ = bits.min() <= DISTANCE or any(gram in grams for gram in ngrams(words(_text(number)), 13))
    return time.process_time() - started


def _text(number: int) -> str:
    drawn = np.random.default_rng(number).integers(0, 10**7, 20)
    return " ".join(phrase(rank) for rank in drawn.tolist())


def _cut(picture: Picture, left: float, top: float, right: float, bottom: float) -> Picture:
    width, height = picture.size
    return picture.crop((int(width * left), int(height * top), int(width * (1 - right)), int(height * (1 - bottom))))


def _one_side(picture: Picture, random: np.random.Generator) -> bytes:
    sides = [0.0] * 4
    sides[int(random.integers(4))] = 0.05
    return _jpeg(_cut(picture, *sides))


def _window(picture: Picture, random: np.random.Generator) -> bytes:
    left, top = (float(one) for one in random.random(2) * 0.05)
    return _jpeg(_cut(picture, left, top, 0.05 - left, 0.05 - top))


def _jpeg(picture: Picture, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _png(picture: Picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


if __name__ == "__main__":
    main()
