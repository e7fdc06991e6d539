"""Gradients of many micro-batches, on two ranks: added up and reduced in float32, whatever the model computes with."""

import math
import multiprocessing
import os
import socket
from types import SimpleNamespace

import pytest
import torch

from trainer.config import load_recipe
from trainer.engines import deepspeed, start_engine
from trainer.engines.base import join_ranks

SMALL, MICRO_BATCHES, WIDTH = 2.0**-9, 16, 8
"""In bf16 (8 significant bits), 1 + SMALL is 1."""


class Toy(torch.nn.Module):
    """A model of one matrix whose gradient is what it is given."""

    def __init__(self, dtype):
        super().__init__()
        layer = torch.nn.Linear(WIDTH, WIDTH, bias=False, dtype=dtype)
        self.model = torch.nn.ModuleDict({"multi_modal_projector": layer})
        self.model.language_model = SimpleNamespace(layers=[])
        self.model.vision_tower = torch.nn.Module()
        self.model.vision_tower.encoder = torch.nn.Module()
        self.model.vision_tower.encoder.layers = torch.nn.ModuleList()
        self.config = SimpleNamespace(vision_config=SimpleNamespace(model_type="clip_vision_model"))

    def forward(self, gradient):
        made = self.model["multi_modal_projector"](torch.eye(WIDTH, dtype=gradient.dtype))
        return (made.float() * gradient.float().T).sum()


def gradients(rank):
    """What each micro-batch of a rank adds to every weight; the first is large."""
    return [1.0 if rank == 0 and not number else SMALL for number in range(MICRO_BATCHES)]


def one_rank(path, overrides, precision, rank, port, answers, spoiled):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    if spoiled:
        keep_whole = deepspeed.deepspeed_config
        lost = ("data_types", "communication_data_type")
        deepspeed.deepspeed_config = lambda *given: {k: v for k, v in keep_whole(*given).items() if k not in lost}
    recipe = load_recipe(path, overrides)
    engine = start_engine(recipe, precision, join_ranks(False), {"hidden_size": WIDTH}, Toy)
    for number, value in enumerate(gradients(rank)):
        given = torch.full((WIDTH, WIDTH), value, dtype=engine.dtype)
        engine.backward(engine(gradient=given), last=number == MICRO_BATCHES - 1)
    norm = engine.step()
    if rank == 0:
        answers.put(norm)
    answers.close()
    answers.join_thread()
    torch.distributed.barrier()
    os._exit(0)


def norm_of(path, overrides, precision, spoiled=False):
    """The norm of the gradient that two ranks have found together."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = [(path, overrides, precision, rank, port, answers, spoiled) for rank in range(2)]
    ranks = [context.Process(target=one_rank, args=one) for one in arguments]
    for rank in ranks:
        rank.start()
    try:
        return answers.get(timeout=60)
    finally:
        for rank in ranks:
            rank.join(30)
            rank.kill()


def expected():
    return math.sqrt(WIDTH * WIDTH) * (sum(gradients(0)) + sum(gradients(1))) / 2


SETTINGS = [
    {"deepspeed.zero": 0},
    {"deepspeed.zero": 1},
    {"deepspeed.zero": 1, "deepspeed.offload": "optimizer"},
    {"deepspeed.zero": 2},
    {"deepspeed.zero": 2, "deepspeed.offload": "optimizer"},
    {"deepspeed.zero": 3},
    {"deepspeed.zero": 3, "deepspeed.offload": "all"},
    {"engine": "fsdp2"},
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda one: "-".join(str(value) for value in one.values()))
def test_a_sum_of_small_gradients_is_that_of_float32(recipe_file, forked, setting):
    path = recipe_file(optimizer__clip=0.0)
    assert norm_of(path, setting, "bf16") == pytest.approx(expected(), rel=1e-5)


def test_deepspeeds_own_sum_would_lose_them(recipe_file, forked):
    """What DeepSpeed does by default: this is why the settings are there."""
    path = recipe_file(optimizer__clip=0.0)
    lost = norm_of(path, {"deepspeed.zero": 2}, "bf16", spoiled=True)
    assert abs(lost / expected() - 1) > 0.005
