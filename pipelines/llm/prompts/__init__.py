"""Prompts are data: one YAML file each, with an id, a version, worked examples, and a hash that every row records.

In: a prompt's name or the path of a user's own file, and what is known about a picture. Out: chat messages.
A changed text needs a new version (a test keeps the hashes of the released ones).
"""

from pipelines.llm.prompts.prompt import Prompt, load_prompt

__all__ = ["Prompt", "load_prompt"]
