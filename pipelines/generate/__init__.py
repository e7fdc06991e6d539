"""`generate`: instruction data written by an LLM. In: an `images` dataset. Out: a `conversations` dataset.

context.py says what is known about a picture, pipelines/llm/prompts/ what is asked, pipelines/llm/ sends it,
parsers.py reads the answer, checks.py verifies it, step.py makes the rows, judge.py scores them afterwards.
"""

from pipelines.generate.config import GenerateConfig
from pipelines.generate.step import Generate

__all__ = ["Generate", "GenerateConfig"]
