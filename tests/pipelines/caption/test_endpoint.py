"""Captions by an OpenAI-compatible server, over real HTTP."""

import pytest

from pipelines.caption.endpoint import Endpoint, EndpointCaptionConfig
from pipelines.caption.engine import CaptionStatus, Picture
from pipelines.retry import RetryPolicy
from pipelines.step import Context
from schemas.errors import InputError
from tests.pipelines.llm.faulty import OK, FaultyServer

PICTURES = [Picture(f"p{number}", b"\xff\xd8\xff %d" % number, f"a dog, number {number}") for number in range(5)]


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
    assert again == made
    assert (who.engine, who.model) == ("endpoint", "test/m")
    assert who.version.startswith("recaption/1@")


def test_the_plain_prompt_shows_the_picture_and_nothing_else(tmp_path):
    with FaultyServer() as server:
        captions(server, tmp_path, PICTURES[:1])
        content = server.bodies[0]["messages"][-1]["content"]
    assert [part["type"] for part in content] == ["image_url", "text"]
    assert "dog" not in content[1]["text"]


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("policy", CaptionStatus.refused),
        ("bad", CaptionStatus.failed),
        ("reset", CaptionStatus.unavailable),
        ("locked_out", CaptionStatus.unavailable),
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
        assert [caption.status for caption in made].count(CaptionStatus.over_budget) == 3
        more, _ = captions(server, tmp_path, max_requests=5)
        assert all(caption.status is CaptionStatus.ok for caption in more)


def test_a_misspelt_prompt_is_told():
    config = EndpointCaptionConfig(model="m", provider="test", base_url="http://localhost/v1", prompt="captoin")
    with pytest.raises(InputError, match="Did you mean 'caption'"):
        Endpoint(config)
