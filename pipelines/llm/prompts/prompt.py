"""The prompt file: its format, validation, and rendering into messages."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from pipelines.llm.request import Message
from schemas.config import StrictModel, nearest, parse, read_yaml
from schemas.errors import InputError
from schemas.sandbox import Program, Sandbox, TemplateFault

FOLDER = Path(__file__).parent
Known = Literal["captions", "objects", "facts"]
_KNOWN: tuple[Known, ...] = ("captions", "objects", "facts")


class Example(StrictModel):
    """A worked example (few-shot): what is known about a picture that nobody has to see, and the answer to it."""

    captions: tuple[str, ...] = ()
    objects: tuple[dict[str, Any], ...] = ()
    facts: dict[str, str] = Field(default_factory=dict)
    values: dict[str, str] = Field(default_factory=dict)
    """Further template variables, for prompts that have some."""
    answer: str


class Prompt(StrictModel):
    """One versioned prompt.

    `user` and `system` are jinja2 templates in a sandbox (schemas/sandbox.py); they see `captions`, `objects`, `facts`,
    and with `answer: score` the `turns` of the conversation and the `axes` to score (name, asks) in a row's own order.
    """

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: str = Field(pattern=r"^[0-9]+$")
    kind: str
    """What the rows are: conversation, detail, reasoning, ..."""
    about: str
    """One line for people."""
    needs: tuple[Known, ...] = ()
    """The row must know at least one of these."""
    shows: tuple[Known, ...] = ("captions", "objects", "facts")
    """What of the known is put into the context; the rest is not shown to the model."""
    image: bool = False
    """Whether the picture itself is sent."""
    answer: Literal["turns", "pair", "text", "json_pairs", "score"]
    """How the answer is read (pipelines/llm/reading/parsers.py)."""
    questions: tuple[str, ...] = ()
    """For `text` answers: the instruction of a row is one of these, chosen by the row's key."""
    suffix: str = ""
    """Words after each question in the training row (how to answer)."""
    expected_output_tokens: int = Field(default=200, ge=1)
    """For estimates before anything was asked."""
    least_exchanges: int = Field(default=1, ge=1)
    """Fewer questions with an answer are `too_little`."""
    least_words: int = Field(default=0, ge=0)
    """Fewer words in all answers together are `too_little`."""
    system: str
    user: str
    examples: tuple[Example, ...] = ()

    @functools.cached_property
    def hash(self) -> str:
        """sha256 (64 hexadecimal digits) of what decides the answer, the context template that it includes among it.

        Not of what answers are measured by afterwards: those that were paid for are read again.
        """
        content = self.model_dump(mode="json", exclude={"least_exchanges", "least_words"})
        text = json.dumps(content, sort_keys=True, ensure_ascii=False) + (FOLDER / "context.j2").read_text()
        return hashlib.sha256(text.encode()).hexdigest()

    def messages(self, values: Mapping[str, Any], images: tuple[bytes, ...] = ()) -> tuple[Message, ...]:
        """System words, the examples as earlier turns, and the question about one picture."""
        turns = [Message("system", self._rendered("system", values))]
        for example in self.examples:
            shown = {"captions": example.captions, "objects": example.objects, "facts": example.facts, **example.values}
            turns.append(Message("user", self._rendered("user", shown)))
            turns.append(Message("assistant", example.answer.strip()))
        turns.append(Message("user", self._rendered("user", values), images if self.image else ()))
        return tuple(turns)

    def question(self, key: str) -> str:
        """One of `questions`, always the same for the same row key."""
        number = int(hashlib.sha256(f"{self.id}/{key}".encode()).hexdigest()[:16], 16)
        return self.questions[number % len(self.questions)]

    def compile(self, part: Literal["system", "user"]) -> Program:
        """The template of a part; raises TemplateFault for what it may not do, and for names that there are not."""
        names = (*_KNOWN, "turns", "axes") if self.answer == "score" else _KNOWN
        return _program(self.system if part == "system" else self.user, names)

    def _rendered(self, part: Literal["system", "user"], values: Mapping[str, Any]) -> str:
        shown: dict[str, Any] = {name: values.get(name) if name in self.shows else None for name in _KNOWN}
        try:
            return self.compile(part).render({**values, **shown}).strip()
        except TemplateFault as fault:
            raise InputError(f"prompt {self.id} version {self.version}: {part}: {fault}.") from fault


def load_prompt(name: str) -> Prompt:
    """A prompt by name (`detail`), or a user's own file by path (`my/detail.yaml`); raises InputError."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and not path.is_file():
        known = [file.stem for file in FOLDER.glob("*.yaml")]
        raise InputError(f"there is no prompt {name!r}. {nearest(name, known)} A path to a YAML file also works.")
    prompt = parse(read_yaml(path), Prompt, where=str(name))
    if prompt.answer == "text" and prompt.kind not in ("caption", "recaption") and not prompt.questions:
        raise InputError(f"{name}: a prompt with `answer: text` needs `questions`, the instructions of its rows.")
    parts: tuple[Literal["system", "user"], ...] = ("system", "user")
    for part in parts:
        try:
            prompt.compile(part)
        except TemplateFault as fault:
            raise InputError(f"{name}: {part}, {fault}. A prompt is a text with what is known put in.") from fault
    return prompt


@functools.lru_cache(maxsize=64)
def _program(text: str, names: tuple[str, ...]) -> Program:
    return _sandbox().program(text, names)


@functools.cache
def _sandbox() -> Sandbox:
    return Sandbox(FOLDER)
