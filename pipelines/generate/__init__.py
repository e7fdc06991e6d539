"""`generate`: instruction data written by an LLM. In: an `images` dataset. Out: a `conversations` dataset.

pipelines/llm/ says what is known about a picture (context.py), what is asked (prompts/), sends it and reads the answer
(reading/); checks.py verifies it, writer.py makes the rows, step.py runs it as a step.
"""

from pipelines.generate.config import GenerateConfig
from pipelines.generate.step import Generate

__all__ = ["Generate", "GenerateConfig"]
