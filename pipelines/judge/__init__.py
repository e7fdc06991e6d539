"""Scores of conversations: reads a conversations dataset and its pictures' notes, adds an LLM's scores as columns."""

from pipelines.judge.step import Judge

__all__ = ["Judge"]
