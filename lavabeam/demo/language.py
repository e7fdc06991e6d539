"""The small language model: trained on conversations with words in place of the picture.

The words are the picture's facts, shuffled and repeated; stage 1 then only has to map a picture to something like such
words. Without this the projector would have no target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.chat import IGNORE, Tokenizer, encode, get_template, load_tokenizer
from schemas.dataset import Dataset

if TYPE_CHECKING:
    from lavabeam.demo.base_model import BaseSizes, Talk

FEWEST_WORDS = 2


@dataclass(frozen=True)
class Text:
    """A conversation with a gap for the picture: ids and labels before and after it, and words that can fill it."""

    before: list[int]
    after: list[int]
    labels: list[int]
    words: list[list[int]]


def train_language(images: str, talks: Sequence[Talk], tokenizer: str, folder: str, sizes: BaseSizes) -> dict[str, Any]:
    """Train a small Llama on conversations about pictures with facts, save it with the tokenizer, return its loss."""
    import shutil
    from pathlib import Path

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lavabeam.demo.tower import optimise

    torch.set_num_threads(1)
    torch.manual_seed(sizes.seed)
    reader = load_tokenizer(tokenizer)
    texts = load_texts(images, talks, reader, sizes)
    config = LlamaConfig(
        vocab_size=reader.vocab_size,
        hidden_size=sizes.width,
        intermediate_size=2 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.key_value_heads,
        max_position_embeddings=sizes.positions,
        bos_token_id=reader.bos_id,
        eos_token_id=reader.eos_id,
        pad_token_id=reader.pad_id,
    )
    model = LlamaForCausalLM(config)
    order = np.random.default_rng(sizes.seed)

    def next_loss() -> torch.Tensor:
        batch = fill(
            [texts[row] for row in order.choice(len(texts), sizes.language_batch)], reader.pad_id, sizes, order
        )
        return model(**{name: torch.from_numpy(array) for name, array in batch.items()}, use_cache=False).loss

    loss = optimise(list(model.parameters()), next_loss, sizes.language_steps, sizes.language_rate)
    model.save_pretrained(folder)
    for file in Path(tokenizer).glob("*.json"):
        shutil.copyfile(file, Path(folder) / file.name)
    return {"loss": round(loss, 4), "texts": len(texts)}


def load_texts(images: str, talks: Sequence[Talk], tokenizer: Tokenizer, sizes: BaseSizes) -> list[Text]:
    """Conversations about one picture whose facts are known."""
    dataset = Dataset.open(images)
    facts = {
        row["key"]: [tokenizer.encode(" " + fact["value"], first=False).ids for fact in row["facts"]]
        for batch in dataset.batches(["key", "facts"], 4096)
        for row in batch.to_pylist()
        if row["facts"]
    }
    texts = []
    for talk in talks:
        template = get_template(talk.template)
        for row in talk.rows(["image_keys", "messages"]):
            keys = row["image_keys"] or []
            if len(keys) == 1 and keys[0] in facts:
                encoded = encode(row["messages"], [(64, 64)], template, tokenizer, sizes.rule)
                texts.append(_with_gap(encoded.ids.tolist(), encoded.labels.tolist(), tokenizer, facts[keys[0]]))
    return texts


def fill(texts: Sequence[Text], pad: int, sizes: BaseSizes, order: np.random.Generator) -> dict[str, np.ndarray]:
    """A padded batch, int64 (rows, tokens): every fact at least once, up to a picture's number of tokens."""
    most = sizes.rule.tokens(sizes.image_size, sizes.image_size)
    rows = []
    for text in texts:
        extra = order.integers(FEWEST_WORDS, most + 1)
        chosen = [*range(len(text.words)), *order.integers(len(text.words), size=extra)]
        words = [token for index in order.permutation(chosen) for token in text.words[index]]
        ids = text.before + words + text.after
        rows.append((ids, [IGNORE] * (len(ids) - len(text.labels)) + text.labels))
    width = max(len(ids) for ids, _ in rows)
    batch = {name: np.full((len(rows), width), value, np.int64) for name, value in _fillers(pad).items()}
    for number, (ids, labels) in enumerate(rows):
        batch["input_ids"][number, : len(ids)] = ids
        batch["labels"][number, : len(ids)] = labels
        batch["attention_mask"][number, : len(ids)] = 1
    return batch


def _fillers(pad: int) -> dict[str, int]:
    return {"input_ids": pad, "labels": IGNORE, "attention_mask": 0}


def _with_gap(ids: list[int], labels: list[int], tokenizer: Tokenizer, words: list[list[int]]) -> Text:
    first = ids.index(tokenizer.image_id)
    last = len(ids) - ids[::-1].index(tokenizer.image_id)
    return Text(ids[:first], ids[last:], labels[last:], words)
