import json

import pyarrow as pa
import pytest

from lavabeam.demo.teacher import Teacher
from pipelines.engine.filters import filter_step
from pipelines.engine.runners import Runner
from pipelines.engine.work import preview_step, run_derive, run_step
from pipelines.generate import Generate, GenerateConfig
from pipelines.judge.step import Images, Judge, JudgeConfig
from pipelines.llm.answer import AnswerStatus
from pipelines.recipes import load_recipe, run_recipe
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import IMAGES
from schemas.writing import write_dataset
from tests.pipelines.llm.faulty import FaultyServer

RUNNER = Runner("local", 1)
ROWS = [
    {"key": "a", "captions": ["A brown dog runs over the wet grass."], "source": "s"},
    {"key": "nothing", "source": "s"},
    {"key": "b", "captions": ["Two cats."], "source": "s"},
]


@pytest.fixture
def talks(tmp_path):
    """The conversations about two pictures, and a row without any; the endpoint's settings."""
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist(ROWS, IMAGES)], {})
    with Teacher() as teacher:
        config = {"model": "m", "provider": "test", "base_url": teacher.base_url, "cache": str(tmp_path / "cache")}
        run_derive(
            Generate(GenerateConfig(**config, kinds=["detail"])), tmp_path / "images", tmp_path / "talks", RUNNER
        )
        yield tmp_path / "talks", {**config, "images": str(tmp_path / "images")}


def scores_of(path):
    columns = [
        "key",
        "judge_request_id",
        "judge_input_tokens",
        "judge_output_tokens",
        "judge_accuracy",
        "judge_language",
        "judge_reason",
        "judge_status",
        "judge_detail",
    ]
    return [row for part in Dataset.open(path).fragments for row in part.read(columns).to_pylist()]


def test_conversations_get_scores_beside_them(talks):
    path, config = talks
    reported = Judge(JudgeConfig(**config)).estimate(path)
    assert (reported["requests"], reported["cached"], reported["output_tokens"]) == (2, 0, 180)
    summary = run_step(Judge(JudgeConfig(**config)), path, RUNNER)
    assert summary.statuses == {"ok": 2, "not_asked": 1}
    first, without, _ = scores_of(path)
    assert (first["key"], first["judge_accuracy"], first["judge_language"]) == ("a/detail", 5, 5)
    assert first["judge_reason"]
    assert first["judge_request_id"]
    assert first["judge_input_tokens"] > first["judge_output_tokens"] > 0
    assert (without["judge_accuracy"], without["judge_detail"]) == (None, "the conversation is no_context")
    again = run_step(Judge(JudgeConfig(**config)), path, RUNNER)
    assert (again.made, again.reused) == (0, 1)
    assert Judge(JudgeConfig(**config)).estimate(path)["cached"] == 2


def test_a_prompt_that_wants_the_picture_is_none_for_the_judge(talks):
    _, config = talks
    with pytest.raises(ValueError, match="detail_image asks for the picture"):
        JudgeConfig(**{**config, "prompt": "detail_image"})


def test_the_judge_has_a_budget_of_its_own(talks):
    path, config = talks
    capped = run_step(Judge(JudgeConfig(**config, max_requests=1)), path, RUNNER)
    assert capped.statuses == {"ok": 1, "budget_exhausted": 1, "not_asked": 1}
    raised = run_step(Judge(JudgeConfig(**config, max_requests=2)), path, RUNNER)
    assert raised.statuses == {"ok": 2, "not_asked": 1}


def test_a_retry_reads_the_version_of_the_pictures_that_the_scores_were_made_with(talks):
    path, config = talks
    run_step(Judge(JudgeConfig(**config, max_requests=1)), path, RUNNER)
    any_step = filter_step("length", version=1, reads=("key",))(lambda row: len(row["key"]))
    run_step(any_step(), config["images"], RUNNER)
    again = preview_step(Judge(JudgeConfig(**config, max_requests=2)), path, "budget_exhausted")
    assert (again.made, again.retried, again.retried_rows) == (0, 1, 1)
    assert preview_step(Judge(JudgeConfig(**config)), path).made == 1


class Impossible(FaultyServer):
    """A judge that gives six points."""

    async def respond(self, request, body, answer):
        scores = {"relevance": 6, "accuracy": 1, "completeness": 1, "language": 1, "reason": "."}
        answer["choices"][0]["message"]["content"] = json.dumps(scores)
        return await super().respond(request, body, answer)


def test_scores_out_of_range_are_no_scores(talks):
    path, config = talks
    with Impossible() as server:
        config = {**config, "base_url": server.base_url, "model": "generous", "repairs": 1}
        summary = run_step(Judge(JudgeConfig(**config)), path, RUNNER)
        assert len(server.requests) == 4
    assert summary.statuses == {"wrong_schema": 2, "not_asked": 1}
    assert "relevance: Input should be less than or equal to 5" in scores_of(path)[0]["judge_detail"]


def test_a_recipe_makes_conversations_and_judges_them_in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Datasets are named as everywhere in a recipe, and may not exist before it runs."""
    monkeypatch.chdir(tmp_path)
    write_dataset(tmp_path / "data/images", "images", [pa.Table.from_pylist(ROWS, IMAGES)], {})
    with Teacher() as teacher:
        asked = {"model": "m", "provider": "test", "base_url": teacher.base_url, "cache": str(tmp_path / "cache")}
        steps = [
            {"generate": {"dataset": "images", "to": "talks", "kinds": ["detail"], **asked}},
            {"judge": {"dataset": "talks", "images": "images", **asked}},
        ]
        (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": steps}))
        *_, judged = run_recipe(load_recipe("recipe.yaml", "data"), RUNNER)
        *_, again = run_recipe(load_recipe("recipe.yaml", "data"), RUNNER)
    assert judged.statuses == {"ok": 2, "not_asked": 1}
    assert (again.made, again.reused) == (0, 1)


def test_a_recipe_whose_pictures_are_nowhere_says_so_when_it_comes_to_the_judge(talks, tmp_path):
    path, config = talks
    steps = [{"judge": {**config, "dataset": str(path), "images": "imagse"}}]
    (tmp_path / "recipe.yaml").write_text(json.dumps({"steps": steps}))
    with pytest.raises(InputError, match=r"imagse: no dataset here"):
        list(run_recipe(load_recipe(tmp_path / "recipe.yaml", tmp_path), RUNNER))


@pytest.mark.parametrize("statuses", [Generate.statuses, Judge.statuses])
def test_every_reason_of_the_request_layer_is_a_status(statuses):
    assert {str(reason) for reason in AnswerStatus} <= {str(status) for status in statuses}


def test_the_judge_knows_what_the_writer_knew(tmp_path):
    """A caption that a model wrote is what the conversations were made of, where there is no other."""
    rows = pa.Table.from_pydict({"key": ["a"], "caption": ["A red house."]})
    images = write_dataset(tmp_path / "images", "images", [rows], {})
    assert Images(images.path, images.manifest.number).known("a").captions == ("A red house.",)
