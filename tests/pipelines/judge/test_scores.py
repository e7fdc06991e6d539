"""What the judge is asked, in which order, and what its scores together give away."""

import json
import re
from collections import Counter

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from pipelines.judge.scores import AXES, FEWEST, doubt_about, in_order_of, schema_of
from pipelines.llm.prompts import load_prompt
from schemas.records import CONVERSATIONS, IMAGES
from schemas.writing import write_dataset
from tests.pipelines.llm.faulty import FaultyServer

PICTURES = [{"key": f"p{number}", "captions": [f"Picture number {number}."]} for number in range(6)]


def names(key):
    return [axis["name"] for axis in in_order_of(key)]


def test_the_prompt_shows_no_score_to_copy():
    text = load_prompt("judge").messages({"turns": [], "axes": in_order_of("k")})[0].text
    assert re.findall(r'["\w]"?:\s*\d', text) == []
    assert re.findall(r"\d", text) == ["5", "4", "3", "2", "1", "1", "5"]


def test_the_order_of_the_axes_belongs_to_the_key():
    assert names("a/detail") == names("a/detail")
    assert all(sorted(names(f"k{number}")) == sorted(AXES) for number in range(50))
    firsts = Counter(names(f"k{number}")[0] for number in range(1000))
    assert min(firsts.values()) > 200


def test_prompt_and_schema_have_the_same_order():
    axes = in_order_of("b/detail")
    text = load_prompt("judge").messages({"turns": [], "axes": axes})[0].text
    assert re.findall(r"^- (\w+):", text, re.M) == names("b/detail")
    assert [*schema_of(axes).schema["properties"]] == ["reason", *names("b/detail")]


def scored(tmp_path, rows):
    table = pa.Table.from_pylist([{"key": f"k{number}", **row} for number, row in enumerate(rows)])
    return write_dataset(tmp_path / "talks", "conversations", [table], {})


def scores(status="ok", **values):
    return {**{f"judge_{axis}": values.get(axis) for axis in AXES}, "judge_status": status}


SAME = scores(relevance=4, accuracy=2, completeness=3, language=5)


@pytest.mark.parametrize(
    ("rows", "doubted"),
    [
        ([SAME] * FEWEST, True),
        ([SAME] * (FEWEST - 1), False),
        ([SAME] * FEWEST + [{**SAME, "judge_language": 4}], False),
        ([SAME] * FEWEST + [scores("wrong_schema")], True),
        ([scores("not_asked")] * FEWEST, False),
        ([], False),
    ],
)
def test_equal_scores_are_doubted(tmp_path, rows, doubted):
    columns = {f"judge_{axis}": pa.int8() for axis in AXES}
    fields = [pa.field("key", pa.string()), *(pa.field(*one) for one in columns.items())]
    schema = pa.schema([*fields, pa.field("judge_status", pa.string())])
    table = pa.Table.from_pylist([{"key": f"k{number}", **row} for number, row in enumerate(rows)], schema)
    dataset = write_dataset(tmp_path / "talks", "conversations", [table], {})
    assert bool(doubt_about(dataset)) is doubted
    if doubted:
        assert "relevance 4, accuracy 2, completeness 3, language 5" in doubt_about(dataset)


def test_the_same_numbers_in_the_same_places_are_doubted(tmp_path):
    rows = [
        {f"judge_{name}": score for name, score in zip(names(f"k{number}"), (4, 2, 3, 5), strict=True)}
        for number in range(10)
    ]
    dataset = scored(tmp_path, [{**row, "judge_status": "ok"} for row in rows])
    assert "by the place of the axis in the question (4, 2, 3, 5)" in doubt_about(dataset)


class Copyist(FaultyServer):
    """A judge that gives everything the same scores."""

    async def respond(self, request, body, answer):
        content = json.dumps({"reason": "Fine.", **dict.fromkeys(AXES, 4)})
        answer["choices"][0]["message"]["content"] = content
        return await super().respond(request, body, answer)


def test_the_command_says_so_and_ends_with_a_code_of_its_own(tmp_path):
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist(PICTURES, IMAGES)], {})
    turn = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "?"), ("assistant", "A."))
    ]
    rows = [
        {"key": f"p{number}/detail", "image_keys": [f"p{number}"], "messages": turn, "status": "ok"}
        for number in range(6)
    ]
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(rows, CONVERSATIONS)], {})
    with Copyist() as server:
        words = ["judge", str(tmp_path / "talks"), "--images", str(tmp_path / "images"), "--model", "m"]
        words += ["--provider", "test", "--base-url", server.base_url, "--cache", str(tmp_path / "cache")]
        done = CliRunner().invoke(app, words)
        again = CliRunner().invoke(app, [*words, "--json"])
    assert (done.exit_code, again.exit_code) == (5, 5)
    assert "judge: all 6 conversations have the same scores (relevance 4, accuracy 4" in done.stderr
    assert json.loads(again.stdout)[0]["doubt"].startswith("all 6 conversations")
