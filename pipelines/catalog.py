"""The registry of steps and importers. Importing this file imports none of them.

Built-in ones are listed here; those of installed packages are entry points of the groups `lavabeam.steps` and
`lavabeam.importers`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pipelines.engine.step import Step
    from pipelines.importers.base import Importer

T = TypeVar("T")
GROUPS = {"step": "lavabeam.steps", "importer": "lavabeam.importers"}


@dataclass(frozen=True)
class Entry:
    """`module:attribute` of a class, and one line of help."""

    location: str
    help: str
    package: str = ""
    """The installed package that it comes from; empty for ours."""

    def load(self) -> Any:
        """The class. Of a package that cannot be imported the caller reports the error."""
        module, _, attribute = self.location.partition(":")
        return getattr(importlib.import_module(module), attribute)


STEPS = {
    "download": Entry("pipelines.download:Download", "Download images by URL, with rate limits and safety checks."),
    "dedupe": Entry("pipelines.dedupe:Dedupe", "Find exact and near-duplicate images."),
    "dedupe_text": Entry("pipelines.dedupe.text:DedupeText", "Find exact and near-duplicate texts in a column."),
    "dedupe_semantic": Entry("pipelines.dedupe.semantic:DedupeSemantic", "Find rows with nearly equal embeddings."),
    "dedupe_joint": Entry("pipelines.dedupe.joint:DedupeJoint", "Find rows that share a cluster of every kind."),
    "balance": Entry("pipelines.balance:Balance", "Balance captions by concept, as for CC3M-595K."),
    "decontaminate": Entry("pipelines.decontaminate:Decontaminate", "Find rows that also occur in evaluation sets."),
    "embed": Entry("pipelines.embed:Embed", "Compute image embeddings with a CLIP, SigLIP, ViT or DINOv2 model."),
    "embed_text": Entry("pipelines.embed:EmbedText", "Compute text embeddings with a BERT-like, CLIP or SigLIP model."),
    "score": Entry("pipelines.score:Score", "Score images and texts: sharpness, text share, language, similarity..."),
    "caption": Entry("pipelines.caption:Caption", "Caption images with a model, an endpoint, or a classifier."),
    "generate": Entry("pipelines.generate:Generate", "Have an LLM write conversations about the images of DATASET."),
    "judge": Entry("pipelines.judge:Judge", "Have an LLM score the conversations of DATASET from 1 to 5."),
}

_FAMILIES = "pipelines.importers.families"
IMPORTERS = {
    "url_list": Entry("pipelines.importers.url_list:UrlList", "txt, csv, tsv, json, jsonl or parquet with URLs"),
    "llava_json": Entry("pipelines.importers.llava_json:LlavaJson", "LLaVA's JSON lists of conversations"),
    "image_folder": Entry("pipelines.importers.image_folder:ImageFolder", "a folder of pictures"),
    "huggingface": Entry("pipelines.importers.huggingface:HuggingFace", "pictures in parquet and arrow files"),
    "huggingface_chat": Entry(
        "pipelines.importers.huggingface_chat:HuggingFaceChat", "conversations in parquet and arrow files"
    ),
    "webdataset": Entry("pipelines.importers.webdataset:WebDataset", "pictures in webdataset tar files"),
    "webdataset_chat": Entry(
        "pipelines.importers.webdataset_chat:WebDatasetChat", "conversations in webdataset tar files"
    ),
    "img2dataset": Entry("pipelines.importers.img2dataset:Img2dataset", "img2dataset's output folder"),
    "easy_vqa": Entry("pipelines.importers.easy_vqa:EasyVqa", "Easy-VQA questions and answers"),
    "vqav2": Entry(f"{_FAMILIES}.vqav2:Vqav2", "VQAv2: v2_OpenEnded_mscoco_*_questions.json"),
    "okvqa": Entry(f"{_FAMILIES}.okvqa:Okvqa", "OK-VQA: OpenEnded_mscoco_*_questions.json"),
    "aokvqa": Entry(f"{_FAMILIES}.aokvqa:Aokvqa", "A-OKVQA: aokvqa_v1p0_*.json"),
    "gqa": Entry(f"{_FAMILIES}.gqa:Gqa", "GQA: *_balanced_questions.json"),
    "ocrvqa": Entry(f"{_FAMILIES}.ocrvqa:Ocrvqa", "OCR-VQA: dataset.json"),
    "textvqa": Entry(f"{_FAMILIES}.textvqa:Textvqa", "TextVQA: TextVQA_0.5.1_*.json"),
    "textcaps": Entry(f"{_FAMILIES}.textcaps:Textcaps", "TextCaps: TextCaps_0.1_*.json"),
    "scienceqa": Entry(f"{_FAMILIES}.scienceqa:Scienceqa", "ScienceQA: problems.json and pid_splits.json"),
    "docvqa": Entry(f"{_FAMILIES}.docvqa:Docvqa", "DocVQA: *_v1.0.json or *_v1.0_withQT.json"),
    "infographicvqa": Entry(f"{_FAMILIES}.infographicvqa:Infographicvqa", "InfographicVQA: infographicVQA_*_v1.0.json"),
    "chartqa": Entry(f"{_FAMILIES}.chartqa:Chartqa", "ChartQA: *_human.json and *_augmented.json"),
    "ai2d": Entry(f"{_FAMILIES}.ai2d:Ai2d", "AI2D: the folder questions and ai2d_test_ids.csv"),
    "refcoco": Entry(f"{_FAMILIES}.refcoco:Refcoco", "RefCOCO: refs(unc).p, with instances.json"),
    "refcoco_plus": Entry(f"{_FAMILIES}.refcoco:RefcocoPlus", "RefCOCO+: refs(unc).p, with instances.json"),
    "refcocog": Entry(f"{_FAMILIES}.refcoco:Refcocog", "RefCOCOg: refs(umd).p, with instances.json"),
    "vg_regions": Entry(f"{_FAMILIES}.visual_genome:VgRegions", "Visual Genome: region_descriptions.json"),
    "vg_qa": Entry(f"{_FAMILIES}.visual_genome:VgQa", "Visual Genome: question_answers.json"),
    "coco": Entry(f"{_FAMILIES}.coco:Coco", "COCO's pictures: captions_*.json, instances_*.json"),
    "sharegpt": Entry(f"{_FAMILIES}.sharegpt:ShareGpt", "ShareGPT's conversations, filtered as Vicuna does"),
}

BEFORE_STEPS = ("demo", "run", "import")
AFTER_STEPS = (
    "decontaminate-index",
    "mix",
    *("plan", "tokens", "train", "merge", "export-checkpoint", "import-checkpoint"),
    *("chat", "answer", "evaluate", "review", "serve"),
    *("show", "log", "files", "verify", "rollback", "gc", "report", "export", "cache", "recipes"),
    *("dags", "dataflow"),
)
"""The other commands in the order in which `lavabeam --help` lists them, before and after the steps."""
COMMANDS = frozenset({*BEFORE_STEPS, *AFTER_STEPS})
"""Names that no step may have. `base`, the file of a dataset's rows, is reserved too."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def steps() -> dict[str, Entry]:
    """Our steps, then those of installed packages."""
    return {**STEPS, **_installed("step")[0]}


