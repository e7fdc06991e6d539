"""Equal to the original LLaVA code where it matters: names, loss, gradients, trainable parts, learning rates."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.chat import ImageRule
from schemas.errors import InputError
from trainer.engines.optimizer import parameter_groups
from trainer.models.folder import ModelFolder
from trainer.models.importing import import_checkpoint
from trainer.models.original import name_of, read_projector, write_projector
from trainer.sections import OptimizerConfig
from trainer.stages import Stage, freeze

VECTORS = Path(__file__).parents[1] / "vectors"
FORWARD = json.loads((VECTORS / "tiny_forward.json").read_text())
PARAMS = [json.loads(line) for line in (VECTORS / "training_params.jsonl").read_text().splitlines()]
IMAGE_ID = 255
PATCHES = 16
PARTS = {"mm_mlp_adapter": "projector", "mm_language_model": "llm", "mm_vision_tower": "tower"}


def build(anyres=False):
    """The tiny model of the vectors in transformers' classes, with the original's weights."""
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    pinpoints = [[height, width] for width, height in FORWARD["image_grid_pinpoints_wh"]]
    config_kind, kind = (LlavaNextConfig, LlavaNextForConditionalGeneration) if anyres else (None, None)
    config = (config_kind or LlavaConfig)(
        vision_config=CLIPVisionConfig(**FORWARD["vision_config"]),
        text_config=LlamaConfig(**FORWARD["text_config"]),
        image_token_index=IMAGE_ID,
        vision_feature_layer=FORWARD["mm_vision_select_layer"],
        **({"image_grid_pinpoints": pinpoints} if anyres else {}),
    )
    model = (kind or LlavaForConditionalGeneration)._from_config(config, attn_implementation="eager")
    weights = {
        name_of(name): tensor.float() for name, tensor in load_file(VECTORS / "tiny_weights.safetensors").items()
    }
    known = {name: tensor for name, tensor in weights.items() if anyres or "newline" not in name}
    missing, unexpected = model.load_state_dict(known, strict=False)
    assert not unexpected
    assert all("position_ids" in name for name in missing)
    return model


def expanded(case, counts, width):
    """The case's rows, padded on the right, with `counts` image tokens a picture; labels as the original expanded."""
    ids = torch.zeros((len(case["input_ids"]), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    pictures = iter(counts)
    for row, tokens in enumerate(case["input_ids"].tolist()):
        while tokens and tokens[-1] == 0:
            tokens.pop()
        flat = [t for token in tokens for t in ([IMAGE_ID] * next(pictures) if token == -200 else [token])]
        ids[row, : len(flat)] = torch.tensor(flat)
        mask[row, : len(flat)] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": case["expanded_labels"]}


def load_case(name):
    tensors = load_file(VECTORS / "tiny_forward.safetensors")
    return {key.partition(".")[2]: value for key, value in tensors.items() if key.startswith(f"{name}.")}


def compare(model, inputs, expected):
    """Loss within 1e-5, every gradient's norm within 1e-4 of the original's."""
    freeze(model, Stage(("projector", "llm")))
    loss = model(**inputs, use_cache=False).loss
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)
    loss.backward()
    norms = {name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None}
    for original, norm in expected["grad_norms"].items():
        assert norms[name_of(original)] == pytest.approx(norm, rel=1e-4, abs=1e-4), original


def test_names_are_those_of_the_map():
    for kind in json.loads((VECTORS / "tiny_name_map.json").read_text()).values():
        assert {original: name_of(original) for original in kind} == kind


@pytest.mark.parametrize("name", ["flat_batch", "flat_mixed_text"])
def test_flat_batches_have_the_originals_loss_and_gradients(name):
    case, expected = load_case(name), FORWARD["cases"][name]
    inputs = expanded(case, [PATCHES] * 9, expected["expanded_len"])
    # The original gives a text-only row a picture of its own, all zeros, that no token stands for.
    shown = int((case["input_ids"] == -200).sum())
    inputs["pixel_values"] = case["images"][:shown].float()
    compare(build(), inputs, expected)


@pytest.mark.parametrize("name", ["anyres_unpad_a", "anyres_unpad_b"])
def test_anyres_batches_have_the_originals_loss_and_gradients(name):
    from trainer.inputs.collate import stack_pictures

    case, expected = load_case(name), FORWARD["cases"][name]
    pinpoints = tuple(tuple(pair) for pair in FORWARD["image_grid_pinpoints_wh"])
    rule = ImageRule(mode="anyres", image_size=56, patch_size=14, pinpoints=pinpoints)
    sizes = [tuple(size) for size in expected["image_sizes_wh"]]
    inputs = expanded(case, [rule.tokens(*size) for size in sizes], expected["expanded_len"])
    tiles = [case[f"images.{number}"].float().numpy() for number in range(len(sizes))]
    tiled = [np.ascontiguousarray(tile) for tile in tiles]
    inputs.update(stack_pictures(tiled, sizes, [1] * len(tiled), ImageRule("anyres", 16, 8)))
    compare(build(anyres=True), inputs, expected)


def stage_of(row):
    if row.get("mm_tunable_parts"):
        return Stage(tuple(PARTS[part] for part in row["mm_tunable_parts"].split(",")))
    projector_only = row.get("legacy", {}).get("tune_mm_mlp_adapter") or row.get("name") == "stage1_tune_projector"
    return Stage(("projector",) if projector_only else ("projector", "llm"))


def rates_of(row):
    given = {"projector": row.get("mm_projector_lr")}
    given["projector"] = given["projector"] or row.get("lrs", {}).get("mm_projector_lr")
    given["tower"] = row.get("lrs", {}).get("mm_vision_tower_lr")
    return {module: rate for module, rate in given.items() if rate is not None}


@pytest.mark.parametrize("row", [row for row in PARAMS if row["kind"] == "optimizer"])
def test_trainable_parts_rates_and_decay_are_the_originals(row):
    """But for parameters that no gradient reaches: ours leaves them frozen, ZeRO would wait for them."""
    anyres = any("newline" in name for name in row["trainable"])
    model = build(anyres)
    freeze(model, stage_of(row))
    settings = OptimizerConfig(learning_rate=2e-5, weight_decay=0.05, learning_rates=rates_of(row))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(model, settings)
        for parameter in group["params"]
    }
    theirs = {name_of(name): (g["lr"], g["weight_decay"]) for g in row["groups"] for name in g["params"]}
    unreached = {name for name in theirs if ".layers.2." in name or "post_layernorm" in name}
    assert ours == {name: value for name, value in theirs.items() if name not in unreached}


