"""A checkpoint that answers, and files of questions for it."""

import json

import pytest

from trainer.inference.answer import Answerer


@pytest.fixture(scope="module")
def answerer(tiny):
    return Answerer(tiny / "model", device="cpu")


def questions_file(folder, rows):
    path = folder / "q.jsonl"
    path.write_text("".join(json.dumps({"question_id": number, **row}) + "\n" for number, row in enumerate(rows)))
    return path
