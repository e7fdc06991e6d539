"""Duplicates: reads hashes of all pictures of a dataset, adds clusters and what each picture repeats."""

from pipelines.dedupe.keys import DedupeConfig
from pipelines.dedupe.step import Dedupe, DedupeStatus
from pipelines.dedupe.text import DedupeText, TextConfig

__all__ = ["Dedupe", "DedupeConfig", "DedupeStatus", "DedupeText", "TextConfig"]
