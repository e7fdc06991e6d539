"""Decontaminate: reads pictures and texts, adds which of them are in evaluation sets, by an index of hashes."""

from pipelines.decontaminate.build import SetReport, build_index
from pipelines.decontaminate.index import Settings
from pipelines.decontaminate.step import Decontaminate, DecontaminateConfig, DecontaminateStatus

__all__ = [
    "Decontaminate",
    "DecontaminateConfig",
    "DecontaminateStatus",
    "SetReport",
    "Settings",
    "build_index",
]
