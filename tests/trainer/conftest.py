"""A tiny tower, a tiny Llama and a tiny mix, made once: what the training tests train."""

import gc
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import time

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what these tests compare was computed on a CPU
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from schemas.chat import ImageRule, encode, get_template, load_tokenizer
from schemas.records import SAMPLES
from schemas.writing import write_dataset

RULE = ImageRule(mode="square", image_size=16, patch_size=8)
QUESTIONS = ("what color is it?", "is it red?", "say something about the picture")
ANSWERS = ("red", "no", "it is a plain picture with nothing in it")


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def conversation(number, images=1):
    """Messages of one or two turns; `images` pictures in the first."""
    messages = []
    for turn in range(1 + number % 2):
        parts = [{"type": "image", "text": None}] * (images if turn == 0 else 0)
        text = {"type": "text", "text": QUESTIONS[(number + turn) % 3]}
        messages.append({"role": "user", "content": [*parts, text]})
        answer = {"type": "text", "text": ANSWERS[(number + 2 * turn) % 3]}
        messages.append({"role": "assistant", "content": [answer]})
    return messages


def sample_row(number, tokenizer, template, images=1, **changes):
    messages = conversation(number, images)
    encoded = encode(messages, [(16, 16)] * images, get_template(template), tokenizer, RULE)
    row = {
        "key": f"row-{number}",
        "images": [{"bytes": picture(number), "path": None}] * images,
        "widths": [16] * images,
        "heights": [16] * images,
        "messages": messages,
        "kind": "test",
        "source": "test",
        "image_count": images,
        "image_tokens": encoded.image_tokens,
        "tokens": encoded.tokens,
        "supervised_tokens": encoded.supervised,
    }
    return {**row, **changes}


def write_mix(path, rows, tokenizer, template="mistral", rule=RULE):
    info = {
        "tokenizer": {"hash": tokenizer.hash, "image_id": tokenizer.image_id},
        "template": template,
        "image": rule.to_dict() if rule else None,
        "max_tokens": None,
    }
    return write_dataset(path, "samples", [pa.Table.from_pylist(rows, schema=SAMPLES)], info=info)


def save_tower(folder, layers=2):
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(folder)
    return folder


def save_llm(folder, tokenizer_folder, vocabulary, kind="llama", **changes):
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(2)
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    shared = {"num_key_value_heads": 1, "max_position_embeddings": 128, "vocab_size": vocabulary}
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **{**sizes, **shared, **tokens, **changes})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer_folder / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Folders `tokenizer` (without <image>), `tower`, `llm`, and `model`: the three assembled."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from trainer.models.assemble import assemble

    root = tmp_path_factory.mktemp("tiny")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    settings = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator([*QUESTIONS, *ANSWERS, "[INST]  [/INST]"], settings)
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(root / "tokenizer")
    vocabulary = load_tokenizer(root / "tokenizer").vocab_size
    save_tower(root / "tower")
    save_llm(root / "llm", root / "tokenizer", vocabulary)
    assemble(root / "tower", root / "llm", root / "model", rule=RULE, template="mistral")
    return root


@pytest.fixture(scope="session")
def reader(tiny):
    return load_tokenizer(tiny / "tokenizer")


@pytest.fixture(scope="session")
def mix(tiny, reader):
    """24 rows; every fourth is text only."""
    rows = [sample_row(number, reader, "mistral", images=int(number % 4 != 3)) for number in range(24)]
    write_mix(tiny / "mix", rows, reader)
    return tiny / "mix"


@pytest.fixture
def recipe_values(tiny, mix, tmp_path):
    """A complete recipe as a dictionary, whose output is this test's own."""
    return {
        "stage": "finetune",
        "model": {"checkpoint": str(tiny / "model")},
        "data": {"mix": str(mix)},
        "plan": {"global_batch": 8},
        "optimizer": {"learning_rate": 1e-3, "schedule": "linear"},
        "steps": 4,
        "trackers": [],
        "output": str(tmp_path / "run"),
    }


@pytest.fixture
def recipe_file(recipe_values, tmp_path):
    """Write the recipe, with dotted changes, and return its path."""
    import yaml

    def write(**changes):
        for dotted, value in changes.items():
            target = recipe_values
            *sections, last = dotted.split("__")
            for section in sections:
                target = target.setdefault(section, {})
            target[last] = value
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(recipe_values), encoding="utf-8")
        return path

    return write


def rank_main(folder, rank, count, port, kill_at, stop_at, observe):
    """A rank in a forked process: torch and transformers are loaded already."""
    gc.freeze()  # looking for garbage in all that was loaded takes longer than the training
    import torch

    from trainer import launch, loop, run

    torch.set_num_threads(1)
    os.environ.update({k: v for k, v in launch.rank_environment(rank, count, port).items() if k not in os.environ})
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_PORT=str(port))
    take = loop.Loop.take

    def observed(self, step):
        if step.number == kill_at:
            os._exit(9)
        if step.number == stop_at and rank == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        if observe is not None:
            observe(self, step)
        take(self, step)

    loop.Loop.take = observed
    run._leave(run.main(folder))


def first_failure(ranks):
    """Wait for all ranks: (rank, exit code) of the first in order that failed, None when all ended well. Once one has
    failed the others have ten seconds to end by themselves: some would wait for it for half an hour."""
    last = time.monotonic() + 600
    while (running := [rank.sentinel for rank in ranks if rank.is_alive()]) and time.monotonic() < last:
        multiprocessing.connection.wait(running, max(last - time.monotonic(), 0))
        if any(rank.exitcode for rank in ranks):
            last = min(last, time.monotonic() + 10)
    failed = [(number, rank.exitcode) for number, rank in enumerate(ranks) if rank.exitcode]
    assert failed or not running, "the ranks are still running after ten minutes"
    return failed[0] if failed else None


@pytest.fixture
def forked(monkeypatch):
    """Replace the start of ranks by forks of this process; `forked["kill_at"]` ends them at a step,
    `forked["stop_at"]` sends rank 0 a SIGTERM at one, `forked["observe"]` is called with loop and step on every rank
    before each step."""
    settings = {"kill_at": None, "stop_at": None, "observe": None, "started": 0}
    # Loaded once here, not once in every fork.
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    from transformers import LlavaForConditionalGeneration  # noqa: F401

    from trainer import launch, loop, run  # noqa: F401

    def start_ranks(folder, count):
        settings["started"] += 1
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("fork")
        at = settings["kill_at"], settings["stop_at"], settings["observe"]
        arguments = [(folder, rank, count, port, *at) for rank in range(count)]
        ranks = [context.Process(target=rank_main, args=one) for one in arguments]
        for rank in ranks:
            rank.start()
        try:
            failed = first_failure(ranks)
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        if failed:
            raise launch._failure(folder, *failed)

    monkeypatch.setattr(launch, "start_ranks", start_ranks)
    return settings
