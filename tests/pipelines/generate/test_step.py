"""From an `images` dataset to a `conversations` dataset, through Beam and real HTTP."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from lavabeam.demo.teacher import Teacher
from pipelines.engine.progress import LIVE, Progress
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_derive
from pipelines.generate import Generate, GenerateConfig
from pipelines.generate.step import samples_wanted
from schemas import Dataset
from schemas.config import parse
from schemas.errors import InputError
from schemas.records import IMAGE, IMAGES
from schemas.store import Store
from schemas.writing import write_dataset
from tests.pipelines.download.images import jpeg
from tests.pipelines.llm.faulty import OK, FaultyServer

RUNNER = Runner("local", 2)
SCHEMA = IMAGES.append(pa.field("download_status", pa.string())).append(pa.field("dedupe_status", pa.string()))
SCHEMA = SCHEMA.append(pa.field("image", IMAGE))
TEAL = [{"name": "color", "value": "teal"}, {"name": "shape", "value": "circle"}]
DOG = {"label": "dog", "x0": 0.1, "y0": 0.2, "x1": 0.3, "y1": 0.4}


def row(key, **values):
    return {"key": key, "source": "shapes", "download_status": "ok", **values}


ROWS = [
    row("shape", facts=TEAL),
    row("photo", source="photos", captions=["A dog runs on the grass."], alt_text="my dog", boxes=[DOG]),
    row("gone", facts=TEAL, download_status="http_404"),
    row("copy", facts=TEAL, dedupe_status="copy"),
    row("unknown", source="photos"),
    row("other", source="elsewhere", captions=["A cat."]),
]
KINDS = [
    {"kind": "describe", "sources": ["shapes", "photos"]},
    *({"kind": kind, "sources": ["photos"]} for kind in ("conversation", "detail", "reasoning", "short_answer")),
]


@pytest.fixture
def images(tmp_path):
    """Two fragments of three rows."""
    tables = [pa.Table.from_pylist(ROWS[:3], SCHEMA), pa.Table.from_pylist(ROWS[3:], SCHEMA)]
    return write_dataset(tmp_path / "images", "images", tables, {})


def generate(server, images, target, retry="", **changes):
    folder = Path(target).parent
    values = {"model": "scripted-teacher", "provider": "test", "base_url": server.base_url, "kinds": KINDS}
    values |= {"cache": str(folder / "cache"), "temperature": 0, "timeout_s": 5}
    config = GenerateConfig(**{**values, **changes})
    summary = run_derive(Generate(config), folder / "images", target, RUNNER, retry)
    return summary, Dataset.open(target)


def rows_of(dataset):
    return [one for fragment in dataset.fragments for one in fragment.read(None).to_pylist()]


def test_every_row_becomes_conversations_or_a_reason(images, tmp_path):
    with Teacher() as teacher:
        summary, talks = generate(teacher, images, tmp_path / "talks")
    reported = {one["key"]: (one["status"], one["detail"]) for one in rows_of(talks)}
    assert reported == {
        "shape/describe": ("ok", None),
        "photo/describe": ("ok", None),
        "photo/conversation": ("ok", None),
        "photo/detail": ("ok", None),
        "photo/reasoning": ("ok", None),
        "photo/short_answer": ("ok", None),
        "gone": ("skipped_input", "download=http_404"),
        "copy": ("skipped_input", "duplicate"),
        "unknown/describe": ("no_context", "prompt describe needs captions or facts"),
        "unknown/conversation": ("no_context", "prompt conversation needs captions or facts"),
        "unknown/detail": ("no_context", "prompt detail needs captions or objects or facts"),
        "unknown/reasoning": ("no_context", "prompt reasoning needs captions or objects or facts"),
        "unknown/short_answer": ("no_context", "prompt short_answer needs captions or objects or facts"),
        "other": ("not_asked", "source 'elsewhere'"),
    }
    assert summary.statuses == {"ok": 6, "skipped_input": 2, "no_context": 5, "not_asked": 1}
    assert {key for one in rows_of(talks) for key in one["image_keys"]} == {one["key"] for one in ROWS}


def test_a_row_is_a_conversation_with_its_maker(images, tmp_path):
    with Teacher() as teacher:
        _, talks = generate(teacher, images, tmp_path / "talks")
        asked = {entry["id"]: entry for entry in teacher.requests}
    made = {one["key"]: one for one in rows_of(talks)}
    shape = made["shape/describe"]
    assert [message["role"] for message in shape["messages"]] == ["user", "assistant"]
    assert [part["type"] for part in shape["messages"][0]["content"]] == ["image", "text"]
    assert "teal circle" in shape["messages"][1]["content"][0]["text"]
    maker = shape["generator"]
    assert (maker["provider"], maker["model"]) == ("test", "scripted-teacher")
    assert (maker["prompt_id"], maker["prompt_version"], len(maker["prompt_hash"])) == ("describe", "1", 64)
    assert maker["parameters"] == '{"max_output_tokens": 1024, "temperature": 0.0}'
    assert maker["input_tokens"] == asked[maker["request_id"]]["prompt_tokens"]
    quiz = made["photo/short_answer"]["messages"]
    assert [part["type"] for message in quiz for part in message["content"]].count("image") == 1
    assert quiz[0]["content"][1]["text"] == (
        "Is there a dog in the picture?\nAnswer the question using a single word or phrase."
    )


def base_hashes(folder):
    return sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("base.*.arrow"))


def test_the_same_inputs_give_the_same_bytes_and_send_nothing(images, tmp_path):
    with Teacher() as teacher:
        generate(teacher, images, tmp_path / "talks", price={"input": 1.0, "output": 2.0})
        sent = len(teacher.requests)
        generate(teacher, images, tmp_path / "again", price={"input": 1.0, "output": 2.0})
        assert len(teacher.requests) == sent == 6
    assert base_hashes(tmp_path / "talks") == base_hashes(tmp_path / "again")


def test_a_changed_prompt_asks_again_for_its_own_kind_only(images, tmp_path):
    own = tmp_path / "detail.yaml"
    own.write_text((Path("pipelines/llm/prompts/detail.yaml")).read_text().replace("in full", "in short"))
    kinds = [*KINDS[:2], {"kind": "detail", "prompt": str(own), "sources": ["photos"]}, *KINDS[3:]]
    with Teacher() as teacher:
        generate(teacher, images, tmp_path / "talks")
        summary, _ = generate(teacher, images, tmp_path / "talks", kinds=kinds)
        assert summary.made == 2
        assert len(teacher.requests) == 7


def test_a_capped_run_ends_cleanly_and_goes_on_when_the_cap_is_raised(images, tmp_path):
    with Teacher() as teacher:
        capped, _ = generate(teacher, images, tmp_path / "talks", max_requests=2)
        assert (capped.statuses["ok"], capped.statuses["budget_exhausted"]) == (2, 4)
        same, _ = generate(teacher, images, tmp_path / "talks", max_requests=2)
        assert same.statuses == capped.statuses
        raised, _ = generate(teacher, images, tmp_path / "talks", max_requests=6)
        assert raised.statuses["ok"] == 6
        assert "budget_exhausted" not in raised.statuses
        assert len(teacher.requests) == 6


def test_bad_answers_stay_as_rows_and_are_asked_again_as_another_sample(images, tmp_path):
    with FaultyServer(lambda question, arrival: OK) as server:
        cut, _ = generate(server, images, tmp_path / "one", kinds=["describe"], max_output_tokens=2)
        assert cut.statuses == {"truncated": 3, "skipped_input": 2, "no_context": 1}
        _, talks = generate(server, images, tmp_path / "two", kinds=["describe"], max_output_tokens=2, samples=2)
        assert server.answered.total() == 6
    made = [one for one in rows_of(talks) if one["status"] == "truncated"]
    assert [one["key"] for one in made][:2] == ["shape/describe", "shape/describe~1"]
    assert '"seed": 1' in made[1]["generator"]["parameters"]
    assert made[0]["generator"]["output_tokens"] == 2


class SecondThoughts(FaultyServer):
    """Declines the first time; answers when asked for another sample."""

    async def respond(self, request, body, answer):
        if "seed" not in body:
            answer["choices"][0]["message"]["content"] = "I'm sorry, I cannot see pictures."
        return await super().respond(request, body, answer)


def test_retrying_a_rejected_answer_asks_for_another_sample_and_nothing_else(images, tmp_path):
    with SecondThoughts() as server:
        first, _ = generate(server, images, tmp_path / "talks", kinds=["describe"])
        assert first.statuses == {"refused": 3, "skipped_input": 2, "no_context": 1}
        other, _ = generate(server, images, tmp_path / "talks", retry="transient", kinds=["describe"])
        assert (other.made, len(server.requests)) == (0, 3)
        again, talks = generate(server, images, tmp_path / "talks", retry="refused", kinds=["describe"])
        assert again.statuses == {"ok": 3, "refused": 3, "skipped_input": 2, "no_context": 1}
        assert len(server.requests) == 6
        keys = [one["key"] for one in rows_of(talks) if one["status"] == "ok"]
        assert keys == ["shape/describe~1", "photo/describe~1", "other/describe~1"]
        # What the retry brought stays, whatever is retried next: nothing is forgotten, nothing asked.
        third, _ = generate(server, images, tmp_path / "talks", retry="refused,no_context", kinds=["describe"])
        assert (third.statuses, len(server.requests)) == (again.statuses, 6)


def test_samples_are_those_there_are_and_one_more_for_a_rejected_last_one():
    rows = [("a/d", "refused"), ("a/d~1", "ok"), ("b/d", "refused"), ("c/d", "unavailable"), ("d~x/d", "refused")]
    previous = pa.Table.from_pylist([{"key": key, "status": status} for key, status in rows])
    assert samples_wanted(previous, ["refused"]) == {"a/d": 2, "b/d": 2, "c/d": 1, "d~x/d": 2}
    assert samples_wanted(previous, ["unavailable"]) == {"a/d": 2, "b/d": 1, "c/d": 1, "d~x/d": 1}


def test_progress_counts_source_rows_however_many_are_made_of_them(images, tmp_path):
    with Teacher() as teacher:
        summary, talks = generate(teacher, images, tmp_path / "talks")
    assert talks.rows == 14
    done = LIVE.of(summary.run)
    assert (done.rows, sum(done.statuses.values())) == (6, 14)
    assert done.answers > 0
    elsewhere = Progress("generate", 6, Store(tmp_path / "talks"), summary.run, live=False)
    assert elsewhere.counts().rows == 6


def test_a_dead_server_leaves_a_reason_on_every_row(images, tmp_path):
    quick = {"attempts": 2, "base_s": 0.01}
    with FaultyServer(lambda question, arrival: "reset") as server:
        summary, talks = generate(server, images, tmp_path / "talks", patience=quick)
    assert summary.statuses["unavailable"] == 6
    assert all(one["detail"] for one in rows_of(talks) if one["status"] != "ok")


def test_a_picture_prompt_sends_the_picture(tmp_path):
    cut = jpeg()[:-40]
    rows = [row("a", image={"bytes": jpeg(), "path": None}), row("b"), row("c", image={"bytes": cut, "path": None})]
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist(rows, SCHEMA)], {})
    with FaultyServer() as server:
        summary, _ = generate(server, None, tmp_path / "talks", kinds=[{"kind": "detail", "prompt": "detail_image"}])
        assert summary.statuses == {"ok": 1, "no_context": 1, "skipped_input": 1}
        (body,) = server.bodies
    assert [part["type"] for part in body["messages"][-1]["content"]] == ["image_url", "text"]


def test_two_prompts_of_one_kind_make_rows_with_keys_of_their_own(tmp_path):
    rows = [row("a", captions=["A cat."], image={"bytes": jpeg(), "path": None})]
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist(rows, SCHEMA)], {})
    with Teacher() as teacher:
        _, talks = generate(teacher, None, tmp_path / "talks", kinds=["detail", "detail_image"])
    reported = [(one["key"], one["kind"], one["generator"]["prompt_id"]) for one in rows_of(talks)]
    assert reported == [("a/detail", "detail", "detail"), ("a/detail_image", "detail", "detail_image")]
    parse({"model": "m", "kinds": [{"kind": "detail", "sources": [one]} for one in "ab"]}, GenerateConfig, where="r")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": ["detial"]}, "there is no prompt 'detial'. Did you mean 'detail'"),
        ({"kinds": []}, "kinds"),
        ({"kind": ["detail"]}, "unknown key 'kind'. Did you mean 'kinds'"),
        ({"language": "xx"}, "answers can be checked for these languages:"),
        ({"base_url": "http://localhost/v1"}, "base_url is given without provider"),
        ({"max_cost": -1}, "max_cost"),
        ({"kinds": ["detail", {"kind": "detail", "prompt": "detail_image"}]}, "kind: detail_2, prompt: detail_image"),
        (
            {"kinds": [{"kind": "detail", "sources": ["a", "b"]}, {"kind": "detail", "sources": ["b"]}]},
            "given twice for the same rows",
        ),
    ],
)
def test_bad_configuration_is_told(values, message):
    with pytest.raises(InputError, match=message):
        parse({"model": "m", **values}, GenerateConfig, where="recipe.yaml")
