"""ShareGPT: who speaks, what Vicuna's scripts leave out, and a status with a reason for what they would not take."""

import pytest

from pipelines.importers.families.sharegpt import ShareGpt, ShareGptConfig
from tests.families import imported, talk, written


def turns(*speakers, text="text {}"):
    return [{"from": speaker, "value": text.format(number)} for number, speaker in enumerate(speakers)]


def sharegpt(folder, *rows, **config):
    content = [{"id": f"QWJhYvA_{number}", "conversations": row} for number, row in enumerate(rows)]
    return ShareGpt(ShareGptConfig(path=written(folder, "sharegpt.json", content), **config))


def test_rows_keep_ids_and_have_no_picture(tmp_path):
    (row,) = imported(sharegpt(tmp_path, turns("human", "gpt")))
    assert (row["key"], row["source"], row["image_keys"]) == ("000000000/QWJhYvA_0", "sharegpt", [])
    assert (row["status"], row["detail"], talk(row)) == ("ok", None, ["text 0", "text 1"])


@pytest.mark.parametrize("speaker", ["gpt", "chatgpt", "bing", "bard", "assistant"])
def test_speakers_of_raw_dumps(tmp_path, speaker):
    (row,) = imported(sharegpt(tmp_path, turns("user", speaker, "human", speaker)))
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2


@pytest.mark.parametrize(
    ("speakers", "config", "kept", "detail"),
    [
        (("system", "human", "gpt"), {}, [1, 2], "left out: the first turn (from system)"),
        (("system", "human", "gpt"), {"keep_system": True}, [0, 1, 2], None),
        (("gpt", "human", "gpt"), {}, [1, 2], "left out: the first turn (from gpt)"),
        (("human", "gpt", "human"), {}, [0, 1], "left out: the last question, which has no answer"),
        (
            ("gpt", "human", "gpt", "human"),
            {},
            [1, 2],
            "left out: the first turn (from gpt) and the last question, which has no answer",
        ),
    ],
)
def test_turns_that_are_left_out_are_named(tmp_path, speakers, config, kept, detail):
    (row,) = imported(sharegpt(tmp_path, turns(*speakers), **config))
    assert (row["status"], row["detail"]) == ("ok", detail)
    assert talk(row) == [f"text {number}" for number in kept]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ([], "fewer than two turns"),
        (turns("human"), "fewer than two turns"),
        (turns("gpt", "human"), "fewer than two turns"),
        (turns("human", "human", "gpt"), "turn 1 is from human; expected gpt"),
        (turns("gpt", "gpt", "human", "gpt"), "turn 0 is from gpt; expected human"),
        (turns("human", "system", "human", "gpt"), "turn 1 is from system; expected gpt"),
        (turns("human", "dog"), "turn 1 is from 'dog'; expected one of system, human, user, gpt"),
        (turns("human", "gpt", text=" \n"), "turn 0 is empty"),
        (turns("human", "gpt", text='<div class="markdown prose">Hi</div>'), "turn 0 is HTML"),
        (turns("human", "gpt", text="List:\n1. a\n1. b"), "numbered list that begins again"),
        ([{"from": "human", "value": 3}], "turn 0 is {'from': 'human', 'value': 3}"),
        ("Hello", "`conversations` is str"),
        (turns("human", "gpt", text="See <image>"), "<image> is in its text"),
    ],
)
def test_invalid_conversations_keep_their_row(tmp_path, row, reason):
    first, second = imported(sharegpt(tmp_path, row, turns("human", "gpt")))
    assert (first["key"], first["status"], first["messages"]) == ("000000000/QWJhYvA_0", "bad_conversation", None)
    assert first["detail"].startswith("row 0: ")
    assert reason in first["detail"]
    assert second["status"] == "ok"


def test_a_numbered_list_may_follow_another(tmp_path):
    (row,) = imported(sharegpt(tmp_path, turns("human", "gpt", text="\n1. a\n2. b\n\n1. c\n2. d")))
    assert row["status"] == "ok"


def test_words_may_be_blocked(tmp_path):
    row = turns("human", "gpt", text="I am ChatGPT.")
    assert imported(sharegpt(tmp_path, row))[0]["status"] == "ok"
    (refused,) = imported(sharegpt(tmp_path, row, blocked=("openai", "chatgpt")))
    assert refused["detail"] == "row 0: turn 0 has the word 'chatgpt'"


def test_pictures_belong_elsewhere(tmp_path):
    content = [{"id": "a", "image": "coco/1.jpg", "conversations": turns("human", "gpt")}]
    (row,) = imported(ShareGpt(ShareGptConfig(path=written(tmp_path, "mixed.json", content))))
    assert row["status"] == "bad_conversation"
    assert "import it with llava_json" in row["detail"]
