"""Files of questions become files of answers, wherever they are interrupted."""

import gzip
import json
import lzma

import pytest

from schemas.errors import InputError
from tests.trainer.conftest import picture
from tests.trainer.inference.conftest import questions_file
from trainer.inference import answer, spread
from trainer.inference.answer import Answerer
from trainer.inference.answers import answer_file, read_questions
from trainer.inference.asked import questions_of
from trainer.inference.prompts import question


def test_a_questions_file_becomes_the_originals_answers_file(tiny, answerer, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    rows = [{"question_id": 7, "image": "a.png", "text": "is it red?"}, {"question_id": 8, "text": "is it red?"}]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert answer_file(tiny / "model", tmp_path / "q.jsonl", tmp_path / "a.jsonl", max_tokens=4) == {"ok": 2}
    result = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [one["question_id"] for one in result] == [7, 8]
    assert set(result[0]) == {"question_id", "prompt", "text", "answer_id", "model_id", "metadata"}
    assert result[0]["text"] == answerer.answer([question("is it red?", (picture(1),))], max_tokens=4)[0].text


def test_answers_go_on_where_they_were_interrupted(tiny, tmp_path, monkeypatch):
    rows = [{"question_id": n, "text": f"is it red?\u2028{n}"} for n in range(6)]
    path, output = tmp_path / "q.jsonl", tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    answer_file(tiny / "model", path, tmp_path / "whole.jsonl", max_tokens=4)
    asked = []

    class Killed(Answerer):
        def stream(self, prompts, *rest):
            asked.append(len(prompts))
            for number, text in enumerate(super().stream(prompts, *rest)):
                if len(asked) == 1 and number == 3:
                    raise KeyboardInterrupt
                yield text

    monkeypatch.setattr(answer, "Answerer", Killed)
    with pytest.raises(KeyboardInterrupt):
        answer_file(tiny / "model", path, output, max_tokens=4)
    (draft,) = tmp_path.glob("a.jsonl.*.part")
    with draft.open("a") as file:
        file.write('{"question_id": 3, "te')  # a kill in the middle of a line
    assert answer_file(tiny / "model", path, output, max_tokens=4) == {"ok": 6}
    assert asked == [6, 3]
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def test_a_question_that_cannot_be_asked_ends_no_other(tiny, answerer, tmp_path):
    for name, content in {"a.png": picture(1), "b.png": picture(2), "bad.png": picture(1)[:60]}.items():
        (tmp_path / name).write_bytes(content)
    rows = [
        {"text": "is it red?", "image": "a.png"},
        {"text": "is it red?", "image": "bad.png"},
        {"text": "is it red?", "image": "none.png"},
        {"text": "is it red? " * 200},
        {"text": "<image> and <image>?", "image": "a.png"},
        {"text": "is it red?", "video": "a.mp4"},
        {"text": "is it red?", "image": ["a.png", 3]},
        {"text": "", "image": "a.png"},
    ]
    path, output = questions_file(tmp_path, rows), tmp_path / "a.jsonl"
    counts = answer_file(tiny / "model", path, output, max_tokens=4)
    assert counts == {"ok": 2, "bad_picture": 1, "no_picture": 1, "too_long": 1, "bad_question": 3}
    written = [json.loads(line) for line in output.read_text().splitlines()]
    statuses = [one["metadata"].get("status", "ok") for one in written]
    expected = ["ok", "bad_picture", "no_picture", "too_long", "bad_question", "bad_question", "bad_question", "ok"]
    assert statuses == expected
    assert [one["metadata"]["detail"].split(":")[0] for one in written[1:4]] == [f"{path}, line {n}" for n in (2, 3, 4)]
    assert written[0]["text"] == answerer.answer([question("is it red?", (picture(1),))], max_tokens=4)[0].text


def test_a_finished_file_of_answers_is_not_made_again(tiny, tmp_path, monkeypatch):
    path, output = questions_file(tmp_path, [{"text": "is it red?"}]), tmp_path / "a.jsonl"
    answer_file(tiny / "model", path, output, max_tokens=4)
    with monkeypatch.context() as patch:
        patch.setattr(spread, "open_answerer", lambda *_: pytest.fail("asked again"))
        patch.setattr("trainer.inference.answers.open_answerer", lambda *_: pytest.fail("asked again"))
        assert answer_file(tiny / "model", path, output, max_tokens=4) == {"ok": 1}
    output.write_text(output.read_text() * 2)
    assert answer_file(tiny / "model", path, output, max_tokens=4) == {"ok": 1}
    assert len(output.read_text().splitlines()) == 1


def test_answers_never_overwrite_their_questions(tiny, tmp_path):
    path = questions_file(tmp_path, [{"text": "is it red?"}])
    before = path.read_text()
    (tmp_path / "link.jsonl").symlink_to(path)
    for output in (path, tmp_path / "x" / ".." / "q.jsonl", tmp_path / "link.jsonl"):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(InputError, match="overwrite their questions"):
            answer_file(tiny / "model", path, output)
    assert path.read_text() == before


def test_several_processes_answer_alike_and_in_order(tiny, tmp_path, monkeypatch):
    rows = [{"text": f"is it {color}? {number}"} for number, color in enumerate(["red", "blue", "gray"] * 4)]
    path = questions_file(tmp_path, rows)
    for processes in (1, 2):
        answer_file(tiny / "model", path, tmp_path / f"{processes}.jsonl", max_tokens=4, processes=processes)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"text": "a"}', "question_id"),
        ("{", "line 1"),
        ('{"question_id": 1, "text": 5}', "expected a string"),
        ("", "no question"),
        ('{"question_id": 1, "text": "a", "image": "no.png"}', "no.png"),
    ],
)
def test_bad_questions_files_are_refused_whole(tiny, tmp_path, text, words):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(InputError, match=words):
        answer_file(tiny / "model", tmp_path / "q.jsonl", tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize("form", [gzip.compress, lzma.compress])
def test_compressed_questions_are_the_same_and_a_cut_file_is_one_error(tmp_path, form):
    lines = b"".join(b'{"question_id": %d, "text": "q", "answer": "a\xe2\x80\xa8b"}\n' % number for number in range(99))
    (tmp_path / "q.jsonl").write_bytes(lines)
    (tmp_path / "z.jsonl.gz").write_bytes(form(lines))
    (tmp_path / "cut.jsonl").write_bytes(form(lines)[:-12])
    assert read_questions(tmp_path / "z.jsonl.gz") == read_questions(tmp_path / "q.jsonl")
    assert list(questions_of(tmp_path / "z.jsonl.gz")) == list(questions_of(tmp_path / "q.jsonl"))
    for read in (read_questions, questions_of):
        with pytest.raises(InputError, match="data is truncated or damaged"):
            list(read(tmp_path / "cut.jsonl"))
