"""`lavabeam chat ADDRESS`: as with a folder, by what somebody serves."""

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.serving.client import server_address
from lavabeam.serving.conversation import ServedConversation
from schemas.errors import InputError
from tests.lavabeam.serving.stub import Stub, serving
from tests.pictures import colour, encoded


@pytest.fixture
def stub():
    with serving(Stub()) as made:
        made.models = {"stage2": lambda body: ["a ", "circle"]}
        yield made


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(colour()))
    return str(path)


def chat(*words, typed=None):
    return CliRunner().invoke(app, ["chat", *words], input=typed)


def test_one_question_is_answered_greedily(stub, picture):
    done = chat(stub.address, picture, "What is this?", "--max-tokens", "9")
    assert (done.exit_code, done.stdout) == (0, "a circle\n")
    (body,) = stub.asked
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("stage2", 0, 9)
    shown, question = body["messages"][0]["content"]
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert question["text"] == "What is this?"


def test_a_conversation_goes_on_after_an_error_and_starts_over(stub, picture):
    answers = iter((["a ", "circle"], "the prompt has 600 tokens.", ["blue"], ["new"]))
    stub.models["stage2"] = lambda body: next(answers)
    lines = ["What is this?", "And?", "Which colour?", "/image nowhere.png", "/new", "Hello", "/quit"]
    done = chat(stub.address, picture, typed="\n".join(lines))
    assert [words in done.stdout for words in ("a circle", "blue", "new")] == [True] * 3
    assert "the prompt has 600 tokens." in done.stderr
    assert "nowhere.png: no such image file" in done.stderr
    turns = [[message["role"] for message in body["messages"]] for body in stub.asked]
    assert turns == [["user"], ["user", "assistant", "user"], ["user", "assistant", "user"], ["user"]]
    pictures = [str(body["messages"]).count("data:image/png") for body in stub.asked]
    assert pictures == [1, 1, 1, 0]


def test_the_model_is_named_where_there_are_several(stub):
    stub.models["stage1"] = lambda body: ["one"]
    with pytest.raises(InputError, match=r"serves 2 models: stage2, stage1. Name one with --model"):
        ServedConversation(stub.address)
    with pytest.raises(InputError, match=r"has no model 'stage3'. Models: stage2, stage1."):
        ServedConversation(stub.address, "stage3")
    assert chat(f"{stub.address}/v1", "--model", "stage1", typed="Hi\n/quit\n").exit_code == 0
    assert stub.asked[-1]["model"] == "stage1"


def test_what_does_not_go_together_is_refused(stub, tmp_path):
    assert "--template is chosen by the server" in chat(stub.address, "--template", "v1").output
    assert "--load is chosen by the server" in chat(stub.address, "--load", "4bit").output
    assert "--model names a model at an ADDRESS" in chat(str(tmp_path), "--model", "x").output
    (tmp_path / "no.png").write_text("<html>")
    error = chat(stub.address, str(tmp_path / "no.png"), "What?").exception
    assert "not_image" in str(error) and stub.asked == []


def test_what_answers_otherwise_is_one_line(stub):
    with pytest.raises(InputError, match=r"http://127\.0\.0\.1:9 cannot be reached"):
        ServedConversation("http://127.0.0.1:9")
    stub.closed = "the key is wrong."
    with pytest.raises(InputError, match="the key is wrong"):
        ServedConversation(stub.address)
    stub.closed, stub.models = "", {"stage2": lambda body: ["half"]}
    stub.cut = {"stage2"}
    with pytest.raises(InputError, match="stage2: the answer was cut off"):
        ServedConversation(stub.address).ask("What?", 9)


@pytest.mark.parametrize("written", ["http://h:8000", "http://h:8000/", "http://h:8000/v1", " http://h:8000/v1/ "])
def test_an_address_is_written_in_several_ways(written):
    assert server_address(written) == "http://h:8000"
