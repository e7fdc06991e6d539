"""VizWiz-VQA: questions of blind people about their own photographs, 8,000 in the test split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lavabeam.evaluation.benchmarks.base import Benchmark, accuracy_table, add_truth, people, write_json
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, rows_of
from lavabeam.evaluation.normalise import evalai
from lavabeam.evaluation.question import LLAVA, ONE_WORD, Answered, Question
from lavabeam.evaluation.table import Table
from lavabeam.evaluation.vqa import challenge_accuracy, soft_accuracy

_UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."


class Vizwiz(Benchmark):
    name = "vizwiz"
    title = "VizWiz"
    source = "Gurari et al. 2018, arXiv:1802.08218; vizwiz.org"
    truth_file = "val.json of the Visual Question Answering annotations"
    upload_file = "a JSON list of image and answer (EvalAI)"

    def question(self, row: dict[str, Any], where: str, protocol: str) -> Question:
        """LLaVA's lines, or a row of the official val.json or test.json (image, question)."""
        image = field(row, "image", where)
        if "text" in row:
            stem = super().question(row, where, LLAVA).stem.removesuffix(f"\n{_UNANSWERABLE}")
        else:
            stem = field(row, "question", where)
        name = str(row["question_id"]) if "question_id" in row else str(image)
        asked = stem if protocol == LLAVA else stem.capitalize()
        return Question(name, f"{asked}\n{_UNANSWERABLE}\n{ONE_WORD}", stem, image, truth=_truth(row, where))

    def truths(self, path: Path) -> dict[Any, Truth]:
        found: dict[Any, Truth] = {}
        for where, row in rows_of(path):
            people(row, where)
            add_truth(found, field(row, "image", where), Truth(_truth(row, where), row.get("question")), where)
        return found

    def truth_key(self, question: Question) -> Any:
        return question.image

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        """lmms-eval normalises people's answers always; VizWiz's own evaluation where they differ."""
        scores = []
        for row in rows:
            said, answer = row.truth[0], evalai(row.text or "")
            if protocol == LLAVA:
                scores.append(challenge_accuracy(answer, said) if row.text is not None else 0.0)
            else:
                scores.append(soft_accuracy(answer, [evalai(one) for one in said]) if row.text is not None else 0.0)
        return accuracy_table(rows, scores, [(row.truth[1],) for row in rows])

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        write_json(path, [{"image": row.question.image, "answer": evalai(row.text or "")} for row in rows])
        return len(rows)


def _truth(row: dict[str, Any], where: str) -> tuple[tuple[str, ...], str] | None:
    return (people(row, where), str(row.get("answer_type") or "all")) if row.get("answers") else None
