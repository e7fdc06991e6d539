"""The scripted teacher speaks the protocol of the official client, and says only what the request contains."""

import json

import openai
import pytest

from lavabeam.demo.teacher import MODEL, Teacher, complete
from lavabeam.demo.teacher_rules import compose

SCENE = """Captions:
- a dog chases two cats
Objects (left, top, right, bottom as fractions of the width and height):
- dog: 0.100, 0.200, 0.300, 0.400
- cat: 0.600, 0.700, 0.800, 0.900
- cat: 0.700, 0.100, 0.900, 0.200

Task: """
SHAPE = "Facts:\n- color: teal\n- shape: triangle\n\nTask: "


def test_the_official_client_understands_it():
    with Teacher() as teacher:
        client = openai.OpenAI(base_url=teacher.base_url, api_key="none", max_retries=0)
        messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": SHAPE + "describe"}]
        answers = [client.chat.completions.create(model=MODEL, messages=messages) for _ in range(2)]
        assert client.models.list().data[0].id == MODEL
    assert "teal triangle" in answers[0].choices[0].message.content
    assert answers[0].model_dump() == answers[1].model_dump()
    assert answers[0].usage.total_tokens == answers[0].usage.prompt_tokens + answers[0].usage.completion_tokens
    assert [entry["id"] for entry in teacher.requests] == [answers[0].id] * 2


def test_a_wrong_request_gets_an_error_and_no_answer():
    with Teacher() as teacher:
        client = openai.OpenAI(base_url=teacher.base_url, api_key="none", max_retries=0)
        with pytest.raises(openai.BadRequestError, match="no chat request"):
            client.chat.completions.create(model=MODEL, messages=[])
        assert teacher.requests == []


def test_the_log_has_one_line_per_answer(tmp_path):
    with Teacher(log=tmp_path / "log.jsonl") as teacher:
        client = openai.OpenAI(base_url=teacher.base_url, api_key="none", max_retries=0)
        for task in ("describe", "detail"):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": SCENE + task}])
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == teacher.requests
    assert len({line["id"] for line in lines}) == 2


def test_a_busy_teacher_says_so():
    with Teacher(busy_share=1.0) as teacher:
        client = openai.OpenAI(base_url=teacher.base_url, api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
        assert (teacher.busy, teacher.requests) == (1, [])


def test_pictures_are_accepted_and_not_looked_at():
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": [image, {"type": "text", "text": "Task: caption"}]}],
    }
    assert complete(body)["choices"][0]["message"]["content"] == "It is a picture."


def test_the_output_limit_cuts():
    body = {"model": MODEL, "messages": [{"role": "user", "content": SCENE + "detail"}], "max_tokens": 3}
    answer = complete(body)
    assert answer["choices"][0] == {
        "index": 0,
        "message": {"role": "assistant", "content": "A dog chases"},
        "finish_reason": "length",
    }
    assert answer["usage"]["completion_tokens"] == 3


def test_a_conversation_uses_captions_and_facts():
    answer = compose(SCENE + "conversation")
    assert answer.startswith("Question: What does the picture show?\nAnswer: A dog chases two cats.\n\nQuestion: ")
    answer = compose(SHAPE + "conversation")
    assert "Question: What color is the triangle?\nAnswer: The triangle is teal." in answer
    assert "Question: What shape is shown?\nAnswer: It is a triangle." in answer


def test_a_description_counts_and_places_things():
    assert compose(SCENE + "detail").startswith(
        "A dog chases two cats. There is a dog on the left, at the top. "
        "There are two cats, the first of them on the right, at the bottom."
    )


def test_a_description_is_long_enough_to_be_one():
    assert len(compose("Captions:\n- Two cats.\n\nTask: detail").split()) >= 25


def test_reasoning_is_a_question_and_an_answer():
    answer = compose(SCENE + "reasoning")
    assert answer.startswith("Question: Why might the cat be important in this scene?\nAnswer: A dog chases two cats.")


def test_short_answers_are_json():
    pairs = json.loads(compose(SCENE + "short_answer"))["pairs"]
    assert {"question": "How many cats are there?", "answer": "2"} in pairs
    assert {"question": "Is there a dog in the picture?", "answer": "yes"} in pairs


def test_the_judge_prefers_what_uses_the_notes():
    talk = "\n\nConversation:\nuser: What?\nassistant: {}\n\nTask: judge"
    scene = SCENE.removesuffix("\n\nTask: ")
    good = json.loads(compose(scene + talk.format("A dog chases two cats.")))
    bad = json.loads(compose(scene + talk.format("It is a nice day.")))
    assert good["accuracy"] > bad["accuracy"] == 1
