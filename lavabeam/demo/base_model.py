"""The demo's base model: a small tower and a small language model, trained from scratch and joined to a LLaVA.

In: a downloaded `images` dataset whose rows have facts (color=teal), and conversations about the same pictures.
Out: a tokenizer (before the mix, which counts with it), and a checkpoint folder for stage 1.
Tower and language model do not depend on each other: each is trained in its own process.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from schemas.chat import ImageRule
from schemas.dataset import Dataset
from schemas.fingerprint import fingerprint

DONE = "base.json"


@dataclass(frozen=True)
class BaseSizes:
    """Sizes and steps of the small models, found by experiment: see docs/training.md."""

    image_size: int = 32
    patch_size: int = 8
    width: int = 64
    layers: int = 2
    heads: int = 4
    key_value_heads: int = 2
    positions: int = 512
    vocabulary: int = 512
    tower_steps: int = 900
    tower_batch: int = 64
    tower_rate: float = 3e-3
    language_steps: int = 400
    language_batch: int = 48
    language_rate: float = 3e-3
    seed: int = 0

    @property
    def rule(self) -> ImageRule:
        """The tower's image rule: image_size / patch_size squared tokens per picture."""
        return ImageRule(mode="square", image_size=self.image_size, patch_size=self.patch_size)


@dataclass(frozen=True)
class Talk:
    """A conversations dataset, the template that its rows will be trained with, and the kinds of rows (None: all)."""

    conversations: str
    template: str
    kinds: tuple[str, ...] | None = None

    def below(self, work: Path) -> Talk:
        """The same, with the dataset in the folder `work`."""
        return replace(self, conversations=str(work / self.conversations))

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The usable rows of these kinds."""
        for batch in Dataset.open(self.conversations).batches([*columns, "kind", "status"], 1024):
            for row in batch.to_pylist():
                if row["status"] == "ok" and (self.kinds is None or row["kind"] in self.kinds):
                    yield row


def train_tokenizer(talks: Sequence[Talk], folder: str | Path, vocabulary: int = BaseSizes.vocabulary) -> Path:
    """Train a byte-level BPE tokenizer on the conversations as their templates render them; returns its folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(_texts(talks), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    wrapped.save_pretrained(folder)
    return Path(folder)


def make_base_model(
    images: str | Path,
    talks: Sequence[Talk],
    tokenizer: str | Path,
    folder: str | Path,
    sizes: BaseSizes = BaseSizes(),
) -> dict[str, Any]:
    """Train tower and language model and join them in `folder`/model. Returns the results of both, and `reused` if both
    already existed from the same inputs."""
    from lavabeam.demo.language import train_language
    from lavabeam.demo.tower import train_tower
    from trainer.models.assemble import assemble
    from trainer.runfolder import write_json

    folder = Path(folder)
    mark = base_fingerprint(images, talks, tokenizer, sizes)
    known = _known(folder, mark)
    if known is not None:
        return {**known, "reused": True}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tower, language = folder / "tower", folder / "language"
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        vision = pool.submit(train_tower, str(images), str(tower), sizes)
        text = pool.submit(train_language, str(images), list(talks), str(tokenizer), str(language), sizes)
        results = {"tower": vision.result(), "language": text.result()}
    template = talks[-1].template
    assemble(tower, language, folder / "model", rule=sizes.rule, template=template, select_layer=-1, seed=sizes.seed)
    write_json(folder / DONE, {"fingerprint": mark, **results, "model": str(folder / "model")})
    return {**results, "model": str(folder / "model"), "reused": False}


def base_fingerprint(images: str | Path, talks: Sequence[Talk], tokenizer: str | Path, sizes: BaseSizes) -> str:
    """A hash of everything that the base model depends on."""
    from schemas.chat import load_tokenizer

    files = [Dataset.open(talk.conversations).as_parent().sha256 for talk in talks]
    templates = [(talk.template, talk.kinds) for talk in talks]
    pictures = Dataset.open(images).as_parent().sha256
    return fingerprint(asdict(sizes), pictures, files, templates, load_tokenizer(tokenizer).hash)


def _known(folder: Path, mark: str) -> dict[str, Any] | None:
    import json

    if not (folder / DONE).is_file():
        return None
    known = json.loads((folder / DONE).read_text(encoding="utf-8"))
    return known if known.pop("fingerprint") == mark else None


def _texts(talks: Sequence[Talk]) -> Iterator[str]:
    """Every conversation as its template renders it."""
    from schemas.chat import get_template

    for talk in talks:
        template = get_template(talk.template)
        for row in talk.rows(["messages"]):
            yield "".join(part.text for part in template.render(row["messages"]) if not part.image)
