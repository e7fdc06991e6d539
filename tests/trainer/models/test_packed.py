"""Packed rows give the same loss and gradients as separate rows: LLaVA and LLaVA-NeXT, every attention available."""

import numpy as np
import pytest
import torch

from schemas.chat import ImageRule
from schemas.dataset import Dataset
from tests.trainer.conftest import RULE, sample_row, write_mix
from trainer.inputs.collate import Collator
from trainer.inputs.data import Samples
from trainer.inputs.device import Device
from trainer.models import varlen
from trainer.models.assemble import assemble
from trainer.models.folder import ModelFolder
from trainer.models.kernels import BOUNDARIES, for_text, fuse_loss, shield_tower

ANYRES = ImageRule("anyres", 16, 8, pinpoints=((16, 32), (32, 16), (32, 32)))
SIZES = ([(16, 16)], [], [(40, 12), (12, 30)], [(30, 30)])
"""Pictures of the four rows, (width, height); the second row has none."""


def varlen_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale=None, causal=True, **_):
    """What flash-attn's variable-length function is documented to compute, sequence by sequence.

    q: (tokens, heads, size); k, v: (tokens, fewer heads, size). Sequences start at cu_seqlens.
    """
    assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist()
    parts = []
    for start, end in zip(cu_seqlens_q[:-1].tolist(), cu_seqlens_q[1:].tolist(), strict=True):
        one, keys, values = (part[start:end].transpose(0, 1)[None] for part in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(
            one, keys, values, is_causal=causal, scale=softmax_scale, enable_gqa=True
        )
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def plain_attention(q, k, v, softmax_scale=None, causal=False, **_):
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True
    ).transpose(1, 2)


@pytest.fixture
def calls(monkeypatch):
    """flash-attn played by torch; the sequence lengths of every call of its variable-length function."""
    from transformers import modeling_flash_attention_utils as flash

    seen = []

    def varlen(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **given):
        assert type(max_seqlen_q) is type(max_seqlen_k) is int  # flash-attn 4 refuses tensors
        seen.append(np.diff(cu_seqlens_q.tolist()).tolist())
        return varlen_attention(q, k, v, cu_seqlens_q, cu_seqlens_k, **given)

    functions = plain_attention, varlen, None, flash._pad_input, flash._unpad_input
    monkeypatch.setattr(flash, "_lazy_imports", lambda *_, **__: functions)
    monkeypatch.setattr(flash, "_loaded_implementation", None)
    return seen


@pytest.fixture(scope="module")
def folders(tiny, reader):
    """The model folder and samples of each class."""
    assemble(tiny / "tower", tiny / "llm", tiny / "next", rule=ANYRES, template="mistral")
    made = {}
    for name, rule, name_of_folder in (("llava", RULE, "model"), ("next", ANYRES, "next")):
        folder = ModelFolder.open(tiny / name_of_folder).with_training(rule, "mistral")
        rows = [_row(number, sizes, rule, reader) for number, sizes in enumerate(SIZES)]
        mix = write_mix(tiny / f"packed-{name}", rows, reader, rule=rule)
        made[name] = Samples(Dataset.open(mix.path), folder, max_length=128)
    return made