def projector_shapes(model):
    return {n.removeprefix("model."): p.shape for n, p in model.named_parameters() if "multi_modal_projector" in n}


def test_a_projector_file_goes_out_and_comes_back(tmp_path):
    model = build()
    write_projector(dict(model.named_parameters()), tmp_path / "mm_projector.bin")
    kept = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    assert sorted(kept) == [f"model.mm_projector.{n}.{kind}" for n in (0, 2) for kind in ("bias", "weight")]
    back = dict(read_projector(tmp_path / "mm_projector.bin", projector_shapes(model)))
    assert torch.equal(back["multi_modal_projector.linear_2.weight"], model.model.multi_modal_projector.linear_2.weight)


def test_a_projector_of_another_model_is_refused(tmp_path):
    torch.save({"model.mm_projector.0.weight": torch.zeros(3, 3)}, tmp_path / "mm_projector.bin")
    with pytest.raises(InputError, match=r"mm_projector\.bin"):
        dict(read_projector(tmp_path / "mm_projector.bin", projector_shapes(build())))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<html>not found</html>", "cannot be read as weights"),
        (b"", "cannot be read as weights"),
        ([1, 2], "holds a list"),
        ({"model.layers.0.weight": torch.zeros(2)}, "contains no mm_projector"),
        (
            {f"model.mm_projector.{n}.weight": torch.zeros(2, 2) for n in (0, 2, 4)},
            "mm_projector.4.weight is not part of",
        ),
    ],
)
def test_files_that_hold_no_projector_of_ours(tmp_path, content, words):
    """A projector of three layers must not be taken for one of two."""
    path = tmp_path / "mm_projector.bin"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError, match=words):
        dict(read_projector(path, projector_shapes(build())))


@pytest.mark.parametrize("prefix", ["", "model.", "base_model.model.model.", "module.model."])
def test_a_projector_is_known_by_every_name_that_it_was_saved_under(tmp_path, prefix):
    shapes = projector_shapes(build())
    originals = {"linear_1": "0", "linear_2": "2"}
    saved = {}
    for name, shape in shapes.items():
        _, layer, kind = name.split(".")
        saved[f"{prefix}mm_projector.{originals[layer]}.{kind}"] = torch.full(shape, float(len(saved)))
    torch.save(saved, tmp_path / "mm_projector.bin")
    back = dict(read_projector(tmp_path / "mm_projector.bin", shapes))
    assert {name: float(tensor.mean()) for name, tensor in back.items()} == {n: float(i) for i, n in enumerate(shapes)}


