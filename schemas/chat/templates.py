"""Chat templates as data: the text around each turn, and which characters are supervised."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from schemas.config import nearest
from schemas.errors import InputError

Message = dict[str, Any]
ROLES = ("system", "user", "assistant")
BOS, EOS = "<s>", "</s>"
"""In a template these two denote the tokenizer's own first and last token, however it spells them."""

CONTROL = re.compile(r"(<s>|</s>|<\|[a-z_]+\|>)")


class Segment(NamedTuple):
    """A piece of a rendered conversation.

    supervised: the model is trained to write it. image: it denotes one picture (its text is `<image>`). control: its
    text is one control token of the tokenizer. All other text is plain text, whatever it looks like.
    """

    text: str
    supervised: bool = False
    image: bool = False
    control: bool = False


@dataclass(frozen=True)
class Template:
    """What a template writes around system, user and assistant turns.

    `answer_gap` comes between `assistant[0]` and a non-empty answer: Llama-like tokenizers merge it with the answer's
    first word, so a prompt for generation ends without it. `again` replaces `user[0]` after the first round.
    `in_user`: the system prompt is written inside the first user turn. `family` names the original code's procedure for
    labels (compat mode). `bare`: only pictures and the answer (stage 1). `opens`: a row starts with the tokenizer's
    first token even if the tokenizer does not write it by itself.
    """

    name: str
    family: str
    default_system: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer_gap: str = ""
    again: str | None = None
    in_user: bool = False
    picture: tuple[str, str] = ("", "")
    trim: bool = False
    bare: bool = False
    opens: bool = False
    stop: tuple[str, ...] = (EOS,)

    def render(self, messages: Sequence[Message], system: str | None = None) -> list[Segment]:
        """Segments of a conversation; their joined texts are the prompt, without the tokenizer's own first token.

        `system` replaces the template's prompt, as a leading system message does. Turns of the assistant before the
        first user turn are left out. Raises InputError for a role other than system, user and assistant, or a content
        part other than image and text.
        """
        return _merged(self._turns(messages, system))

    def generation_prompt(self, messages: Sequence[Message], system: str | None = None) -> list[Segment]:
        """The same, ending where the model has to continue."""
        opening = [] if self.bare else list(_literal(self.assistant[0]))
        return _merged([*self._turns(messages, system), *opening])

    def _turns(self, messages: Sequence[Message], system: str | None) -> list[Segment]:
        given, turns = split_system(messages)
        prompt = next(text for text in (system, given, self.default_system) if text is not None)
        if self.bare:
            return list(self._bare(turns))
        opening = self._system(prompt)
        made: list[Segment] = [] if self.in_user else list(opening)
        for number, (role, parts) in enumerate(turns):
            if role == "assistant":
                made += self._answer(parts)
                continue
            made += _literal(self.user[0] if number == 0 or self.again is None else self.again)
            if number == 0 and self.in_user:
                made += opening
            made += self._content(parts)
            made += _literal(self.user[1])
        return made

    def _system(self, prompt: str) -> list[Segment]:
        if not prompt:
            return []
        return [*_literal(self.system[0]), Segment(prompt), *_literal(self.system[1])]

    def _answer(self, parts: list[Message]) -> list[Segment]:
        """An answer and its end are supervised; an empty answer is an end right after the role."""
        content = self._content(parts)
        if not any(segment.text for segment in content):
            return [*_literal(self.assistant[0]), *_ending(self.assistant[1].lstrip(" "))]
        said = [Segment(part.text, not part.image, part.image) for part in content]
        return [*_literal(self.assistant[0]), Segment(self.answer_gap), *said, *_ending(self.assistant[1])]

    def _bare(self, turns: list[tuple[str, list[Message]]]) -> Iterator[Segment]:
        for role, parts in turns:
            if role == "user":
                yield from (Segment("<image>", image=True) for part in parts if part["type"] == "image")
            else:
                yield Segment(_text(parts), supervised=True)
                yield from _ending(self.assistant[1])

    def _content(self, parts: list[Message]) -> list[Segment]:
        """A single picture comes first, on its own line, as the original trains it; several keep their positions."""
        pictures = [part["type"] for part in parts].count("image")
        if pictures == 0:
            text = _text(parts)
            return [Segment(text.strip() if self.trim else text)]
        if pictures == 1:
            text = _text(parts).strip()
            return [*self._image(), Segment(f"\n{text}" if text else "")]
        return list(self._interleaved(parts))

    def _interleaved(self, parts: list[Message]) -> Iterator[Segment]:
        last = "\n"
        for part in parts:
            text = "<image>" if part["type"] == "image" else part.get("text") or ""
            if not text:
                continue
            if not last[-1].isspace() and not text[0].isspace():
                yield Segment("\n")
            yield from self._image() if part["type"] == "image" else [Segment(text)]
            last = text

    def _image(self) -> Iterator[Segment]:
        yield Segment(self.picture[0])
        yield Segment("<image>", image=True)
        yield Segment(self.picture[1])


def split_system(messages: Sequence[Message]) -> tuple[str | None, list[tuple[str, list[Message]]]]:
    """The system message, if any, and the other turns from the first user turn on; checks roles and parts."""
    system: str | None = None
    turns: list[tuple[str, list[Message]]] = []
    for number, message in enumerate(messages):
        role, parts = message["role"], content_parts(message, number)
        if role not in ROLES:
            raise InputError(f"message {number}: role {role!r}. {nearest(str(role), list(ROLES))}")
        if role == "system":
            system = _text(parts) if system is None else f"{system}\n{_text(parts)}"
        elif role == "user" or turns:
            turns.append((role, parts))
    return system, turns


def content_parts(message: Message, number: int = 0) -> list[Message]:
    """The content parts of a message; a plain string is one text part. Raises InputError for an unknown type."""
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    for part in content or []:
        if part.get("type") not in ("image", "text"):
            raise InputError(f"message {number}: content part of type {part.get('type')!r}; expected image or text.")
    return list(content or [])


def _text(parts: list[Message]) -> str:
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0].get("text") or ""
    return "".join(part.get("text") or "" for part in parts if part["type"] == "text")


@lru_cache(maxsize=256)
def _literal(text: str, supervised: bool = False) -> tuple[Segment, ...]:
    """A template's own text, with each control token as a separate segment."""
    return tuple(
        Segment(piece, supervised, control=CONTROL.fullmatch(piece) is not None) for piece in CONTROL.split(text)
    )


@lru_cache(maxsize=256)
def _ending(text: str) -> tuple[Segment, ...]:
    """The end of an answer, supervised up to its last control token: the template writes what follows."""
    pieces = _literal(text, supervised=True)
    last = max((number for number, piece in enumerate(pieces) if piece.control), default=len(pieces))
    return tuple(piece if number <= last else Segment(piece.text) for number, piece in enumerate(pieces))


def _merged(segments: Iterable[Segment]) -> list[Segment]:
    """Join neighbours of the same kind and drop empty ones."""
    made: list[Segment] = []
    texts: list[str] = []  # of plain neighbours that are not joined yet
    supervised = False
    for segment in segments:
        text, own, image, control = segment
        if not text:
            continue
        plain = not (image or control)
        if texts and not (plain and own == supervised):
            made.append(Segment("".join(texts), supervised))
            texts = []
        if plain:
            texts.append(text)
            supervised = own
        else:
            made.append(segment)
    if texts:
        made.append(Segment("".join(texts), supervised))
    return made
