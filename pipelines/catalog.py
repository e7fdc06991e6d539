"""Every step and importer by name, and where it lives. Importing this file imports none of them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """`module:attribute` of a class, and one line of help."""

    place: str
    help: str
    makes: str = ""
    """The schema of the dataset that it makes; empty when it adds columns."""

    def load(self) -> Any:
        module, attribute = self.place.split(":")
        return getattr(importlib.import_module(module), attribute)


STEPS = {
    "download": Entry("pipelines.download:Download", "Fetch every URL into an images dataset, politely and safely."),
    "dedupe": Entry("pipelines.dedupe:Dedupe", "Find exact copies and near-copies among all pictures."),
    "caption": Entry("pipelines.caption:Caption", "Describe pictures with a model, an endpoint, or a classifier."),
    "generate": Entry(
        "pipelines.generate:Generate", "Let an LLM talk about every picture of DATASET.", "conversations"
    ),
    "judge": Entry("pipelines.judge:Judge", "Let an LLM score the conversations of DATASET from 1 to 5."),
}

IMPORTERS = {
    "url_list": Entry("pipelines.importers.url_list:UrlList", "txt, csv, tsv, json, jsonl or parquet with URLs"),
    "llava_json": Entry("pipelines.importers.llava_json:LlavaJson", "LLaVA's JSON lists of conversations"),
    "image_folder": Entry("pipelines.importers.image_folder:ImageFolder", "a folder of pictures"),
    "huggingface": Entry("pipelines.importers.huggingface:HuggingFace", "a saved Hugging Face dataset"),
    "webdataset": Entry("pipelines.importers.webdataset:WebDataset", "webdataset tar files"),
    "img2dataset": Entry("pipelines.importers.img2dataset:Img2dataset", "what img2dataset wrote, as it is"),
    "easy_vqa": Entry("pipelines.importers.easy_vqa:EasyVqa", "Easy-VQA questions and answers"),
}


def step(name: str) -> Any:
    """The class of step `name`; raises InputError naming the nearest one."""
    return _find(name, STEPS, "step")


def importer(name: str) -> Any:
    """The class of importer `name`; raises InputError naming the nearest one."""
    return _find(name, IMPORTERS, "importer")


def _find(name: str, entries: dict[str, Entry], kind: str) -> Any:
    if name not in entries:
        from schemas.config import nearest
        from schemas.errors import InputError

        raise InputError(f"there is no {kind} {name!r}. {nearest(name, list(entries))}")
    return entries[name].load()
