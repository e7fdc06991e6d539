"""What a step needs of a GPU's memory: against the tensors of a real step, and what is done when it does not fit."""

import re
from dataclasses import replace
from functools import partial

import pytest
import torch

from schemas.errors import InputError
from trainer.config import load_recipe
from trainer.inputs.schedule import Schedule
from trainer.models.adapter import add_lora
from trainer.models.folder import ModelFolder
from trainer.models.loading import compute_again, empty_model
from trainer.models.opening import from_folder
from trainer.planning.memory import Adapter, ModelSizes, estimate_memory
from trainer.preflight import check
from trainer.room import USABLE, fitted_share, memory_of, peaks
from trainer.sections import LoraConfig
from trainer.stages import freeze, get_stage

WIDE, INNER, LAYERS, ROWS, TOKENS, LEARNT, PATCHES = 256, 704, 6, 400, 256, 8, 16
SIZES = ModelSizes(
    hidden_size=WIDE, intermediate_size=INNER, key_value_size=WIDE // 2, layers=LAYERS, vocabulary=ROWS,
    vision_hidden_size=64, vision_layers=4, tokens_per_image=PATCHES + 1,
)  # fmt: skip


def model_of(stage, share):
    """A LLaVA of SIZES as the stage trains it, in bf16."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2,
                              image_size=56, patch_size=14)  # fmt: skip
    text = LlamaConfig(hidden_size=WIDE, intermediate_size=INNER, num_hidden_layers=LAYERS, num_attention_heads=8,
                       num_key_value_heads=4, vocab_size=ROWS)  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=ROWS - 1)
    model = llava = LlavaForConditionalGeneration._from_config(config, dtype=torch.bfloat16)
    compute_again(llava.model.language_model, share)
    if "tower" in stage.trains:
        compute_again(llava.model.vision_tower, share)
    if stage.adapter:
        model = add_lora(llava, LoraConfig(rank=16, alpha=32, dropout=0.0))
    freeze(model, stage)
    return model.train()


def kept(stage, share):
    """Bytes that a forward pass keeps for the backward pass, weights aside."""
    model = model_of(get_stage(stage), share)
    seen = {tensor.untyped_storage()._cdata: 0 for tensor in (*model.parameters(), *model.buffers())}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if seen.setdefault(storage._cdata, storage.nbytes()):
            alive.append(tensor)  # or another storage would get its number
        return tensor

    ids = torch.zeros(1, TOKENS, dtype=torch.long)
    ids[0, : 2 * PATCHES] = ROWS - 1
    pictures = torch.zeros(2, 3, 56, 56, dtype=torch.bfloat16)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        made = model(input_ids=ids, pixel_values=pictures, use_cache=False, logits_to_keep=LEARNT)
        assert made.logits.shape[1] == LEARNT
    return sum(seen.values())


def estimated(stage, share, sizes=SIZES, pictures=2):
    trains = get_stage(stage)
    return estimate_memory(
        sizes, gpus=1, zero_stage=0, peak_tokens=TOKENS, peak_images=pictures, train_vision="tower" in trains.trains,
        train_language="llm" in trains.trains, adapter=Adapter(16, 0.0) if trains.adapter else None,
        learnt=0.0, checkpointing=share,
    ).activations  # fmt: skip


@pytest.mark.parametrize("stage", ["finetune", "pretrain", "finetune_lora", "finetune_tower"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_activations_are_estimated_within_15_percent(stage, share):
    """Against what autograd keeps. Of layers that are computed again, one is kept later: in the backward pass."""
    again = estimated(stage, 0.0, replace(SIZES, layers=1), pictures=0) if share == 1 else 0
    assert estimated(stage, share) == pytest.approx(kept(stage, share) + again, rel=0.15)


def job_of(recipe_file, **settings):
    recipe = load_recipe(recipe_file(**settings))
    job = check(recipe, 1)
    return job, Schedule(job.mix, recipe, job.folder, 1, packed=True)


def test_auto_computes_no_more_again_than_the_memory_asks_for(recipe_file):
    job, schedule = job_of(recipe_file, gradient_checkpointing="auto")
    assert fitted_share(job, schedule, None) == 0.0
    assert fitted_share(job, schedule, 1 << 30) == 0.0
    found = peaks(job, schedule)
    of = partial(memory_of(job, job.folder, 1, trainable_of(job)), peak_tokens=found.tokens, peak_images=found.tiles,
                 learnt=found.learnt)  # fmt: skip
    totals = [of(checkpointing=share).total for share in (0.0, 0.5)]
    assert fitted_share(job, schedule, int((totals[0] + 9) / USABLE)) == 0.0
    assert fitted_share(job, schedule, int((totals[0] - 9) / USABLE)) == 0.5
    assert fitted_share(job, schedule, int((totals[1] + 9) / USABLE)) == 0.5


@pytest.mark.parametrize(
    ("settings", "part", "words"),
    [
        ({}, 0.85, "This would fit: gradient_checkpointing: true."),
        ({"gradient_checkpointing": True}, 0.6, "This would fit: deepspeed.zero: 3, plan.max_tokens: "),
        ({"gradient_checkpointing": "auto"}, 0.001, "Train with LoRA, or on more GPUs."),
    ],
)
def test_a_step_that_cannot_fit_is_refused_with_what_would(recipe_file, settings, part, words):
    job, schedule = job_of(recipe_file, **settings)
    found = peaks(job, schedule)
    needed = memory_of(job, job.folder, 1, trainable_of(job))(
        peak_tokens=found.tokens, peak_images=found.tiles, learnt=found.learnt, checkpointing=job.recipe.again or 0.0
    ).total
    with pytest.raises(InputError, match=re.escape(words)):
        fitted_share(job, schedule, int(needed * part))


def trainable_of(job):
    model = empty_model(job.folder, job.stage, job.recipe)
    return sum(one.numel() for one in model.parameters() if one.requires_grad)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_computing_again_changes_no_gradient(tiny, share):
    folder = ModelFolder.open(tiny / "model")
    found = []
    for one in (0.0, share):
        model = from_folder(folder, dtype=torch.float32).train()
        compute_again(model.model.language_model, one)
        layers = [layer.gradient_checkpointing for layer in model.model.language_model.layers]
        assert layers == [number < one * len(layers) for number in range(len(layers))]
        ids = torch.arange(3, 43)[None]
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