@pytest.fixture(scope="module")
def tower_folder(tmp_path_factory):
    """The vectors' tower as a folder of its own, as CLIP is published."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    folder = tmp_path_factory.mktemp("original") / "tower"
    model = CLIPVisionModel(CLIPVisionConfig(**FORWARD["vision_config"]))
    prefix = "model.vision_tower.vision_tower."
    weights = load_file(VECTORS / "tiny_weights.safetensors").items()
    own = {name.removeprefix(prefix): tensor.float() for name, tensor in weights if name.startswith(prefix)}
    inner = {name: own[name] if name in own else own[f"vision_model.{name}"] for name in model.state_dict()}
    model.load_state_dict(inner)
    model.save_pretrained(folder)
    return folder


def original_folder(path, tiny, *, binary=False, tower=True, changes=None):
    """The vectors' model as the original code saves it."""
    path.mkdir()
    content = json.loads((tiny / "tokenizer" / "tokenizer.json").read_text())
    model = content["model"]
    model["vocab"] = {piece: number for piece, number in model["vocab"].items() if number < 250}
    parts = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
    model["merges"] = [pair for pair in parts if {"".join(pair), *pair} <= model["vocab"].keys()]
    (path / "tokenizer.json").write_text(json.dumps(content))
    (path / "tokenizer_config.json").write_bytes((tiny / "tokenizer" / "tokenizer_config.json").read_bytes())
    settings = {"mm_vision_tower": "tower", "mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}
    settings |= {"mm_vision_select_layer": FORWARD["mm_vision_select_layer"], "image_aspect_ratio": "pad"}
    config = {"model_type": "llava_llama", **FORWARD["text_config"], **settings, **(changes or {})}
    (path / "config.json").write_text(json.dumps(config))
    weights = load_file(VECTORS / "tiny_weights.safetensors")
    weights = {name: tensor for name, tensor in weights.items() if tower or "vision_tower" not in name}
    if binary:
        torch.save(weights, path / "pytorch_model.bin")
    else:
        save_file(weights, path / "model.safetensors", {"format": "pt"})
    return path


@pytest.mark.parametrize(("binary", "tower"), [(False, True), (True, True), (True, False)])
def test_an_original_checkpoint_is_converted_to_the_same_function(tower_folder, tiny, tmp_path, binary, tower):
    from transformers import LlavaForConditionalGeneration

    source = original_folder(tmp_path / "original", tiny, binary=binary, tower=tower)
    out = import_checkpoint(source, tower_folder, tmp_path / "out", "v1")
    folder = ModelFolder.open(out)
    assert (folder.template, folder.rule.mode, folder.rule.select) == ("v1", "pad", "patch")
    case, expected = load_case("flat_batch"), FORWARD["cases"]["flat_batch"]
    inputs = expanded(case, [PATCHES] * 9, expected["expanded_len"])
    inputs["input_ids"][inputs["input_ids"] == IMAGE_ID] = folder.image_id
    model = LlavaForConditionalGeneration.from_pretrained(out, dtype=torch.float32, attn_implementation="eager")
    loss = model(**inputs, pixel_values=case["images"].float()).loss
    assert loss.item() == pytest.approx(expected["loss"], abs=1e-5)


def test_what_would_compute_something_else_is_refused_before_anything_is_written(tower_folder, tiny, tmp_path):
    cases = {
        "start": ({"mm_use_im_start_end": True}, "tokens around its pictures"),
        "aspect": ({"image_aspect_ratio": "crop_split"}, "image_aspect_ratio 'crop_split'"),
        "merge": ({"image_aspect_ratio": "anyres", "mm_patch_merge_type": "flat"}, "mm_patch_merge_type 'flat'"),
        "projector": ({"mm_projector_type": "resampler"}, "type 'resampler'"),
        "layers": ({"num_hidden_layers": 3}, "missing among its weights|layers"),
        "other": ({"model_type": "llama"}, "model_type 'llama'"),
    }
    for name, (changes, words) in cases.items():
        source = original_folder(tmp_path / name, tiny, changes=changes)
        with pytest.raises(InputError, match=words):
            import_checkpoint(source, tower_folder, tmp_path / "out", "v1")
        assert not list(tmp_path.glob("out*"))
    with pytest.raises(InputError, match=r"Convert it first: lavabeam import-checkpoint"):
        ModelFolder.open(tmp_path / "start")
