"""The demo's starting point: a small tower and a small language model, trained from nothing, joined to a LLaVA folder.

In: a downloaded `images` dataset whose rows have facts (color=teal), and conversations about the same pictures.
Out: a tokenizer (before the mix, which counts with it), and a checkpoint folder for stage 1.
Tower and language model do not need each other: each learns in a process of its own.
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
    """Sizes and steps of the small models. They were chosen by trying: see docs/training.md."""

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
        """What the tower makes of a picture: image_size / patch_size squared tokens."""
        return ImageRule(mode="square", image_size=self.image_size, patch_size=self.patch_size)


@dataclass(frozen=True)
class Talk:
    """A conversations dataset, the template that its rows will be trained with, and which kinds of row (None: all)."""

    conversations: str
    template: str
    kinds: tuple[str, ...] | None = None

    def placed(self, work: Path) -> Talk:
        """The same, with the dataset in the folder `work`."""
        return replace(self, conversations=str(work / self.conversations))

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows of these kinds that are fit to use."""
        for batch in Dataset.open(self.conversations).batches([*columns, "kind", "status"], 1024):
            for row in batch.to_pylist():
                if row["status"] == "ok" and (self.kinds is None or row["kind"] in self.kinds):
                    yield row


def train_tokenizer(talks: Sequence[Talk], folder: str | Path, vocabulary: int = BaseSizes.vocabulary) -> Path:
    """A byte-level BPE tokenizer learnt from the conversations as their templates write them; the folder."""
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
    """Train tower and language model and join them in `folder`/model; what each reached, and `reused` when both were
    there already, from the same inputs."""
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
        seeing = pool.submit(train_tower, str(images), str(tower), sizes)
        speaking = pool.submit(train_language, str(images), list(talks), str(tokenizer), str(language), sizes)
        reached = {"tower": seeing.result(), "language": speaking.result()}
    template = talks[-1].template
    assemble(tower, language, folder / "model", rule=sizes.rule, template=template, select_layer=-1, seed=sizes.seed)
    write_json(folder / DONE, {"fingerprint": mark, **reached, "model": str(folder / "model")})
    return {**reached, "model": str(folder / "model"), "reused": False}


def base_fingerprint(images: str | Path, talks: Sequence[Talk], tokenizer: str | Path, sizes: BaseSizes) -> str:
    """What the base model is a function of."""
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
    """Every conversation as its template writes it."""
    from schemas.chat import get_template

    for talk in talks:
        template = get_template(talk.template)
        for row in talk.rows(["messages"]):
            yield "".join(part.text for part in template.render(row["messages"]) if not part.image)
