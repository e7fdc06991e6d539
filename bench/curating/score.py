"""What scores cost: rows a second with one and two workers, memory, and CPU beside the loop one writes with OpenCV.

python -m bench.curating.score [--pictures 4000] [--texts 100000]

Pictures are `DISTINCT` JPEGs of 640 x 480 (noise with the falling spectrum of photographs, half with lines of text),
again and again; texts are made of 300 words, a few with addresses and repetitions. The peer decodes with cv2.imdecode
and measures at full size; for `text_share` it is OpenCV's MSER on the same copy of 512 pixels. What a run on two rows
takes is taken off: it is start-up.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFilter

from bench.curating.commands import Cost, lavabeam
from pipelines.models.pictures import decoded, fitted
from pipelines.score.pixels import text_share
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

DISTINCT = 200
PER_FRAGMENT = 500
PLAIN = "blur,entropy,colourfulness"
PICTURES = f"resolution,aspect,{PLAIN},text_share"
TEXTS = "length,repetition,url_share,language"
HEAD = ["resolution,aspect", PLAIN, PICTURES]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--texts", type=int, default=100_000)
    given = parser.parse_args(arguments)
    folder = Path(mkdtemp(prefix="bench-score-"))
    try:
        jpegs = [picture(seed) for seed in range(DISTINCT)]
        write(folder / "two", 2, jpegs)
        write(folder / "pictures", given.pictures, jpegs)
        write(folder / "texts", given.texts, [])
        found = figures(folder, given.pictures, given.texts, jpegs)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(found))


def figures(folder: Path, pictures: int, texts: int, jpegs: list[bytes]) -> list[dict[str, Any]]:
    each: dict[tuple[str, int], float] = {}
    peaks = []
    for name, scorers, rows in [*(("pictures", words, pictures) for words in HEAD), ("texts", TEXTS, texts)]:
        start = measured(folder, "two", scorers, 1)
        for workers in (1, 2):
            cost = measured(folder, name, scorers, workers)
            peaks.append(cost.peak_mb)
            cpu, wall = cost.cpu - start.cpu, max(cost.wall - start.wall, 0.1)
            each[scorers, workers] = cpu / rows
            print(
                f"{scorers}, {workers} worker{'s' * (workers > 1)}: {rows / wall:,.0f} rows/s, "
                f"{1000 * cpu / rows:.2f} ms CPU a row, peak {cost.peak_mb:.0f} MB",
                flush=True,
            )
    peer, mser, ours = plain_loop(jpegs), *text_measures(jpegs)
    print(f"plain OpenCV loop, {PLAIN}: {1000 * peer:.2f} ms CPU a picture")
    print(f"MSER on 512 pixels: {1000 * mser:.2f} ms CPU a picture, text_share {1000 * ours:.2f}")
    return [
        figure(f"score: ms CPU a picture, {PLAIN}", 1000 * each[PLAIN, 1], 1000 * peer, 1000 * peer),
        figure("score: ms CPU a picture, text_share against MSER", 1000 * ours, 1000 * mser, 1000 * mser),
        figure("score: ms CPU a text, four scorers", 1000 * each[TEXTS, 1], 1.0, 1.0),
        figure("score: peak MB, two workers", max(peaks), 600, 600),
    ]


def measured(folder: Path, name: str, scorers: str, workers: int) -> Cost:
    """One run on a copy without scores."""
    shutil.copytree(folder / name, folder / "run")
    cost = lavabeam("score", str(folder / "run"), "--scorers", scorers, "--workers", str(workers))
    shutil.rmtree(folder / "run")
    return cost


def plain_loop(jpegs: list[bytes]) -> float:
    """Seconds of CPU for a picture by the three formulas as they are usually written, on whole pictures."""
    cv2.setNumThreads(1)
    before = time.process_time()
    for data in jpegs:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        cv2.Laplacian(grey, cv2.CV_64F).var()
        shares = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel() / grey.size
        shares = shares[shares > 0]
        -(shares * np.log2(shares)).sum()
        blue, green, red = cv2.split(bgr.astype("float"))
        across, along = np.absolute(red - green), np.absolute(0.5 * (red + green) - blue)
        np.hypot(across.std(), along.std()) + 0.3 * np.hypot(across.mean(), along.mean())
    return (time.process_time() - before) / len(jpegs)


def text_measures(jpegs: list[bytes]) -> tuple[float, float]:
    """Seconds of CPU for a picture: MSER's, and ours."""
    cv2.setNumThreads(1)
    greys = [cv2.cvtColor(fitted(decoded(data), 512), cv2.COLOR_RGB2GRAY) for data in jpegs[:100]]
    detector: Any = cv2.MSER_create() if hasattr(cv2, "MSER_create") else cv2.MSER.create()  # type: ignore[attr-defined]
    spent = []
    for measure in (detector.detectRegions, text_share):
        before = time.process_time()
        for grey in greys:
            measure(grey)
        spent.append((time.process_time() - before) / len(greys))
    return spent[0], spent[1]


def write(path: Path, rows: int, jpegs: list[bytes]) -> None:
    """An images dataset of `rows` rows; without `jpegs` it has texts alone."""
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0]])
    rng = np.random.default_rng(0)
    words = [f"{'bcdfghklmnprstvw'[n % 16]}{'aeiou'[n % 5]}{'lmnrst'[n % 6]}{n % 7 * 'e'}" for n in range(300)]
    tables = []
    for start in range(0, rows, PER_FRAGMENT):
        part = range(start, min(start + PER_FRAGMENT, rows))
        made = [
            {
                "key": f"{n:08}",
                "image": {"bytes": jpegs[n % len(jpegs)]} if jpegs else None,
                "alt_text": text(rng, words),
            }
            for n in part
        ]
        tables.append(pa.Table.from_pylist(made, schema))
    write_dataset(path, "images", tables)


def text(rng: np.random.Generator, words: list[str]) -> str:
    chosen = [words[int(n)] for n in np.minimum(rng.zipf(1.3, rng.integers(4, 20)) - 1, len(words) - 1)]
    if rng.random() < 0.05:
        chosen.append("https://example.org/" + chosen[0])
    return " ".join(chosen * (4 if rng.random() < 0.05 else 1))


def picture(seed: int) -> bytes:
    """A JPEG with a photograph's falling spectrum; every second one has lines of text."""
    rng = np.random.default_rng(seed)
    layers = np.zeros((480, 640, 3), np.float32)
    for power in range(2, 9):
        coarse = rng.normal(0, 2 ** (8 - power), (480 // 2 ** (8 - power) + 2, 640 // 2 ** (8 - power) + 2, 3))
        layers += cv2.resize(coarse.astype(np.float32), (640, 480), interpolation=cv2.INTER_CUBIC)
    image = Image.fromarray(np.clip(128 + layers * 2, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    if seed % 2:
        draw = ImageDraw.Draw(image)
        for line in range(int(rng.integers(1, 12))):
            draw.rectangle((20, 30 + line * 36, 600, 58 + line * 36), fill="white")
            draw.text(
                (24, 34 + line * 36), "the quick brown fox jumps over the lazy dog " * 2, fill="black", font_size=18
            )
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def figure(name: str, value: float, peer: float, goal: float) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(value, 3),
        "peer": round(peer, 3),
        "ratio": round(peer / value, 3) if value > 0 else 1.0,
        "goal": f"<= {round(goal, 3)}",
        "ok": value <= goal,
    }


if __name__ == "__main__":
    main()
