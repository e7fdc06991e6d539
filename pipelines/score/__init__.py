"""The step `score`: pictures and texts in, one column of scores per scorer out. Nothing is left out by it."""

from pipelines.score.scorer import RowScorer, Sample, Scorer, Settings, TextSettings, Value
from pipelines.score.step import Score, ScoreConfig

__all__ = ["RowScorer", "Sample", "Score", "ScoreConfig", "Scorer", "Settings", "TextSettings", "Value"]
