"""VQAv2: 214,354 validation questions, 107,394 of test-dev, scored by ten people's answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from lavabeam.evaluation.benchmarks.base import Benchmark, accuracy_table, add_truth, people, write_json
from lavabeam.evaluation.joining import Truth
from lavabeam.evaluation.layouts import field, identity, rows_in, rows_of, values_of
from lavabeam.evaluation.normalise import evalai
from lavabeam.evaluation.question import LLAVA, LMMS_EVAL, ONE_WORD, Answered, Question
from lavabeam.evaluation.table import Table
from lavabeam.evaluation.vqa import challenge_accuracy
from schemas.errors import InputError


class Vqav2(Benchmark):
    name = "vqav2"
    title = "VQAv2"
    source = "Goyal et al. 2017, arXiv:1612.00837; visualqa.org"
    tokens: ClassVar = {LLAVA: 128, LMMS_EVAL: 16}
    truth_file = "v2_mscoco_val2014_annotations.json"
    upload_file = "a JSON list of question_id and answer (EvalAI), over all of test2015"

    def questions(self, path: Path, protocol: str) -> list[Question]:
        """LLaVA's lines, or the official v2_OpenEnded_mscoco_*_questions.json."""
        values = values_of(path)
        whole = values[0] if len(values) == 1 else None
        if not isinstance(whole, dict) or not isinstance(whole.get("questions"), list):
            return [self.question(row, where, protocol) for where, row in rows_of(path, values)]
        split = str(whole.get("data_subtype") or "")
        if not split:
            raise InputError(f"{path}: has no data_subtype, which names the pictures (val2014, test2015).")
        return [_question(row, where, split) for where, row in rows_in(whole["questions"], path)]

    def truths(self, path: Path) -> dict[Any, Truth]:
        found: dict[Any, Truth] = {}
        for where, row in rows_of(path):
            key = identity(field(row, "question_id", where), where)
            value = (people(row, where), str(row.get("answer_type") or "all"))
            add_truth(found, key, Truth(value, row.get("question")), where)
        return found

    def score(self, rows: Sequence[Answered], protocol: str) -> Table:
        scores = [0.0 if row.text is None else challenge_accuracy(evalai(row.text), row.truth[0]) for row in rows]
        return accuracy_table(rows, scores, [(row.truth[1],) for row in rows])

    def upload(self, rows: Sequence[Answered], path: Path, every: Path | None) -> int:
        """Unanswered questions of the list get "", as LLaVA's script has it."""
        answers = {row.question.id: evalai(row.text or "") for row in rows}
        if every is None and any(str(row.question.image).startswith("COCO_test2015") for row in rows):
            raise InputError(
                "VQAv2's server takes answers to all 447,793 questions of test2015, also for test-dev. Give that list "
                "with --upload-questions: LLaVA's llava_vqav2_mscoco_test2015.jsonl or the official one."
            )
        names = list(answers) if every is None else [one.id for one in self.questions(every, LLAVA)]
        if outside := answers.keys() - set(names):
            raise InputError(f"{every}: lacks {len(outside)} of the questions asked, such as {min(outside)}.")
        write_json(path, [{"question_id": _number(name), "answer": answers.get(name, "")} for name in names])
        return len(names)


def _question(row: dict[str, Any], where: str, split: str) -> Question:
    stem = field(row, "question", where)
    image = int(identity(field(row, "image_id", where), where))
    name = identity(field(row, "question_id", where), where)
    return Question(name, f"{stem}\n{ONE_WORD}", stem, f"COCO_{split}_{image:012d}.jpg")


def _number(name: str) -> int | str:
    return int(name) if name.isdecimal() else name
