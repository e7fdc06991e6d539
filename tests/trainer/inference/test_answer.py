"""Asking a checkpoint: batches do not change answers, files of questions, accuracy beside the best constant."""

import gzip
import json
import lzma
from dataclasses import replace

import pytest
import torch

from schemas.errors import InputError
from tests.trainer.conftest import picture, sample_row, write_mix
from trainer.inference import answer, prompting, spread
from trainer.inference.answer import Answerer
from trainer.inference.answers import answer_file, read_questions
from trainer.inference.asked import Asked, questions_of
from trainer.inference.batches import Batches, cache_bytes
from trainer.inference.chat import Conversation
from trainer.inference.evaluate import choice, evaluate, plain, score
from trainer.inference.prompts import Answer, Prompt, question


@pytest.fixture(scope="module")
def answerer(tiny):
    return Answerer(tiny / "model", device="cpu")


def test_a_batch_padded_on_the_left_answers_like_one_at_a_time(answerer):
    texts = ("what color is it?", "is it red?", "red", "say something about the picture and then some more of it")
    prompts = [question(text, (picture(number),) if number % 2 else ()) for number, text in enumerate(texts)]
    together = answerer.answer(prompts, max_tokens=6)
    assert together == [answerer.answer([prompt], max_tokens=6)[0] for prompt in prompts]


def test_a_short_prompt_beside_a_long_one_has_as_much_room_as_alone(answerer):
    """A batch ends where its longest row reaches the model's last position."""
    short, long = question("red"), question("is it red? " * 18)
    room = answerer.prompting.folder.positions - len(answerer.prompting.row(0, long, {}).ids)
    assert 0 < room < 40
    alone = answerer.answer([short], max_tokens=60)
    assert len(answerer.prompting.tokenizer.encode(alone[0].text, first=False).ids) > room
    assert answerer.answer([long, short], max_tokens=60)[1:] == alone


def test_prepared_pictures_are_kept_within_bounds(answerer, monkeypatch):
    one = answerer.prompting.picture(picture(50), 1)
    monkeypatch.setattr(prompting, "KEPT_BYTES", 3 * (one.pixels.nbytes + len(picture(50))))
    answerer.answer([question("red", (picture(number),)) for number in range(60, 70)], max_tokens=1, batch=4)
    assert 1 <= len(answerer.prompting._seen) <= 3
    assert answerer.prompting._seen_bytes == sum(prompting.held(*kept) for kept in answerer.prompting._seen.items())


def test_an_answer_ends_at_the_stop_token(answerer):
    end = answerer.prompting.tokenizer.eos_id
    word = answerer.prompting.tokenizer.encode(" red", first=False).ids
    assert answerer.prompting.text([*word, end, *word]) == "red"


def test_greedy_answers_are_the_models_likeliest_tokens(answerer):
    prompt = question("is it red?", (picture(3),))
    row = answerer.prompting.row(0, prompt, {})
    shown = replace(row, pictures=tuple(answerer.prompting.pictures(prompt)))
    inputs = {
        "input_ids": torch.tensor(row.ids[None].astype("int64")),
        **answerer.prompting.pixels([shown], torch.float32),
    }
    with torch.no_grad():
        likeliest = int(answerer.loaded.model(**inputs).logits[0, -1].argmax())
    assert answerer.answer([prompt], max_tokens=1) == [Answer(answerer.prompting.text([likeliest]))]


@pytest.fixture
def conversation(tiny):
    return Conversation(tiny / "model")


def test_a_conversation_goes_on_with_its_history_and_its_pictures(conversation, answerer):
    conversation.show(picture(1))
    first = conversation.ask("what color is it?", max_tokens=4)
    assert first == answerer.answer([question("what color is it?", (picture(1),))], max_tokens=4)[0].text
    conversation.show(picture(2))
    second = conversation.ask("is it red?", max_tokens=4)
    asked, again = question("what color is it?", (picture(1),)), question("is it red?", (picture(2),))
    said = {"role": "assistant", "content": [{"type": "text", "text": first}]}
    whole = Prompt([*asked.messages, said, *again.messages], (picture(1), picture(2)))
    assert second == answerer.answer([whole], max_tokens=4)[0].text
    conversation.forget()
    text_only = answerer.answer([question("is it red?")], max_tokens=4)[0].text
    assert conversation.ask("is it red?", max_tokens=4) == text_only


def test_what_goes_wrong_is_reported_and_leaves_the_conversation_as_it_was(conversation, tmp_path):
    conversation.show(picture(1))
    expected = conversation.ask("is it red?", max_tokens=4)
    conversation.forget()
    with pytest.raises(InputError, match=r"none\.png: no such image file"):
        conversation.show(tmp_path / "none.png")
    with pytest.raises(InputError, match="letter: picture of 5 bytes cannot be decoded"):
        conversation.show(b"hello", "letter")
    conversation.show(picture(1))
    with pytest.raises(InputError, match="Shorten it"):
        conversation.ask("is it red? " * 200)
    assert conversation.ask("is it red?", max_tokens=4) == expected


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


