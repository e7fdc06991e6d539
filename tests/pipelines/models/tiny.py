"""Model folders of a few kilobytes with random weights, made offline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[PAD]", "[UNK]", "[DEC]", "[SEP]", "a", "cat", "dog", "red", "blue", "photo", "of"]
SIZE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEEN = {"image_size": 16, "patch_size": 8}
SQUARE = {"height": 16, "width": 16}
transformers.logging.set_verbosity_error()


def tokenizer() -> Any:
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "[DEC]", "eos_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks)


def saved(model: Any, folder: Path, *processors: Any) -> Path:
    """`model` with weights that differ from each other, and its processors, in `folder`."""
    torch.manual_seed(0)
    for weights in model.parameters():
        weights.data = torch.randn_like(weights) / 2  # as small as they begin, every output is the same
    for one in (model, *processors):
        one.save_pretrained(folder)
    return folder


def clip(folder: Path, width: int = 8) -> Path:
    config = transformers.CLIPConfig(text_config=_text(), vision_config={**SIZE, **SEEN}, projection_dim=width)
    pixels = transformers.CLIPImageProcessor(size=SQUARE, crop_size=SQUARE)
    return saved(transformers.CLIPModel(config), folder, transformers.CLIPProcessor(pixels, tokenizer()))


def siglip(folder: Path) -> Path:
    config = transformers.SiglipConfig(text_config=_text(), vision_config={**SIZE, **SEEN})
    pixels = transformers.SiglipImageProcessor(size=SQUARE)
    return saved(transformers.SiglipModel(config), folder, transformers.SiglipProcessor(pixels, tokenizer()))


def vit(folder: Path, pooler: bool = False) -> Path:
    model = transformers.ViTModel(transformers.ViTConfig(**SIZE, **SEEN), add_pooling_layer=pooler)
    return saved(model, folder, transformers.ViTImageProcessor(size=SQUARE))


def dinov2(folder: Path) -> Path:
    small = {name: value for name, value in SIZE.items() if name != "intermediate_size"}
    model = transformers.Dinov2Model(transformers.Dinov2Config(**small, **SEEN, mlp_ratio=1))
    return saved(model, folder, transformers.ViTImageProcessor(size=SQUARE))


def bert(folder: Path) -> Path:
    config = transformers.BertConfig(**SIZE, vocab_size=len(WORDS), max_position_embeddings=12)
    return saved(transformers.BertModel(config, add_pooling_layer=False), folder, tokenizer())


def classifier(folder: Path, labels: tuple[str, ...] = ("normal", "nsfw")) -> Path:
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: n for n, name in enumerate(labels)}}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SIZE, **SEEN, **names))
    return saved(model, folder, transformers.ViTImageProcessor(size=SQUARE))


def noise(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def _text() -> dict[str, Any]:
    return {**SIZE, "vocab_size": len(WORDS), "max_position_embeddings": 12, "eos_token_id": 3, "pad_token_id": 0}
