"""Captions for pictures: reads image bytes, adds a caption and who wrote it (engine, model, version)."""

from pipelines.caption.step import CaptionConfig, CaptionStatus
from pipelines.caption.step import CaptionStep as Caption

__all__ = ["Caption", "CaptionConfig", "CaptionStatus"]
