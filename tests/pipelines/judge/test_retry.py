"""`--retry` of an answer that was no good asks for another one, and `--dry-run` says so before."""

import json

import pyarrow as pa

from pipelines.caption.step import CaptionConfig, CaptionStep
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.judge.scores import AXES
from pipelines.judge.step import Judge, JudgeConfig
from schemas.records import CONVERSATIONS, IMAGES
from schemas.writing import write_dataset
from tests.pictures import colour, encoded
from tests.pipelines.llm.faulty import FaultyServer

RUNNER = Runner("local", 1)
PICTURES = pa.schema([("key", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])


class Learner(FaultyServer):
    """The first answer to a question is `first`, all others are scores."""

    first = "no scores"

    async def respond(self, request, body, answer):
        scores = json.dumps({"reason": "Fine.", **dict.fromkeys(AXES, 4)})
        content = scores if body.get("seed") else self.first
        answer["choices"][0]["message"]["content"] = content
        answer["id"] = f"id-{len(self.requests)}"
        return await super().respond(request, body, answer)


def test_a_judge_is_asked_again_for_scores(tmp_path):
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist([{"key": "p"}], IMAGES)], {})
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "?"), ("assistant", "A."))
    ]
    rows = [{"key": f"p/{kind}", "image_keys": ["p"], "messages": turns, "status": "ok"} for kind in ("a", "b")]
    path = tmp_path / "talks"
    write_dataset(path, "conversations", [pa.Table.from_pylist(rows, CONVERSATIONS)], {})
    with Learner() as server:
        config = {"model": "m", "provider": "test", "base_url": server.base_url, "cache": str(tmp_path / "cache")}
        step = Judge(JudgeConfig(**config, images=str(tmp_path / "images"), repairs=0))
        assert run_step(step, path, RUNNER).statuses == {"wrong_schema": 2}
        priced = step.estimate(path, retry="wrong_schema")
        assert (priced["requests"], priced["cached"]) == (2, 0)
        assert run_step(step, path, RUNNER, "wrong_schema").statuses == {"ok": 2}
        assert len(server.requests) == 4
        assert step.estimate(path, retry="wrong_schema")["requests"] == 0


def test_a_caption_that_was_refused_is_asked_for_again(tmp_path):
    rows = [{"key": "p", "image": {"bytes": encoded(colour()), "path": None}}]
    write_dataset(tmp_path / "images", "images", [pa.Table.from_pylist(rows, PICTURES)], {})
    with Learner() as server:
        server.first = "I'm sorry, but I can't help with that."
        engine = {"name": "endpoint", "model": "m", "provider": "test", "base_url": server.base_url}
        step = CaptionStep(CaptionConfig(engine={**engine, "cache": str(tmp_path / "cache")}))
        assert run_step(step, tmp_path / "images", RUNNER).statuses == {"refused": 1}
        assert step.estimate(tmp_path / "images", retry="refused")["requests"] == 1
        assert run_step(step, tmp_path / "images", RUNNER, "refused").statuses == {"ok": 1}
        assert len(server.requests) == 2