def importers() -> dict[str, Entry]:
    """Our importers, then those of installed packages."""
    return {**IMPORTERS, **_installed("importer")[0]}


def refused() -> list[str]:
    """One line about each entry point of an installed package that is left out, and why."""
    return [line for kind in GROUPS for line in _installed(kind)[1]]


def step(name: str) -> type[Step[Any]]:
    """The class of step `name`; raises InputError naming the nearest one, or the package that cannot be loaded."""
    from pipelines.engine.step import Step

    return _find(name, STEPS if name in STEPS else steps(), "step", Step)


def importer(name: str) -> type[Importer]:
    """The class of importer `name`; raises InputError as `step` does."""
    from pipelines.importers.base import Importer

    return _find(name, IMPORTERS if name in IMPORTERS else importers(), "importer", Importer)  # type: ignore[type-abstract]


def asks_llm(name: str) -> bool:
    """Whether step `name` may ask an LLM. False for words that are no step, such as `mix`."""
    from pipelines.llm.asks import AsksLlm

    return (name in STEPS or name in steps()) and issubclass(step(name), AsksLlm)


def _find(name: str, entries: dict[str, Entry], kind: str, base: type[T]) -> type[T]:
    from schemas.config import nearest
    from schemas.errors import InputError

    if name not in entries:
        raise InputError(f"there is no {kind} {name!r}. {nearest(name, list(entries))}")
    entry = entries[name]
    if not entry.package:
        return entry.load()
    try:
        found = entry.load()
    except Exception as error:  # a package may raise anything while it is imported
        cause = " ".join(str(error).split())
        raise InputError(
            f"{kind} {name!r} of the package {entry.package} cannot be loaded: {type(error).__name__}: {cause}. "
            "Repair or uninstall the package."
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)) or getattr(found, "name", None) != name:
        raise InputError(
            f"{kind} {name!r} of the package {entry.package}: {entry.location} is not a {base.__name__} named {name!r}."
        )
    return found


@cache
def _installed(kind: str) -> tuple[dict[str, Entry], list[str]]:
    """The entries of installed packages, and a line about each that is left out. Imports none of them."""
    taken = {*COMMANDS, "base", *STEPS} if kind == "step" else {*IMPORTERS}
    found: dict[str, Entry] = {}
    lines = []
    for point, package in _entry_points(GROUPS[kind]):
        reason = ""
        if point.name in found:
            reason = f"the package {found[point.name].package} has that name already"
        elif point.name in taken:
            reason = "LavaBeam has that name already"
        elif not _NAME.fullmatch(point.name):
            reason = "a name consists of lower-case letters, digits and underscores, and begins with a letter"
        if reason:
            lines.append(f"{kind} {point.name!r} of the package {package} is left out: {reason}.")
            continue
        words = {"step": f"A step of the package {package}.", "importer": f"a source of the package {package}"}
        found[point.name] = Entry(point.value, words[kind], package)
    return found, lines


def _entry_points(group: str) -> Iterator[tuple[importlib.metadata.EntryPoint, str]]:
    """Sorted by package and name, so that the same packages give the same commands."""
    points = importlib.metadata.entry_points(group=group)
    yield from sorted(((point, point.dist.name if point.dist else "?") for point in points), key=_package_and_name)


def _package_and_name(found: tuple[importlib.metadata.EntryPoint, str]) -> tuple[str, str]:
    return found[1], found[0].name
