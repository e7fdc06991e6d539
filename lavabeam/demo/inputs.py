"""The demo's input: images of Easy-VQA and scikit-image, as a website and a list of its URLs.

They come from the pip packages `easy-vqa` (MIT) and `scikit-image` (BSD; photographs.yaml has the licence of each
photograph). Only the faults that every crawl meets are made up: missing pages, a broken file, copies of a picture at
other addresses.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from lavabeam.demo.web import Page, Server, base_url, new_port, remembered_port
from pipelines.importers.easy_vqa import COLORS, SHAPES, facts_of, package_folder, read_questions
from schemas import Dataset
from schemas.errors import InputError

EASY_VQA_LICENSE = "MIT (Victor Zhou)"

MISSING = ("gone-1.jpg", "gone-2.jpg", "gone-3.jpg")
"""Addresses in the list that the website answers with 404."""


@dataclass(frozen=True)
class EvaluationQuestion:
    """One question of Easy-VQA's published test split; `kind` is color, shape or yesno, by its answer."""

    images: tuple[Path]
    question: str
    answer: str
    kind: str
    refused: None = None


@dataclass(frozen=True)
class Prepared:
    """The URL list, and the server to run during the download (`with server:`); None if nothing is missing."""

    url_list: Path
    server: Server | None
    note: str | None = None


@dataclass
class Website:
    """Pages by path, and the rows of the URL list in order, each with a path in place of its URL."""

    pages: dict[str, Page] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: str, page: Page | None, source: str, **columns: Any) -> None:
        """Add a row to the list; `page` None is an address without content."""
        if page is not None:
            self.pages[path] = page
        self.rows.append({"key": path.lstrip("/").rpartition(".")[0], "path": path, "source": source, **columns})


def build_website() -> Website:
    """Photographs, faults and copies, then the 4,000 training pictures of Easy-VQA."""
    site = Website()
    photographs = {entry["file"]: entry for entry in _photographs()}
    for file, entry in photographs.items():
        columns = {name: entry[name] for name in ("alt_text", "license", "boxes") if name in entry}
        site.add(f"/photographs/{file}", Page(_photograph(file)), "photographs", **columns)
    _add_faults(site)
    _add_copies(site, photographs)
    folder = package_folder() / "train"
    facts = facts_of(read_questions(folder / "questions.json"))
    for number in facts:
        path = f"/easy-vqa/train/{number}.png"
        content = Page(folder / "images" / f"{number}.png")
        site.add(path, content, "easy-vqa", facts=facts[number], license=EASY_VQA_LICENSE)
    return site


def url_list(site: Website, base_url: str) -> str:
    """The file that `import` reads: one JSON object per line, with `base_url` in front of every path."""
    lines = []
    for row in site.rows:
        values = {name: value for name, value in row.items() if name != "path"}
        lines.append(json.dumps({**values, "url": base_url + row["path"]}, ensure_ascii=False) + "\n")
    return "".join(lines)


def prepare(work: Path, images: Path) -> Prepared:
    """Write the URL list into `work`; also make the website it points to, unless `images` already has every picture.

    The port of the first run is kept, since it is part of every URL. If another program has taken it while pictures
    are still missing, a new port makes a new list, and everything is computed again; `note` says so.
    """
    site, kept = build_website(), work / "port"
    port, free = remembered_port(kept)
    path, note = work / "urls.jsonl", None
    text = url_list(site, base_url(port))
    if _is_written(path, text) and _is_downloaded(images):
        return Prepared(path, None)
    if not free:
        taken, port = port, new_port(kept)
        text = url_list(site, base_url(port))
        note = f"port {taken} of the last run is taken by another program; the list now has port {port} in its URLs"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return Prepared(path, Server(site.pages, port), note)


def _is_written(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _is_downloaded(images: Path) -> bool:
    return Dataset.exists(images) and all("download" in part.entry.files for part in Dataset.open(images).fragments)


def evaluation_questions() -> Iterator[EvaluationQuestion]:
    """Easy-VQA's test split, in order: 1,000 pictures that no step of the demo has seen."""
    folder = package_folder() / "test"
    for question, answer, number in read_questions(folder / "questions.json"):
        kind = "color" if answer in COLORS else "shape" if answer in SHAPES else "yesno"
        yield EvaluationQuestion((folder / "images" / f"{number}.png",), question, answer, kind)


def _add_faults(site: Website) -> None:
    """The web's faults: files that are missing, slow, busy, broken, or not images at all."""
    for name in MISSING:
        site.add(f"/photographs/{name}", None, "faults", alt_text="A picture that is no longer there.")
    slow = Page(_photograph("coins.png"), seconds=2.0)
    site.add("/photographs/slow.png", slow, "faults", alt_text="Old coins, from a slow server.")
    busy = Page(_photograph("page.png"), refusals=1)
    site.add("/photographs/busy.png", busy, "faults", alt_text="A printed page, from a server that is busy at first.")
    whole = _photograph("rocket.jpg").read_bytes()
    broken = Page(whole[:200] + b"\0" * 2000, "image/jpeg")
    site.add("/photographs/broken.jpg", broken, "faults", alt_text="A picture whose upload went wrong.")
    html = Page(b"<!doctype html><title>Moved</title><p>This picture has moved.", "text/html; charset=utf-8")
    site.add("/photographs/moved.jpg", html, "faults", alt_text="A page where a picture was.")


def _add_copies(site: Website, photographs: dict[str, dict]) -> None:
    """The same pictures elsewhere: three byte for byte, four re-encoded in another format, quality or size."""
    for file in ("chelsea.png", "coffee.png", "rocket.jpg"):
        site.add(f"/mirror/{file}", Page(_photograph(file)), "copies", alt_text=photographs[file]["alt_text"])
    saved = {
        "/resaved/chelsea.jpg": _saved_again("chelsea.png", "JPEG", quality=80),
        "/resaved/astronaut-small.jpg": _saved_again("astronaut.png", "JPEG", scale=2, quality=85),
        "/resaved/motorcycle.webp": _saved_again("motorcycle_left.png", "WEBP", quality=75),
        "/resaved/rocket-small.png": _saved_again("rocket.jpg", "PNG", scale=2),
    }
    for path, content in saved.items():
        format = path.rpartition(".")[2].replace("jpg", "jpeg")
        site.add(path, Page(content, f"image/{format}"), "copies", alt_text="A picture seen elsewhere before.")


def _saved_again(file: str, format: str, scale: int = 1, **options: Any) -> bytes:
    picture = Image.open(_photograph(file)).convert("RGB")
    buffer = io.BytesIO()
    picture.resize((picture.width // scale, picture.height // scale)).save(buffer, format, **options)
    return buffer.getvalue()


def _photographs() -> list[dict[str, Any]]:
    return yaml.safe_load(Path(__file__).with_name("photographs.yaml").read_text(encoding="utf-8"))


def _photograph(file: str) -> Path:
    """The photograph's path in the installed scikit-image; raises InputError without it."""
    package = importlib.util.find_spec("skimage")
    path = Path(package.origin).parent / "data" / file if package and package.origin else None
    if path is None or not path.is_file():
        raise InputError(f"{path or 'scikit-image'}: not installed. `pip install -c constraints.txt scikit-image`.")
    return path
