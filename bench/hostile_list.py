"""Memory of `download` on a list of hostile pictures: 200 rows, 8 worker processes, through the command line.

`python -m bench.hostile_list [--rows 200] [--workers 8]`. Each picture is small and asks for as much memory as
`max_image_area` lets through: 33 megapixels of RGBA, 16-bit RGBA, CMYK, progressive JPEG, WebP and GIF, or a PNG of
1.6 million empty chunks. Counted is the resident memory of all processes of the run together, looked at five times a
second; pages that they share count once for each. The bound is docs/download.md's.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from pipelines.download.config import DownloadConfig
from schemas.decoding import BUDGET

ROOT = Path(__file__).parents[1]
WORK = Path(__file__).parent / "output" / "hostile_list"
SIDE = 5792
"""33.5 megapixels: the most that `download` decodes."""
BASE_MB = 200
"""Of a worker process without a picture: libraries and what the allocator keeps."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--workers", type=int, default=8)
    options = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    with server(pictures()) as address:
        names = [name for _ in range(options.rows) for name in pictures_in_turn()][: options.rows]
        urls = [f"{address}/{name}?{number}" for number, name in enumerate(names)]
        (WORK / "urls.txt").write_text("\n".join(urls) + "\n")
        lavabeam("import", "url_list", "photos", "--path", "urls.txt", "--rows-per-slice", "25").wait()
        flags = ["--allow-private-hosts", "127.0.0.1", "--workers", str(options.workers), "--host-limit", "64"]
        started = time.perf_counter()
        peak, largest = watched(lavabeam("download", "photos", *flags))
    most = options.workers * (BASE_MB + DownloadConfig().memory / 2**20) + BUDGET / 2**20 + BASE_MB
    print(f"{options.rows} rows, {options.workers} workers: {peak} MB, largest process {largest} MB, "
          f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    name = f"{options.rows} hostile pictures, {options.workers} workers, peak MB of all processes"
    print(json.dumps({"figure": name, "value": peak, "goal": f"<= {most:.0f}", "ok": peak <= most}))


def pictures() -> dict[str, bytes]:
    """Name -> picture."""
    size = (SIDE, SIDE)
    return {
        "rgba.png": png(SIDE, 8, 6),
        "rgba16.png": png(SIDE, 16, 6),
        "chunks.png": png(64, 8, 2, struct.pack(">I4sI", 0, b"abCd", 0x6D8B790F) * 1_600_000),
        "rgba.webp": encoded(Image.new("RGBA", size), "WEBP", lossless=True),
        "clear.gif": encoded(Image.new("P", size), "GIF", transparency=0),
        "cmyk.jpg": encoded(Image.new("CMYK", size), "JPEG"),
        "progressive.jpg": encoded(Image.new("RGB", size), "JPEG", progressive=True),
    }


def pictures_in_turn() -> list[str]:
    """Four of ten are the RGBA PNG, one the PNG of many chunks: 19 MB each, held while they wait for their turn."""
    return [*["rgba.png"] * 4, "chunks.png", "rgba.webp", "rgba16.png", "clear.gif", "cmyk.jpg", "progressive.jpg"]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(side: int, depth: int, colour: int, extra: bytes = b"") -> bytes:
    """A square PNG of zeros; `extra` chunks come after the header."""
    channels = {2: 3, 6: 4}[colour]
    pressed = zlib.compressobj(9)
    rows = [pressed.compress(bytes(1 + side * channels * depth // 8)) for _ in range(side)]
    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), extra, chunk(b"IDAT", b"".join(rows) + pressed.flush()), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@contextmanager
def server(files: dict[str, bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path.strip("/").split("?")[0])
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def lavabeam(*arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-P", "-m", "lavabeam", *arguments], cwd=WORK, env=environment)


def watched(run: subprocess.Popen) -> tuple[int, int]:
    """(MB of all processes of a run at their peak, MB of the largest one)."""
    peak = largest = 0
    process = psutil.Process(run.pid)
    while run.poll() is None:
        sizes = [0]
        for one in [process, *children(process)]:
            try:
                sizes.append(one.memory_info().rss >> 20)
            except psutil.NoSuchProcess:
                continue
        peak, largest = max(peak, sum(sizes)), max(largest, *sizes)
        time.sleep(0.2)
    return peak, largest


def children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


if __name__ == "__main__":
    main()
