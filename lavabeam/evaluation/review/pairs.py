"""Questions with two answers each and the context of their images, joined by question id and image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.jsonfile import json_values


@dataclass(frozen=True)
class Reply:
    """An answer as its file has it; `missing` says why a model gave none."""

    id: Any
    text: str
    missing: str = ""


@dataclass(frozen=True)
class PictureContext:
    """The context that the judge gets instead of a picture."""

    sentences: tuple[str, ...] = ()
    boxes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Sentences, and after a blank line the boxes: as LLaVA's eval_gpt_review_visual.py puts them."""
        return "\n\n".join("\n".join(part) for part in (self.sentences, self.boxes) if part)


@dataclass(frozen=True)
class Pair:
    """A question, what is known about its picture, and the answers of the reference and of the model."""

    where: str
    question_id: Any
    question: str
    category: str
    context: PictureContext
    reference: Reply
    answer: Reply


def read_pairs(questions: Path, answers: Path, reference: Path, context: Path | None) -> list[Pair]:
    """Every question in the order of its file. Raises InputError for a file that cannot be read, and naming ids and
    counts where answers are missing, given twice, or of other questions: nothing is joined by line."""
    asked: dict[str, tuple[str, dict[str, Any]]] = {}
    for where, row in rows_of(questions, ("question_id", "text")):
        if (name := str(row["question_id"])) in asked:
            raise InputError(f"{where}: question_id {name} already exists ({asked[name][0]}). Give each its own id.")
        asked[name] = where, row
    replies = [_replies(path, asked.keys()) for path in (reference, answers)]
    contexts = {} if context is None else read_contexts(context)
    pairs = []
    for name, (where, row) in asked.items():
        known = _context(contexts, row, where, context)
        category = str(row.get("category") or "default")
        pairs.append(Pair(where, row["question_id"], row["text"], category, known, *(one[name] for one in replies)))
    if not pairs:
        raise InputError(f"{questions}: contains no questions.")
    return pairs


def read_contexts(path: Path) -> dict[str, PictureContext]:
    """Contexts by picture: LLaVA's `caps_boxes` lines (image, captions, instances) or `context.jsonl` (image, caption).

    Boxes are [left, top, right, bottom] in fractions, written as the file has them.
    """
    found: dict[str, PictureContext] = {}
    for where, row in rows_of(path, ("image",)):
        sentences = row.get("captions", row.get("caption"))
        sentences = [sentences] if isinstance(sentences, str) else sentences
        if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences):
            raise InputError(f"{where}: captions are {sentences!r:.60}; expected `captions`, a list of strings.")
        if not any(one.strip() for one in sentences) and not row.get("instances"):
            raise InputError(
                f"{where}: neither captions nor instances of picture {row['image']}: the judge would have no context. "
                f"Give one of them, or leave its questions out."
            )
        known = PictureContext(tuple(sentences), tuple(_boxes(row.get("instances") or (), where)))
        if found.setdefault(str(row["image"]), known) != known:
            raise InputError(f"{where}: picture {row['image']} has a different context earlier. Keep one of them.")
    return found


def rows_of(path: Path, keys: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of each object in a file of JSON lines or a JSON list; raises InputError for one without `keys`."""
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a file of JSON lines.")
    for number, row in enumerate(json_values(path), 1):
        where = f"{path}, line {number}"
        if isinstance(row, InputError):
            raise InputError(f"{where}: {row}")
        lacking = [key for key in keys if not isinstance(row, dict) or key not in row]
        if lacking:
            raise InputError(f"{where}: no {lacking[0]!r}; expected an object with {', '.join(keys)}.")
        if "text" in keys and not isinstance(row["text"], str):
            raise InputError(f"{where}: text is {row['text']!r:.60}; expected a string.")
        yield where, row


def why_missing(row: dict[str, Any]) -> str:
    """Why `lavabeam answer` has no answer to a question, as its line says."""
    metadata = row.get("metadata")
    if not isinstance(metadata, dict) or (status := metadata.get("status", "ok")) == "ok":
        return ""
    return f"{status}: {metadata.get('detail')}"


def listed(names: list[str]) -> str:
    """How many, and the first of them."""
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _boxes(instances: Any, where: str) -> Iterator[str]:
    for one in instances:
        box = one.get("bbox") if isinstance(one, dict) else None
        if not isinstance(box, list) or len(box) != 4 or "category" not in one:
            raise InputError(f"{where}: instance {one!r:.60}; expected category and bbox, four numbers.")
        yield f"{one['category']}: {box}"


def _replies(path: Path, asked: Any) -> dict[str, Reply]:
    found: dict[str, Reply] = {}
    doubled, foreign = [], []
    for _, row in rows_of(path, ("question_id", "text")):
        name = str(row["question_id"])
        if name in found:
            doubled.append(name)
        if name not in asked:
            foreign.append(name)
        found[name] = Reply(row.get("answer_id", row["question_id"]), row["text"], why_missing(row))
    missing = [name for name in asked if name not in found]
    faults = (("missing", missing), ("given twice", doubled), ("of no question in the file", foreign))
    wrong = [f"{listed(names)} {kind}" for kind, names in faults if names]
    if wrong:
        raise InputError(
            f"{path}: of {len(asked)} answers by question_id {', '.join(wrong)}. Give the answers to these questions."
        )
    if all(not one.text.strip() and not one.missing for one in found.values()):
        raise InputError(f"{path}: all {len(found)} answers are empty. Answer the questions first.")
    return found


def _context(contexts: dict[str, PictureContext], row: dict[str, Any], where: str, path: Path | None) -> PictureContext:
    name = str(row.get("image"))
    if path is None:
        if row.get("image") is not None:
            raise InputError(
                f"{where}: the question is about picture {name}, for which the judge has no context. Give the context "
                f"of the pictures with --context."
            )
        return PictureContext()
    if name not in contexts:
        raise InputError(
            f"{where}: picture {name} is not in {path}, which has {len(contexts)}. Give the context of these questions "
            "with --context."
        )
    return contexts[name]
