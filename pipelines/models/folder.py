"""What a model folder can embed, its width and its pooling: determined before weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.models.loading import load_processor
from schemas.errors import InputError
from schemas.modelfolder import check_folder, read_json

Side = Literal["pictures", "texts"]
Pooling = Literal["projected", "pooler", "cls", "mean"]
"""How a model's output becomes one vector.

projected: into the space that pictures and texts share (CLIP, SigLIP). pooler: what the model itself offers as
`pooler_output`. cls: the first token of the last layer. mean: the mean over the tokens of the last layer, padding left
out.
"""

CLS_BY_DEFAULT = frozenset({"vit", "deit", "vit_msn", "data2vec-vision"})
"""Towers whose `pooler_output` comes from a separate layer that most checkpoints of them lack."""
SENTENCE_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""The entries of sentence-transformers' 1_Pooling/config.json that we know, with what they are called here."""


@dataclass(frozen=True)
class EmbeddingModel:
    """A folder whose model embeds pictures or texts."""

    folder: Path
    side: Side
    pooling: Pooling
    width: int
    """Numbers in a vector."""
    longest: int | None
    """Tokens of a text that are read at most; None where the tokenizer decides."""


def embedding_model(model: str, side: Side, pooling: Pooling | None = None, field: str = "model") -> EmbeddingModel:
    """What the folder `model` can do for one `side`. Reads its configuration and the headers of its weights alone.

    Without `pooling`: projected where there are two sides; what 1_Pooling/config.json says, else mean, for a text
    model; pooler, or cls (`CLS_BY_DEFAULT`), for a tower. Raises InputError naming `field` for a folder that is not
    there, is damaged, or holds another kind of model.
    """
    folder, config = Path(model), model_config(model, field)
    two_sided, reads = _abilities(config)
    if not two_sided and side != reads:
        raise InputError(
            f"{field} {model}: a {config.model_type} model embeds {reads or 'neither pictures nor texts'}, expected "
            f"one for {side}. Give the folder of {_EXAMPLES[side]}."
        )
    if two_sided != (pooling == "projected") and pooling is not None:
        allowed = "projected" if two_sided else "pooler, cls or mean"
        raise InputError(f"pooling {pooling}: {field} {model} is a {config.model_type}, which takes {allowed}.")
    chosen: Pooling = pooling or ("projected" if two_sided else _default(folder, config, side))
    return EmbeddingModel(folder, side, chosen, _width(config, side, two_sided, model), _longest(folder, side))


def needs_two_sides(model: str, field: str) -> None:
    """Raise InputError unless the folder `model` embeds pictures and texts in one space."""
    config = model_config(model, field)
    if not _abilities(config)[0]:
        raise InputError(
            f"{field} {model}: a {config.model_type} model does not compare pictures with texts. Give the folder of a "
            "CLIP or a SigLIP with both towers and its processor."
        )


def model_config(model: str, field: str) -> Any:
    """The configuration in the folder `model`, after its files were checked; raises InputError naming `field`."""
    from transformers import AutoConfig

    if not Path(model).is_dir():
        raise InputError(f"{field} {model}: no such folder. Give a folder into which `save_pretrained` wrote a model.")
    check_folder(Path(model))
    return load_processor(model, AutoConfig, False)


_EXAMPLES = {
    "pictures": "a CLIP, SigLIP, ViT or DINOv2",
    "texts": "a BERT-like encoder (MiniLM, MPNet, E5...), a CLIP or a SigLIP",
}


def _abilities(config: Any) -> tuple[bool, Side | None]:
    """(whether there are two sides, else the one that there is)."""
    from transformers import MODEL_MAPPING

    kind: Any = MODEL_MAPPING.get(type(config), None)
    if hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features"):
        return True, None
    if kind is None or config.is_encoder_decoder or hasattr(kind, "get_image_features"):
        return False, None
    inputs: dict[str, Side] = {"pixel_values": "pictures", "input_ids": "texts"}
    return False, inputs.get(kind.main_input_name)


def _default(folder: Path, config: Any, side: Side) -> Pooling:
    if side == "pictures":
        return "cls" if config.model_type in CLS_BY_DEFAULT else "pooler"
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return "mean"
    asked = [name for name, on in read_json(file).items() if name.startswith("pooling_mode_") and on is True]
    if len(asked) != 1 or asked[0] not in SENTENCE_MODES:
        raise InputError(
            f"{file}: asks for {', '.join(asked) or 'no pooling'}, expected one of {', '.join(SENTENCE_MODES)}. Say "
            "which pooling the model was trained with: --pooling mean, or cls."
        )
    return SENTENCE_MODES[asked[0]]  # type: ignore[return-value]


def _width(config: Any, side: Side, two_sided: bool, model: str) -> int:
    found = None
    if two_sided:
        found = getattr(config, "projection_dim", None)
        if found is None:  # SigLIP projects texts to the width of its vision tower
            inner = config.vision_config if side == "pictures" else config.text_config
            found = getattr(inner, "projection_size", None) or inner.hidden_size
    else:
        found = getattr(config, "hidden_size", None) or (getattr(config, "hidden_sizes", None) or [None])[-1]
    if not isinstance(found, int) or found < 1:
        raise InputError(f"{Path(model) / 'config.json'}: does not say how wide the model's vectors are.")
    return found


def _longest(folder: Path, side: Side) -> int | None:
    """What sentence-transformers cuts texts to, which is less than most of its models could read."""
    file = folder / "sentence_bert_config.json"
    found = read_json(file).get("max_seq_length") if side == "texts" and file.is_file() else None
    return found if isinstance(found, int) and found > 0 else None
