import json

import pytest

from pipelines.llm.answer import AnswerStatus, MalformedResponse, Usage, read_response


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
    with pytest.raises(MalformedResponse, match=r"the reply|content is no text"):
        read_response(raw)


def test_usage_of_a_reply_without_choices_is_kept():
    with pytest.raises(MalformedResponse) as caught:
        read_response(response(choices=[]))
    assert caught.value.usage == Usage(12, 3, 8)