def _row(number, sizes, rule, reader):
    import io

    from PIL import Image

    from schemas.chat import encode, get_template

    row = sample_row(number, reader, "mistral", images=len(sizes))
    encoded = encode(row["messages"], sizes, get_template("mistral"), reader, rule)
    pictures = []
    for width, height in sizes:
        pixels = np.random.default_rng(width * height + number).integers(0, 256, (height, width, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    widths, heights = [width for width, _ in sizes], [height for _, height in sizes]
    counts = {"tokens": encoded.tokens, "image_tokens": encoded.image_tokens}
    return {**row, **counts, "images": pictures, "widths": widths, "heights": heights}


def loss_and_gradients(model, batches, backward=True):
    """Summed loss of all batches and the gradients it leaves, by parameter."""
    model.zero_grad()
    model.requires_grad_(backward)
    ready = Device(torch.device("cpu"), torch.float32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).inputs
    loss = sum(model(**ready(batch), use_cache=False, num_items_in_batch=torch.tensor(1.0)).loss for batch in batches)
    if backward:
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def load(folder, kernel=None):
    import transformers

    kind = getattr(transformers, folder.model_class)
    return kind.from_pretrained(folder.path, attn_implementation=for_text(kernel)).train()


@pytest.mark.parametrize("kernel", ["eager", "sdpa", "flex_attention", "flash_attention_2", "torch_varlen"])
@pytest.mark.parametrize("name", ["llava", "next"])
def test_packed_rows_learn_what_they_learn_alone(name, kernel, folders, calls):
    samples = folders[name]
    folder = samples.folder
    model = load(folder)
    items = samples.items(range(4))
    assert [len(one.pictures) for one in items] == [1, 0, 2, 1]
    alone = Collator(folder.rule, folder.image_id, 0)
    packed = Collator(folder.rule, folder.image_id, 0, packed=True)
    expected, gradients = loss_and_gradients(model, [alone([one]) for one in items])
    expected_text, _ = loss_and_gradients(model, [alone(items[1:2])], backward=False)
    varlen.register()
    model.config.text_config._attn_implementation = kernel
    # torch's flex attention has no backward pass on a CPU.
    backward = kernel != "flex_attention"
    loss, found = loss_and_gradients(model, [packed(items)], backward)
    assert loss == pytest.approx(expected, abs=1e-4)
    assert found.keys() == (gradients.keys() if backward else set())
    for parameter, gradient in gradients.items() if backward else ():
        torch.testing.assert_close(found[parameter], gradient, atol=2e-5, rtol=1e-3, msg=parameter)
    text_only, _ = loss_and_gradients(model, [packed(items[1:2])], backward)
    assert text_only == pytest.approx(expected_text, abs=1e-4)
    if kernel == "flash_attention_2":
        assert [len(one.ids) for one in items] in calls


@pytest.mark.parametrize("name", ["llava", "next"])
def test_boundaries_change_nothing_for_attentions_that_read_positions(name, folders):
    samples = folders[name]
    model = load(samples.folder)
    batch = Collator(samples.folder.rule, samples.folder.image_id, 0, packed=True)(samples.items([0, 2]))
    without = {key: value for key, value in batch.items() if key not in BOUNDARIES}
    loss, found = loss_and_gradients(model, [batch])
    expected, gradients = loss_and_gradients(model, [without])
    assert loss == expected and found.keys() == gradients.keys()
    assert all(torch.equal(found[key], gradients[key]) for key in found)


@pytest.mark.parametrize("kernel", ["torch_varlen", "flash_attention_2"])
def test_the_tower_keeps_sdpa_and_never_hears_of_packed_rows(kernel, folders, calls, monkeypatch):
    """Whatever a release of transformers hands on to it."""
    folder = folders["llava"].folder
    monkeypatch.setattr("transformers.modeling_utils.PreTrainedModel._flash_attn_can_dispatch", lambda *_, **__: True)
    model = load(folder, kernel)
    assert model.config.text_config._attn_implementation == kernel
    assert model.model.vision_tower.config._attn_implementation == "sdpa"
    shield_tower(model)
    heard = []
    layer = next(module for module in model.model.vision_tower.modules() if type(module).__name__ == "CLIPAttention")
    layer.register_forward_pre_hook(lambda _, given, named: heard.append(set(named)), with_kwargs=True)
    told = {"cu_seq_lens_q": torch.tensor([0, 2, 5]), "cu_seq_lens_k": None, "max_length_q": 3, "max_length_k": 3}
    model.model.vision_tower(torch.zeros(1, 3, 16, 16), **told)
    (names,) = heard
    assert not names & set(BOUNDARIES)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("name", ["llava", "next"])
def test_a_fused_loss_is_the_models_own_loss_for_every_class(name, packs, folders):
    samples = folders[name]
    rule = samples.folder.rule
    batch = Collator(rule, samples.folder.image_id, 0, packed=packs)(samples.items(range(4)))
    model = load(samples.folder)
    expected, gradients = loss_and_gradients(model, [batch])

    def summed(hidden, weights, targets):
        return torch.nn.functional.cross_entropy(hidden @ weights.T, targets, reduction="sum")

    fuse_loss(model, summed)
    loss, found = loss_and_gradients(model, [batch])
    assert loss == pytest.approx(expected, rel=1e-6)
    assert found.keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(found[parameter], gradient, atol=1e-5, rtol=1e-4, msg=parameter)


def test_positions_that_run_on_would_let_rows_see_each_other(folders):
    """The comparison above can fail: without restarting positions the loss is another."""
    from transformers import LlavaForConditionalGeneration

    samples = folders["llava"]
    model = LlavaForConditionalGeneration.from_pretrained(samples.folder.path).train()
    batch = Collator(samples.folder.rule, samples.folder.image_id, 0, packed=True)(samples.items(range(4)))
    right, _ = loss_and_gradients(model, [batch])
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1])[None]
    assert abs(loss_and_gradients(model, [batch])[0] - right) > 1e-3
