"""`transformers serve` as the endpoint: the real server, a tiny LLaVA of random weights, the real client."""

import json
import os
import re
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from pipelines.caption import Caption, CaptionConfig
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_derive, run_step
from pipelines.generate import Generate, GenerateConfig
from schemas import Dataset
from schemas.records import IMAGE, IMAGES
from schemas.writing import write_dataset
from tests.trainer.conftest import RULE, picture, save_llm, save_tower
from trainer.models.assemble import assemble

RUNNER = Runner("local", 2)
WORDS = ("red", "blue", "a", "house", "picture")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The base URL of a server, in a process of its own, that serves the folder `tiny-llava` and nothing else."""
    folder = tmp_path_factory.mktemp("served")
    save_model(folder / "tiny-llava")
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "tiny-llava"]
    command += ["--host", "127.0.0.1", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    log = folder / "server.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as server,
    ):
        try:
            yield listening(server, log)
        finally:
            server.kill()


def listening(server, log):
    """The address that the server tells once it listens."""
    for _ in range(1200):
        reported = re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())
        if reported:
            return f"{reported[1]}/v1"
        assert server.poll() is None, log.read_text()
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def save_model(folder):
    """A LLaVA as the trainer writes it. It speaks a few words in random order, and comes to an end."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    parts = folder.parent / "parts"
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    settings = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=letters)
    made.train_from_iterator([" ".join(["", *WORDS])] * 9, settings)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **names)
    tokenizer.save_pretrained(parts / "tokenizer")
    save_llm(parts / "llm", parts / "tokenizer", len(tokenizer), max_position_embeddings=4096)
    assemble(save_tower(parts / "tower"), parts / "llm", folder, rule=RULE, template="mistral")
    spoken = {tokenizer.encode(f" {word}")[-1] for word in WORDS} | {2}
    silent = [token for token in range(len(tokenizer) + 1) if token not in spoken]
    habits = {
        "eos_token_id": 2,
        "pad_token_id": 0,
        "suppress_tokens": silent,
        "exponential_decay_length_penalty": [4, 9.0],
    }
    (folder / "generation_config.json").write_text(json.dumps(habits))


@pytest.fixture
def photos(tmp_path):
    schema = IMAGES.append(pa.field("image", IMAGE))
    rows = [
        {"key": "one", "image": {"bytes": picture(1), "path": None}, "captions": ["A red house."]},
        {"key": "two", "image": {"bytes": picture(2), "path": None}, "captions": ["A blue house."]},
    ]
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pylist(rows, schema)], {})
    return tmp_path / "photos"


def rows_of(path):
    return [row for fragment in Dataset.open(path).fragments for row in fragment.read(None).to_pylist()]


def test_a_served_model_captions_pictures_and_writes_conversations(address, photos, tmp_path):
    asked = {"model": "tiny-llava", "provider": "serve", "base_url": address, "cache": str(tmp_path / "cache")}
    caption = Caption(CaptionConfig.model_validate({"engine": {"name": "endpoint", **asked}}))
    assert run_step(caption, photos, RUNNER).statuses == {"ok": 2}
    described = rows_of(photos)
    assert all(set(row["caption"].split()) <= set(WORDS) for row in described)
    assert {row["caption_model"] for row in described} == {"serve/tiny-llava"}

    talks = tmp_path / "talks"
    # Random words are no good answers: without checks, every one that arrives whole is a conversation.
    config = GenerateConfig(**asked, kinds=["describe", "detail_image"], structured="prompt", checks=False)
    assert run_derive(Generate(config), photos, talks, RUNNER).statuses == {"ok": 4}
    for row in rows_of(talks):
        made = row["generator"]
        assert row["messages"][-1]["content"][0]["text"]
        assert made["request_id"]
        assert made["input_tokens"] > made["output_tokens"] > 0
    assert run_derive(Generate(config), photos, talks, RUNNER).made == 0


def test_an_answer_that_was_cut_says_so(address, photos, tmp_path):
    asked = {"model": "tiny-llava", "provider": "serve", "base_url": address, "cache": str(tmp_path / "cache")}
    config = GenerateConfig(**asked, kinds=["describe"], max_output_tokens=2)
    assert run_derive(Generate(config), photos, tmp_path / "talks", RUNNER).statuses == {"truncated": 2}
    assert {row["generator"]["output_tokens"] for row in rows_of(tmp_path / "talks")} == {2}


def test_a_model_that_is_not_served_is_a_reason_on_every_row(address, photos, tmp_path):
    asked = {"model": "another", "provider": "serve", "base_url": address, "cache": str(tmp_path / "cache")}
    config = GenerateConfig(**asked, kinds=["describe"])
    assert run_derive(Generate(config), photos, tmp_path / "talks", RUNNER).statuses == {"bad_request": 2}
    assert all("Server is pinned to 'tiny-llava'" in row["detail"] for row in rows_of(tmp_path / "talks"))
