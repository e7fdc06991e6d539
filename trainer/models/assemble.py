"""Join a vision tower, a language model and a new projector into one LLaVA folder, one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from schemas.chat import ImageRule
from schemas.errors import InputError
from schemas.modelfolder import read_json
from trainer.models.families import FAMILIES, family_of
from trainer.models.folder import colours, preprocessor, write_sidecar
from trainer.models.original import read_projector
from trainer.models.partcheck import check_llm, check_tower, check_vocabulary
from trainer.models.processor import select_strategy, write_processor, write_tokenizer
from trainer.models.shards import ShardWriter, read_tensors
from trainer.models.towers import tower_of, vision_part

PROJECTORS = ("linear", "mlp2x_gelu")
INITIAL_STD = 0.02
"""Standard deviation of a new projector's weights: `initializer_range` of the Llama and LLaVA configurations."""


def assemble(
    tower: str | Path,
    llm: str | Path,
    output: str | Path,
    *,
    rule: ImageRule,
    template: str | None = None,
    tokenizer: str | Path | None = None,
    select_layer: int = -2,
    projector_type: str = "mlp2x_gelu",
    projector: str | Path | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Path:
    """Write a llava-hf folder to `output`; peak memory is about one shard.

    `projector`: an original mm_projector.bin to start from instead of new weights. `dtype`: by default the language
    model's, which is most of the folder: CLIP is published in float32, Vicuna in float16.
    The tokenizer gains `<image>` (and a pad token if it has none), and the embeddings gain rows for them: the mean of
    the old rows. Raises InputError when the tower does not match `rule`.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    made = write_tokenizer(tokenizer or llm, output)
    check_vocabulary(check_llm(str(llm)), made, str(llm))
    config = joined_config(tower, llm, rule, select_layer, projector_type, made.image_id, made.vocab_size)
    first = projector_tensors(config, projector_type, projector, seed)
    with ShardWriter(output, dtype or _precision(Path(llm))) as writer:
        for name, tensor in tower_tensors(Path(tower)):
            writer.put(name, tensor)
        writer.split()
        for name, tensor in _llm_tensors(Path(llm), config.text_config.vocab_size, config.tie_word_embeddings):
            writer.put(name, tensor)
        writer.split()
        for name, tensor in (*first.items(), *fresh_newline(config, seed)):
            writer.put(name, tensor)
        config.dtype = writer.dtype
    config.save_pretrained(output)
    mean, std = colours(preprocessor(Path(tower)), tower_of(config.vision_config.model_type, str(tower)))
    write_processor(output, made, family_of(rule), rule, mean, std, template)
    write_sidecar(output, rule, template, {"tower": Path(tower).name, "llm": Path(llm).name})
    return output


def projector_tensors(
    config: Any, projector_type: str, projector: str | Path | None, seed: int
) -> dict[str, torch.Tensor]:
    """The projector's initial weights: from the original's file `projector`, or new ones.

    Raises InputError for a file without a projector of this type and size.
    """
    fresh = dict(fresh_projector(config, projector_type, seed))
    if projector is not None:
        fresh.update(read_projector(projector, {name: tensor.shape for name, tensor in fresh.items()}))
    return fresh


def fresh_projector(config: Any, projector_type: str, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The projector's tensors: normal weights of standard deviation `INITIAL_STD` drawn from `seed`, zero biases.

    A `linear` projector is transformers' two layers without an activation between: see `projector_config`.
    """
    generator = torch.Generator().manual_seed(seed)
    wide, deep = config.vision_config.hidden_size, config.text_config.hidden_size
    shapes = [(deep, wide), (deep, deep)] if projector_type == "mlp2x_gelu" else [(deep, wide)]
    for number, shape in enumerate(shapes, 1):
        name = f"multi_modal_projector.linear_{number}"
        yield f"{name}.weight", torch.randn(shape, generator=generator) * INITIAL_STD
        yield f"{name}.bias", torch.zeros(shape[0])
    if projector_type == "linear":
        yield "multi_modal_projector.linear_2.weight", torch.eye(deep)
        yield "multi_modal_projector.linear_2.bias", torch.zeros(deep)


def fresh_newline(config: Any, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Where the family has one, the embedding that ends a line of patches: normal, of standard deviation 1/sqrt(its
    size), drawn from `seed` (LLaVA-NeXT, llava/model/llava_arch.py)."""
    if FAMILIES[config.model_type].newline:
        deep = config.text_config.hidden_size
        yield "image_newline", torch.randn(deep, generator=torch.Generator().manual_seed(seed + 1)) / deep**0.5


def projector_config(projector_type: str) -> dict[str, Any]:
    """LlavaConfig's settings for a projector: LLaVA's GELU is the exact one (torch.nn.GELU)."""
    if projector_type not in PROJECTORS:
        raise InputError(f"projector_type {projector_type!r}: expected one of {', '.join(PROJECTORS)}.")
    return {"projector_hidden_act": "gelu" if projector_type == "mlp2x_gelu" else "linear"}


def joined_config(
    tower: str | Path,
    llm: str | Path,
    rule: ImageRule,
    select_layer: int,
    projector_type: str,
    image_id: int,
    vocabulary: int,
) -> Any:
    """The configuration, of the family that `rule` is for, of a tower and an llm whose tokenizer has `vocabulary` ids.

    Raises InputError when the tower does not match `rule`.
    """
    check_llm(str(llm))
    return llava_config(tower, configuration(llm), rule, select_layer, projector_type, image_id, vocabulary)


def llava_config(
    tower: str | Path,
    text: Any,
    rule: ImageRule,
    select_layer: int,
    projector_type: str,
    image_id: int,
    vocabulary: int,
) -> Any:
    """`joined_config` of a language model's configuration `text`."""
    import transformers

    family = family_of(rule)
    check_tower(str(tower), rule)
    vision = configuration(tower)
    vision = getattr(vision, "vision_config", vision)
    _check_rule(rule, vision, Path(tower))
    if not -vision.num_hidden_layers - 1 <= select_layer <= vision.num_hidden_layers:
        raise InputError(f"select_layer {select_layer}: {tower} has {vision.num_hidden_layers} layers.")
    text.vocab_size = max(text.vocab_size, vocabulary)
    config = getattr(transformers, family.model_class).config_class(
        vision_config=vision,
        text_config=text,
        image_token_index=image_id,
        vision_feature_layer=select_layer,
        vision_feature_select_strategy=select_strategy(rule),
        tie_word_embeddings=bool(text.tie_word_embeddings),
        **projector_config(projector_type),
        **family.settings(rule),
    )
    config.architectures = [family.model_class]
    return config


def configuration(folder: str | Path) -> Any:
    """transformers' configuration of a model folder, whose code is not run.

    Raises InputError for a config.json that it cannot read.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever a configuration's class meets in a file that is not its own
        words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise InputError(f"{folder}: transformers cannot read its config.json ({words}). Fetch it again.") from error


def _check_rule(rule: ImageRule, vision: Any, tower: Path) -> None:
    # As in check_tower, but with the class's defaults for what config.json leaves out.
    found: tuple[Any, Any] = (getattr(vision, "image_size", None), getattr(vision, "patch_size", None))
    if None in found:
        raise InputError(
            f"{tower}: a {vision.model_type!r} tower has no fixed image_size, which LLaVA needs. Give another folder."
        )
    if not tower_of(vision.model_type, str(tower)).fits(found, rule.image_size, rule.patch_size):
        raise InputError(
            f"{tower}: this tower takes {found[0]} pixels in patches of {found[1]}, but the image rule says "
            f"{rule.image_size} in patches of {rule.patch_size}. Make the mix with the tower's sizes."
        )


def tower_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The tower's weights by their names in a LLaVA folder; `folder` may be of the two-sided model around it."""
    row, _ = vision_part(read_json(folder / "config.json"), str(folder))
    for name, tensor in read_tensors(folder):
        if row.holds(name):
            yield f"vision_tower.{row.on_disk}{name.removeprefix('vision_model.')}", tensor


def _llm_tensors(folder: Path, vocabulary: int, tied: bool) -> Iterator[tuple[str, torch.Tensor]]:
    for name, tensor in read_tensors(folder):
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if tied and name == "lm_head.weight":
            _check_tied(folder, tensor)
            continue
        table = name in ("model.embed_tokens.weight", "lm_head.weight")
        yield f"language_model.{name}", grown(tensor, vocabulary) if table else tensor


def _check_tied(folder: Path, head: torch.Tensor) -> None:
    """Raise InputError when the output table of a model whose config.json ties it to the embeddings is another one."""
    embeddings = next((one for name, one in read_tensors(folder) if name == "model.embed_tokens.weight"), None)
    if embeddings is not None and not torch.equal(embeddings, head):
        raise InputError(
            f"{folder}: config.json says tie_word_embeddings, but lm_head.weight differs from the embeddings and would "
            "be lost. Set it to false there if the weights are right, or delete lm_head.weight."
        )


def _precision(folder: Path) -> torch.dtype:
    return next(tensor.dtype for _, tensor in read_tensors(folder) if tensor.is_floating_point())


def grown(table: torch.Tensor, rows: int) -> torch.Tensor:
    """The table with new rows, each the mean of the old rows (LLaVA, smart_tokenizer_and_embedding_resize)."""
    if table.shape[0] >= rows:
        return table
    mean = table.float().mean(0, keepdim=True).to(table.dtype)
    return torch.cat([table, mean.expand(rows - table.shape[0], -1)])
