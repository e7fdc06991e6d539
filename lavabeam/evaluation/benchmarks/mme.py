"""MME: two yes-or-no questions about each of 1,187 pictures, which count alone and together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lavabeam.evaluation.benchmarks.base import Benchmark, add_truth
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.question import LLAVA, LMMS_EVAL, ONE_WORD, Answered, Question
from lavabeam.evaluation.table import Metric, Table, Total
from schemas.errors import InputError

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
TOTALS = (Total("perception", "sum", PERCEPTION), Total("cognition", "sum", COGNITION))
_PICTURES = (".jpg", ".png", ".jpeg")


class Mme(Benchmark):
    name = "mme"
    title = "MME"
    source = "Fu et al. 2023, arXiv:2306.13394; github.com/BradyFU/Awesome-Multimodal-Large-Language-Models"
    tokens: ClassVar = {LLAVA: 128, LMMS_EVAL: 16}
    by_text: ClassVar = True
    truth_file = "the folder Your_Results of eval_tool.zip, or MME_Benchmark_release_version"
    upload_file = "a folder of category.txt files, as MME's calculation.py takes it"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's llava_mme.jsonl, or the folder MME_Benchmark_release_version."""
        if not path.is_dir():
            return super().questions(path, protocol)
        found = []
        for category, picture, words, truth in _official(path):
            stem = words.replace("Please answer yes or no.", "").strip()
            name = f"{category}/{picture}"
            found.append(Question(name, f"{stem}\n{ONE_WORD}", stem, name, category, truth=(truth, words)))
        return found

    def plain_id(self, name: str) -> str:
        """Category and picture, without folder and extension: `OCR/images/0001.jpg` is `OCR/0001`."""
        parts = name.split("/")
        return f"{parts[0]}/{_stem(parts[-1])}"

    def truths(self, path: Path) -> dict[Any, Truth]:
        if not path.is_dir():
            raise InputError(f"{path}: not a folder. Give {self.truth_file}.")
        found: dict[Any, Truth] = {}
        for category, picture, words, truth in _official(path):
            key = (self.plain_id(f"{category}/{picture}"), self.words(words))
            add_truth(found, key, Truth((truth, words)), f"{path}, {category}")
        return found

    def truth_key(self, question: Question) -> Any:
        return (self.plain_id(question.id), self.words(question.stem))

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        """A unit is a picture with its two questions: [share of right answers, whether both are]."""
        read = _llava if protocol == LLAVA else _lmms_eval
        right = [float(row.text is not None and read(_one_line(row.text)) == row.truth[0]) for row in rows]
        pictures: defaultdict[str, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            pictures[self.plain_id(row.question.id)].append(number)
        odd = next((name for name, numbers in pictures.items() if len(numbers) != 2), None)
        if odd is not None:
            raise InputError(f"MME has two questions a picture; {odd} has {len(pictures[odd])}. Give the whole set.")
        pairs = [[right[number] for number in numbers] for numbers in pictures.values()]
        columns = np.array([[sum(pair) / 2, sum(pair) == 2] for pair in pairs], float)
        metrics: dict[str, Metric] = {
            "score": lambda means: 100 * (means[..., 0] + means[..., 1]),
            "accuracy": lambda means: 100 * means[..., 0],
            "accuracy_plus": lambda means: 100 * means[..., 1],
        }
        labels = [(name.partition("/")[0],) for name in pictures]
        return Table(columns, labels, metrics, TOTALS, right, unit="picture")

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        """Needs the truth, which is in the third of four columns."""
        lines: defaultdict[str, list[str]] = defaultdict(list)
        for row in rows:
            if row.truth is None:
                raise InputError("MME's result files repeat the truth: give --truth too.")
            category, _, picture = row.question.id.partition("/")
            text = _one_line(row.text or "")
            lines[category].append("\t".join((picture, row.truth[1], row.truth[0].capitalize(), text)))
        path.mkdir(parents=True, exist_ok=True)
        for category, written in lines.items():
            (path / f"{category}.txt").write_text("\n".join(written) + "\n", encoding="utf-8")
        return len(rows)


def _official(path: Path) -> list[tuple[str, str, str, str]]:
    """(category, picture, question, yes or no): of Your_Results (a file per category), or of the release (a folder per
    category, a file per picture, which may be in images/ and questions_answers_YN/)."""
    found = []
    for name in (*PERCEPTION, *COGNITION):
        if (path / f"{name}.txt").is_file():
            found += [(name, cells[0], *cells[1:3]) for cells in _lines(path / f"{name}.txt", 3)]
        elif (path / name).is_dir():
            folder = path / name
            texts = folder / "questions_answers_YN"
            for file in sorted((texts if texts.is_dir() else folder).glob("*.txt")):
                picture = _picture(folder, file.stem)
                found += [(name, picture, *cells[:2]) for cells in _lines(file, 2)]
    if not found:
        raise InputError(f"{path}: holds none of MME's categories, such as existence.txt or existence/.")
    return [(category, picture, words, _yes_or_no(truth, path)) for category, picture, words, truth in found]


def _lines(file: Path, least: int) -> list[list[str]]:
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        cells = line.split("\t")
        if line.strip() and len(cells) < least:
            raise InputError(f"{file}, line {number}: {len(cells)} columns separated by tabs; expected {least}.")
        if line.strip():
            rows.append(cells)
    return rows


def _picture(folder: Path, stem: str) -> str:
    for place in ("images", ""):
        for ending in _PICTURES:
            if (folder / place / f"{stem}{ending}").is_file():
                return f"{place}/{stem}{ending}" if place else f"{stem}{ending}"
    raise InputError(f"{folder}: has no picture {stem}{_PICTURES[0]} (nor {', '.join(_PICTURES[1:])}) for {stem}.txt.")


def _yes_or_no(text: str, path: Path) -> str:
    plain = text.strip().strip(".").lower()
    if plain not in ("yes", "no"):
        raise InputError(f"{path}: a truth is {text!r:.40}; expected Yes or No.")
    return plain


def _stem(name: str) -> str:
    ending = next((one for one in (*_PICTURES, ".txt") if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def _one_line(text: str) -> str:
    """An answer as a line of MME's result files can hold it."""
    return " ".join(text.split())


def _llava(text: str) -> str:
    """As MME's calculation.py: the whole answer, or else its first four letters."""
    plain = text.lower()
    if plain in ("yes", "no"):
        return plain
    return next((one for one in ("yes", "no") if one in plain[:4]), "other")


def _lmms_eval(text: str) -> str:
    plain = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(plain) or _llava(plain)
