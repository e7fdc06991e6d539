"""The step `score`: images and texts in, one column per scorer out. It excludes no rows."""

from pipelines.score.scorer import RowScorer, Sample, Scorer, Settings, TextSettings, Value
from pipelines.score.step import Score, ScoreConfig

__all__ = ["RowScorer", "Sample", "Score", "ScoreConfig", "Scorer", "Settings", "TextSettings", "Value"]
