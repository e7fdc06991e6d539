"""Captions by an OpenAI-compatible server, over real HTTP."""

import pyarrow as pa
import pytest

from pipelines.caption import Caption as CaptionStep
from pipelines.caption import CaptionConfig
from pipelines.caption.endpoint import Endpoint, EndpointCaptionConfig
from pipelines.caption.engine import Picture
from pipelines.engine.retry import RetryPolicy
from pipelines.engine.step import Context
from pipelines.llm.answer import AnswerStatus
from schemas.errors import InputError
from schemas.records import IMAGE, IMAGES
from schemas.writing import write_dataset
from tests.pipelines.download.images import jpeg
from tests.pipelines.llm.faulty import OK, FaultyServer

PICTURES = [Picture(f"p{number}", jpeg(16, 8 + number), f"a dog, number {number}") for number in range(5)]


def captions(server, tmp_path, pictures=PICTURES, **changes):
    values = {"model": "m", "provider": "test", "base_url": server.base_url, "cache": str(tmp_path / "cache")}
    values |= {"patience": RetryPolicy(attempts=2, base_s=0.01), "concurrency": 2}
    engine = Endpoint(EndpointCaptionConfig(**{**values, **changes}))
    engine.setup(Context("run", str(tmp_path / "photos")))
    try:
        return list(engine.captions(iter(pictures))), engine.identity
    finally:
        engine.close()


def test_each_picture_gets_its_caption_and_is_asked_about_once(tmp_path):
    with FaultyServer() as server:
        made, who = captions(server, tmp_path, prompt="recaption")
        again, _ = captions(server, tmp_path, prompt="recaption")
        assert len(server.bodies) == 5
    assert [caption.text for caption in made] == [f"A dog, number {number}." for number in range(5)]
    assert [(caption.status, caption.text) for caption in again] == [(caption.status, caption.text) for caption in made]
    assert [caption.answer.cached for caption in made + again] == [False] * 5 + [True] * 5
    assert (who.engine, who.model) == ("endpoint", "test/m")
    assert who.version.startswith("recaption/1@")


def test_a_row_says_what_its_caption_took_and_the_run_log_what_was_in_the_cache(tmp_path):
    with FaultyServer() as server:
        endpoint = {"name": "endpoint", "model": "m", "provider": "test", "base_url": server.base_url}
        endpoint |= {"cache": str(tmp_path / "cache"), "prompt": "recaption", "price": {"input": 1000, "output": 2000}}
        step = CaptionStep(CaptionConfig.model_validate({"engine": endpoint}))
        context = Context("run", str(tmp_path / "photos"))
        step.setup(context)
        rows = [{"key": one.key, "image": {"bytes": one.data}, "alt_text": one.alt_text} for one in PICTURES[:2]]
        batch = pa.RecordBatch.from_pylist([*rows, {"key": "none", "image": None, "alt_text": None}])
        with context.task() as events:
            first, second = (
                [row for made in step.process_fragment(iter([batch])) for row in made.to_pylist()] for _ in "ab"
            )
        step.teardown()
    assert first == second
    reported = [{name.removeprefix("caption_"): value for name, value in row.items()} for row in first]
    assert reported[0]["request_id"] == server.requests[0]["id"]
    assert (reported[0]["input_tokens"], reported[0]["output_tokens"]) == (
        server.requests[0]["prompt_tokens"],
        server.requests[0]["completion_tokens"],
    )
    assert reported[0]["cost"] == pytest.approx(reported[0]["input_tokens"] / 1000 + reported[0]["output_tokens"] / 500)
    assert (reported[2]["request_id"], reported[2]["cost"], reported[2]["status"]) == (None, None, "no_image")
    fresh, cached = events
    assert (fresh["answers"], fresh["cached"], cached["cached"]) == (2, 0, 2)
    assert (fresh["model"], fresh["prompt"][:11]) == ("test/m", "recaption/1")
    assert cached["cached_keys"] == ["p0", "p1"]


def test_an_estimate_counts_the_pictures_that_would_be_sent(tmp_path):
    rows = [{"key": one.key, "image": {"bytes": one.data, "path": None}, "source": "web"} for one in PICTURES]
    rows += [{"key": "none", "image": None, "source": "web"}, {**rows[0], "key": "left out", "source": "shop"}]
    schema = IMAGES.append(pa.field("image", IMAGE))
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(rows, schema)], {})
    with FaultyServer() as server:
        endpoint = {"name": "endpoint", "model": "m", "provider": "test", "base_url": server.base_url}
        endpoint |= {"cache": str(tmp_path / "cache"), "price": {"input": 10, "output": 0}, "tokens_per_image": 900}
        step = CaptionStep(CaptionConfig.model_validate({"engine": endpoint, "only": {"source": ["web"]}}))
        reported = step.estimate(tmp_path / "photos")
        assert not server.requests
    assert (reported["requests"], reported["cached"]) == (5, 0)
    assert 5 * 900 < reported["input_tokens"] < 5 * 1000
    assert reported["cost"] == pytest.approx(reported["input_tokens"] / 1e5)
    assert CaptionStep(CaptionConfig.model_validate({"engine": "labels"})).estimate(tmp_path / "photos") is None


def test_the_plain_prompt_shows_the_picture_and_nothing_else(tmp_path):
    with FaultyServer() as server:
        captions(server, tmp_path, PICTURES[:1])
        content = server.bodies[0]["messages"][-1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert "dog" not in content[1]["text"]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("policy", AnswerStatus.content_policy),
        ("bad", AnswerStatus.bad_request),
        ("reset", AnswerStatus.unavailable),
        ("locked_out", AnswerStatus.unauthorized),
    ],
)
def test_a_failure_is_a_status_with_its_reason(fault, status, tmp_path):
    with FaultyServer(lambda question, arrival: fault) as server:
        made, _ = captions(server, tmp_path, PICTURES[:1])
    assert made[0].status is status
    assert made[0].text is None
    assert made[0].detail


def test_a_cap_leaves_the_rest_for_another_run(tmp_path):
    with FaultyServer(lambda question, arrival: OK) as server:
        made, _ = captions(server, tmp_path, max_requests=2)
        assert [caption.status for caption in made].count(AnswerStatus.budget_exhausted) == 3
        more, _ = captions(server, tmp_path, max_requests=5)
        assert all(caption.status is AnswerStatus.ok for caption in more)


def test_a_misspelt_prompt_is_told():
    with pytest.raises(InputError, match="Did you mean 'caption'"):
        EndpointCaptionConfig(model="m", provider="test", base_url="http://localhost/v1", prompt="captoin")