def questions_file(folder, rows):
    path = folder / "q.jsonl"
    path.write_text("".join(json.dumps({"question_id": number, **row}) + "\n" for number, row in enumerate(rows)))
    return path


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


def test_pictures_stand_where_the_text_shows_them(answerer):
    images = (picture(1), picture(2))
    first = question("is it red?", images)
    assert first.messages == question("<image>\n<image>\nis it red?", images).messages[:0] + first.messages
    inside = question("this <image> or that <image>?", images)
    kinds = [part["type"] for part in inside.messages[0]["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]
    assert [part["type"] for part in question("say <image>").messages[0]["content"]] == ["text"]
    one, two = question("<image>\nis it red?", images[:1]), question("is it red?", images[:1])
    assert (answerer.prompting.row(0, one, {}).ids == answerer.prompting.row(0, two, {}).ids).all()
    assert question("<image>?", images).refused.status == "bad_question"


def test_several_processes_answer_alike_and_in_order(tiny, tmp_path, monkeypatch):
    rows = [{"text": f"is it {color}? {number}"} for number, color in enumerate(["red", "blue", "gray"] * 4)]
    path = questions_file(tmp_path, rows)
    for processes in (1, 2):
        answer_file(tiny / "model", path, tmp_path / f"{processes}.jsonl", max_tokens=4, processes=processes)
    assert (tmp_path / "1.jsonl").read_bytes() == (tmp_path / "2.jsonl").read_bytes()


def test_a_batch_that_does_not_fit_the_memory_is_halved(tiny, monkeypatch):
    answerer, sizes = Answerer(tiny / "model", device="cpu"), []
    whole = answerer._generated

    def generated(rows, max_tokens):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no room")
        return whole(rows, max_tokens)

    prompts = [question(f"is it red? {number}") for number in range(20)]
    expected = answerer.answer(prompts, max_tokens=2)
    monkeypatch.setattr(answerer, "_generated", generated)
    assert answerer.answer(prompts, max_tokens=2) == expected
    assert sizes[:4] == [20, 10, 5, 3] and max(sizes[4:]) <= 10
    sizes.clear()
    assert answerer.answer(prompts, max_tokens=2) == expected
    assert max(sizes) <= 3


def test_the_default_batch_is_what_the_memory_holds(monkeypatch):
    text = {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 11008}
    # Keys and values of Llama-2-7B in bf16: 2 x 32 layers x 4096 x 2 bytes, 512 KiB per token.
    assert cache_bytes(text, 2) == 512 << 10
    assert cache_bytes({**text, "num_key_value_heads": 8}, 2) == 128 << 10
    batches = Batches(text, 2, torch.device("cpu"))
    monkeypatch.setattr(batches, "_free", lambda: 64 << 30)
    fitting = batches.size([100] * 300, 540, None)
    assert fitting * 640 * batches.token_bytes <= 16 << 30 < (fitting + 1) * 640 * batches.token_bytes
    assert batches.size([100] * 300, 540, 1000) == 256
    assert batches.size([10**6], 1, None) == 1
    assert batches.size([1] * 5, 1, None) == 5


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


def test_score_counts_per_kind_beside_the_best_constant():
    asked = [Asked((), "q", answer, kind) for answer, kind in [("Yes", "y"), ("yes", "y"), ("no", "y"), ("red", "c")]]
    result = score(asked, ["yes", "no", " No. ", "blue"])
    assert (result["accuracy"], result["constant_baseline"]) == (0.5, 0.75)
    assert result["kinds"]["y"] == {
        "questions": 3,
        "accuracy": 0.6667,
        "constant_baseline": 0.6667,
        "constant_answer": "yes",
    }
    assert plain("  A  Cat. ") == "a cat"


def test_a_row_of_several_pictures_is_asked_about_them_all(tiny, reader, tmp_path):
    write_mix(tmp_path / "two", [sample_row(0, reader, "mistral", images=2)], reader)
    (first, *_) = questions_of(tmp_path / "two")
    assert len(first.images) == 2
    assert "not_asked" not in evaluate(tiny / "model", tmp_path / "two", max_tokens=4)


def test_a_turn_is_about_the_pictures_that_it_shows(tmp_path):
    turns = ["<image>\none?", "1", "still?", "yes", "<image>\ntwo?", "2", "both?", "yes"]
    speakers = ["human", "gpt"] * 4
    row = {"image": ["a.png", "b.png"]}
    row["conversations"] = [{"from": s, "value": t} for s, t in zip(speakers, turns, strict=True)]
    for name in row["image"]:
        (tmp_path / name).write_bytes(picture(1))
    (tmp_path / "q.json").write_text(json.dumps([row]))
    found = [[path.name for path in one.images] for one in questions_of(tmp_path / "q.json")]
    assert found == [["a.png"], ["a.png"], ["b.png"], ["a.png", "b.png"]]


def test_questions_that_cannot_be_asked_count_as_wrong_and_are_named(tiny, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    rows = [{"text": "red?", "answer": "no", "image": name} for name in ("a.png", "bad.png", "none.png")]
    rows += [{"text": "red? " * 400, "answer": "no"}, {"nothing": 1}]
    result = evaluate(tiny / "model", questions_file(tmp_path, rows), max_tokens=4)
    counts = {name: count for name, count in result["not_asked"].items() if name != "first"}
    assert counts == {"bad_picture": 1, "bad_question": 1, "no_picture": 1, "too_long": 1}
    assert result["questions"] == 5 and result["accuracy"] <= 0.2
    with pytest.raises(InputError, match="none of 1 questions can be asked"):
        evaluate(tiny / "model", questions_file(tmp_path, rows[1:2]), max_tokens=4)


def test_an_answer_may_come_after_its_reasons(tiny, monkeypatch):
    """ScienceQA's recipe trains reasons first: more than a few tokens must be read."""
    given = {}
    monkeypatch.setattr(
        Answerer, "answer", lambda self, prompts, most, *_: given.setdefault("most", most) and [Answer("A")]
    )
    evaluate(tiny / "model", [Asked((), "q", "Because. The answer is A.", "sqa")])
    assert given["most"] >= 512


def test_every_turn_of_a_mix_is_a_question(tiny, mix):
    result = evaluate(tiny / "model", mix, max_tokens=4)
    assert result["questions"] == 36
    assert list(result["kinds"]) == ["test"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        (" B. ", "B"),
        ("B. the red one", "B"),
        ("It shines, so the answer is D. Because", "D"),
        ("The answer is (A).", "A"),
        ("A cat", None),
        ("Both", None),
        ("b", None),
        ("", None),
    ],
)
def test_an_option_is_known_by_its_letter(text, letter):
    assert choice(text) == letter


def test_letters_are_compared_where_the_answer_is_one():
    asked = [Asked((), "q", "The answer is B.", "sqa")] * 3 + [Asked((), "q", "A cat", "vqa")]
    result = score(asked, ["B. the red one", "The answer is A.", "blue", "A. A cat"])
    assert (result["kinds"]["sqa"]["accuracy"], result["kinds"]["sqa"]["constant_answer"]) == (0.3333, "B")
    assert result["kinds"]["vqa"]["accuracy"] == 0


SCIENCE = [
    {"id": "1", "conversations": [{"from": "human", "value": "Which? Options: (A) red (B) blue"}]},
    {"id": "2", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhich? (A) red (B) blue"}]},
]


def test_rows_of_llava_and_lines_with_answers_are_questions(tiny, tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1))
    rows = [
        {**row, "conversations": [*row["conversations"], {"from": "gpt", "value": "The answer is A."}]}
        for row in SCIENCE
    ]
    (tmp_path / "sqa.json").write_text(json.dumps(rows))
    found = list(questions_of(tmp_path / "sqa.json"))
    assert [(one.images, one.question) for one in found] == [
        ((), "Which? Options: (A) red (B) blue"),
        ((tmp_path / "a.png",), "<image>\nWhich? (A) red (B) blue"),
    ]
    lines = [
        {"text": "is it red?", "answer": "no", "image": "a.png", "category": "yes/no"},
        {"text": "q", "answer": "B"},
    ]
    (tmp_path / "vqa.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [one.kind for one in questions_of(tmp_path / "vqa.jsonl")] == ["yes/no", "all"]
    assert evaluate(tiny / "model", tmp_path / "sqa.json")["questions"] == 2
    assert list(evaluate(tiny / "model", tmp_path / "vqa.jsonl", images=tmp_path)["kinds"]) == ["all", "yes/no"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"text": "a"}]', "expected `conversations`"),
        ("{", "not valid JSON"),
        ('{"a": 1}', "expected `conversations`"),
        ("[3]", "expected an object"),
        ('[{"text": "a", "answer": "b", "image": "no.png"}]', "no such image file"),
        ("[]", "no question"),
    ],
)
def test_bad_evaluation_files_are_reported(tiny, tmp_path, text, words):
    (tmp_path / "q.json").write_text(text)
    with pytest.raises(InputError, match=words):
        evaluate(tiny / "model", tmp_path / "q.json")


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
