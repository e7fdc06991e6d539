import asyncio
import json

import pytest

from pipelines.llm.answer import Answer, AnswerStatus, Usage
from pipelines.llm.client import LlmClient
from pipelines.llm.reading.parsers import PAIRS_SCHEMA, QuestionAnswers, parse_json
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig
from pipelines.llm.structured import ask_for
from tests.pipelines.llm.faulty import OK, FaultyServer

REQUEST = ChatRequest("p", "m", (Message("user", "u"),), 50, schema=PAIRS_SCHEMA)
GOOD = json.dumps({"pairs": [{"question": "q?", "answer": "a"}]})


class Scripted:
    """A client that gives the next of its texts, and keeps what it was asked."""

    def __init__(self, *texts):
        self.texts, self.asked = list(texts), []

    async def ask(self, request):
        self.asked.append(request)
        text = self.texts.pop(0)
        if text is None:
            return Answer(AnswerStatus.unavailable, detail="down")
        return Answer(AnswerStatus.ok, text, f"r{len(self.asked)}", Usage(10, 5), cost=0.25)


def read(text):
    return QuestionAnswers.model_validate(parse_json(text)).pairs[0].answer


def run(client, repairs):
    return asyncio.run(ask_for(client, REQUEST, read, repairs))


def test_a_good_answer_takes_one_round():
    result = run(Scripted(f"Here you are:\n```json\n{GOOD}\n```"), 2)
    assert (result.value, result.problem, result.answer.cost) == ("a", None, 0.25)


def test_a_wrong_answer_goes_back_with_what_is_wrong_and_all_rounds_are_counted():
    client = Scripted('{"pairs": [{"question": "q?"}]}', "no json", GOOD)
    result = run(client, 2)
    assert result.value == "a"
    assert (result.answer.usage, result.answer.cost) == (Usage(30, 15), 0.75)
    assert "pairs.0.answer: Field required" in client.asked[1].messages[-1].text
    assert [message.role for message in client.asked[2].messages] == ["user", "assistant", "user", "assistant", "user"]


def test_the_repairs_are_bounded():
    client = Scripted("no", "no", "no")
    result = run(client, 1)
    assert (result.value, result.problem, len(client.asked)) == (None, "no JSON in: 'no'", 2)


def test_a_failure_between_ends_it():
    result = run(Scripted("no", None), 3)
    assert (result.answer.status, result.value) == (AnswerStatus.unavailable, None)
    assert result.answer.usage == Usage(10, 5)


@pytest.mark.parametrize("structured", ["auto", "json_schema"])
def test_a_server_without_schemas_is_asked_in_words(structured, tmp_path):
    with FaultyServer() as server:
        server.script = lambda question, arrival: "no_schemas" if "response_format" in server.bodies[-1] else OK
        config = EndpointConfig(
            model="m", provider="p", base_url=server.base_url, cache=str(tmp_path), structured=structured
        )

        async def ask():
            client = LlmClient(config, "b")
            answers = [await client.ask(REQUEST.with_turns(Message("user", text))) for text in ("one", "two")]
            await client.close()
            return answers

        answers = asyncio.run(ask())
        if structured == "auto":
            assert [answer.ok for answer in answers] == [True, True]
            assert ["response_format" in body for body in server.bodies] == [True, False, False]
        else:
            assert [answer.status for answer in answers] == [AnswerStatus.bad_request] * 2
