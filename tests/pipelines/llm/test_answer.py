import json

import pytest

from pipelines.llm.answer import AnswerStatus, ErrorResponse, MalformedResponse, Usage, read_response


def response(**changes):
    message = {"role": "assistant", "content": "Hello."}
    usage = {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
    whole = {"id": "r1", "choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
    return json.dumps({**whole, **changes})


def choice(finish_reason="stop", **message):
    return [{"message": {"role": "assistant", "content": "Hello.", **message}, "finish_reason": finish_reason}]


def test_text_id_and_usage_are_read():
    answer = read_response(response())
    assert (answer.status, answer.text, answer.request_id) == (AnswerStatus.ok, "Hello.", "r1")
    assert answer.usage == Usage(input=12, output=3, cached_input=8)
    assert answer.cost is None


@pytest.mark.parametrize(
    ("choices", "status"),
    [
        (choice("length"), AnswerStatus.truncated),
        (choice("content_filter"), AnswerStatus.content_policy),
        (choice(refusal="I will not."), AnswerStatus.refused),
        (choice("tool_calls"), AnswerStatus.ok),
    ],
)
def test_the_finish_reason_decides_the_status(choices, status):
    assert read_response(response(choices=choices)).status is status


def test_missing_usage_is_no_usage():
    for usage in [None, {}, {"prompt_tokens": "12", "completion_tokens": 3}, {"prompt_tokens": -1}]:
        assert read_response(response(usage=usage)).usage is None


def test_no_content_is_an_empty_text():
    assert read_response(response(choices=choice(content=None))).text == ""


@pytest.mark.parametrize(
    "raw",
    [
        "<html>",
        "[]",
        '"text"',
        response(choices=[]),
        response(choices=None),
        response(choices=[{}]),
        response(choices=[{"message": "x"}]),
        response(choices=choice(content=[{"type": "text"}])),
    ],
)
def test_what_is_no_completion_is_refused_with_what_was_found(raw):
    with pytest.raises(MalformedResponse, match=r"the reply|content is not text"):
        read_response(raw)


def test_usage_of_a_reply_without_choices_is_kept():
    with pytest.raises(MalformedResponse) as caught:
        read_response(response(choices=[]))
    assert caught.value.usage == Usage(12, 3, 8)


def test_an_answer_without_an_id_is_an_answer():
    answer = read_response(response(id=None))
    assert (answer.request_id, answer.text, answer.received) == (None, "Hello.", True)


def test_content_in_parts_is_joined():
    parts = [{"type": "reasoning"}, {"type": "text", "text": "Hel"}, {"type": "text", "text": "lo."}]
    assert read_response(response(choices=choice(content=parts))).text == "Hello."


def test_half_a_character_is_replaced_because_no_column_takes_it():
    answer = read_response(response(id="r\ud83d", choices=choice(content="Hi \ud83d!")))
    assert (answer.request_id, answer.text) == ("r\ufffd", "Hi \ufffd!")
    assert read_response(response(choices=choice(content="Hi \U0001f600!"))).text == "Hi \U0001f600!"


@pytest.mark.parametrize(
    ("reported", "usage"),
    [
        ({"prompt_tokens": 12.0, "completion_tokens": 3.0}, Usage(12, 3)),
        # thoughts that only the total counts
        ({"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 115}, Usage(12, 103)),
        ({"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 0}, Usage(12, 3)),
        # more than was sent cannot have been cached
        (
            {"prompt_tokens": 12, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(12, 3, 12),
        ),
        ({"prompt_tokens": 10**20, "completion_tokens": 3}, None),
        ({"prompt_tokens": float("nan"), "completion_tokens": 3}, None),
    ],
)
def test_usage_in_the_forms_that_servers_tell_it(reported, usage):
    assert read_response(response(usage=reported)).usage == usage


def test_a_text_that_the_server_broke_off_is_no_answer():
    with pytest.raises(MalformedResponse, match=r"aborted the answer \(error\)") as caught:
        read_response(response(choices=choice("error")))
    assert caught.value.usage is not None


@pytest.mark.parametrize(
    ("error", "reported", "status"),
    [
        ({"message": "slow down", "code": 429}, "429 slow down", 429),
        ({"message": "no such key", "code": "401"}, "401 no such key", 401),
        ({"message": "slow down", "code": "rate_limit"}, "rate_limit slow down", None),
        ("slow\n down", "slow down", None),
        ({"message": "odd", "code": 7}, "7 odd", None),
    ],
)
def test_an_error_with_status_200_is_the_error_that_it_tells(error, reported, status):
    with pytest.raises(ErrorResponse) as caught:
        read_response(json.dumps({"error": error}))
    assert (caught.value.reported, caught.value.status) == (reported, status)


def test_brackets_without_end_are_a_reason_too():
    with pytest.raises(MalformedResponse, match="not JSON"):
        read_response("[" * 200_000)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>\nA question: what?\n</think>\n\nA cat.", "A cat."),
        ("The user wants a cat.\n</think>\nA cat.", "A cat."),
        ("<think>\nI wonder", ""),
        ("A cat thinks.", "A cat thinks."),
    ],
)
def test_thoughts_are_no_part_of_the_answer(content, text):
    assert read_response(response(choices=choice(content=content))).text == text
