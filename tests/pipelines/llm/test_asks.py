"""An estimate adds up the very requests that a run sends, whichever step asks."""

import pyarrow as pa
import pytest

from pipelines.caption import Caption, CaptionConfig
from pipelines.engine import job
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_derive, run_step
from pipelines.generate import Generate, GenerateConfig
from pipelines.judge.step import Judge, JudgeConfig
from pipelines.llm.answer import Answer, AnswerStatus
from pipelines.llm.client import LlmClient
from schemas import Dataset
from schemas.lease import live
from schemas.records import CONVERSATIONS, IMAGE, IMAGES
from schemas.store import Store
from schemas.writing import write_dataset
from tests.pictures import colour, encoded

ONE = Runner("local", 1)
PNG = encoded(colour())
SCHEMA = pa.schema([*IMAGES, pa.field("image", IMAGE), pa.field("duplicate_of", pa.string())])


@pytest.fixture
def sent(monkeypatch):
    """The keys of the requests that runs send; nobody answers."""
    found = []

    async def ask(self, request):
        found.append(request.key())
        return Answer(AnswerStatus.unavailable, detail="nobody is asked")

    monkeypatch.setattr(LlmClient, "ask", ask)
    return found


@pytest.fixture
def endpoint(tmp_path):
    return {"model": "m", "provider": "test", "base_url": "http://127.0.0.1:9/v1", "cache": str(tmp_path / "cache")}


@pytest.fixture
def photos(tmp_path):
    """Every kind of row that a step may ask about or not; the second fragment lacks the columns of later steps."""
    good, wide = ({"bytes": data, "path": None} for data in (PNG, encoded(colour().convert("CMYK"), "JPEG")))
    rows = [
        {"key": "a", "source": "s", "captions": ["A dog."], "alt_text": "dog", "image": good},
        {"key": "b", "source": "other", "captions": ["A cat."], "image": wide},
        {"key": "copy", "source": "s", "captions": ["A dog."], "image": good, "duplicate_of": "a"},
        {"key": "broken", "source": "s", "captions": ["A cut."], "image": {"bytes": PNG[:20], "path": None}},
        {"key": "unseen", "source": "s", "captions": ["Nobody saw it."]},
        {"key": "nothing", "source": "s", "image": good},
    ]
    first = pa.Table.from_pylist(rows, SCHEMA)
    plain = [{"key": f"plain {row['key']}", **{name: row.get(name) for name in ("source", "captions")}} for row in rows]
    second = pa.Table.from_pylist(plain, pa.schema([*IMAGES, pa.field("image", IMAGE)]))
    return write_dataset(tmp_path / "photos", "images", [first, second]).path


def estimated(step, dataset):
    return sorted(request.key() for request, _ in step._all_requests(Dataset.open(dataset)))


def test_generate_asks_what_it_estimates(photos, endpoint, sent, tmp_path):
    kinds = [{"kind": "describe", "sources": ["s"]}, {"kind": "detail_image"}, "conversation"]
    step = Generate(GenerateConfig(**endpoint, kinds=kinds))
    expected = estimated(step, photos)
    assert step.estimate(photos)["requests"] == len(expected) > 10 and not sent
    run_derive(step, photos, tmp_path / "talks", ONE)
    assert sorted(sent) == expected


def test_caption_asks_what_it_estimates(photos, endpoint, sent):
    step = Caption(
        CaptionConfig(engine={"name": "endpoint", "prompt": "recaption", **endpoint}, only={"source": ["s"]})
    )
    expected = estimated(step, photos)
    assert step.estimate(photos)["requests"] == len(expected) == 3 and not sent
    run_step(step, photos, ONE)
    assert sorted(sent) == expected


def test_an_estimate_of_a_retry_is_of_the_rows_that_are_made_again(photos, endpoint, monkeypatch):
    """The second fragment has no such row, and of the first only some."""
    asked = []

    async def ask(self, request):
        asked.append(request.key())
        return Answer(AnswerStatus.ok, "A dog.") if len(asked) % 2 else Answer(AnswerStatus.unavailable)

    monkeypatch.setattr(LlmClient, "ask", ask)
    step = Caption(CaptionConfig(engine={"name": "endpoint", "prompt": "recaption", **endpoint}))
    assert run_step(step, photos, ONE).statuses["unavailable"] == 2
    assert step.estimate(photos)["requests"] == len(asked) == 4
    assert step.estimate(photos, retry="unavailable")["requests"] == 2
    assert step.estimate(photos, retry="truncated")["requests"] == 0
    del asked[:]
    expected = sorted(request.key() for request, _ in step._retried(photos, None, "unavailable"))
    run_step(step, photos, ONE, "unavailable")
    assert sorted(asked) == expected


def test_an_estimate_of_a_retry_counts_one_more_sample_of_a_rejected_answer(photos, endpoint, monkeypatch, tmp_path):
    asked = []

    async def ask(self, request):
        asked.append(request.key())
        rejected = not request.sample and len(asked) == 1
        return Answer(AnswerStatus.truncated if rejected else AnswerStatus.ok, "It is a dog that runs.")

    monkeypatch.setattr(LlmClient, "ask", ask)
    step = Generate(GenerateConfig(**endpoint, kinds=[{"kind": "describe", "sources": ["s"]}], checks=False))
    made = run_derive(step, photos, tmp_path / "talks", ONE)
    assert made.statuses["truncated"] == 1 < made.statuses["ok"]
    del asked[:]
    expected = sorted(request.key() for request, _ in step._retried(photos, tmp_path / "talks", "truncated"))
    assert step.estimate(photos, tmp_path / "talks", "truncated")["requests"] == len(expected)
    run_derive(step, photos, tmp_path / "talks", ONE, "truncated")
    assert sorted(asked) == expected
    assert len(expected) < step.estimate(photos)["requests"]


def test_judge_asks_what_it_estimates_and_pins_the_pictures_that_it_reads(
    photos, endpoint, sent, tmp_path, monkeypatch
):
    turns = [("user", "What is it?"), ("assistant", "A dog.")]
    messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    talks = [
        {"key": f"{key}/{status}", "image_keys": [key], "messages": messages, "status": status}
        for key in ("a", "b", "gone")
        for status in ("ok", "refused")
    ]
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(talks, CONVERSATIONS)])
    pinned, read_outcome = [], job.read_outcome

    def watched(*arguments):
        pinned.extend(lease.manifest for lease in live(Store(photos)))
        return read_outcome(*arguments)

    monkeypatch.setattr(job, "read_outcome", watched)
    step = Judge(JudgeConfig(**endpoint, images=photos))
    expected = estimated(step, tmp_path / "talks")
    assert len(expected) == 3 and not sent
    run_step(step, tmp_path / "talks", ONE)
    assert sorted(sent) == expected
    assert pinned == [1]
    assert Dataset.open(tmp_path / "talks").manifest.steps["judge"].depends_on["images_manifest"] == 1
