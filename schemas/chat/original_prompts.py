"""The prompts of the original LLaVA code, for compat mode: which turns, and their text."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.chat.templates import Message, Template, content_parts
from schemas.errors import InputError

IMAGE = "<image>"
NOISE = "QA_GT_caption_based_noisy"
"""A marker in VideoInstruct-100k that LLaVA-NeXT removes from every turn."""

Turn = tuple[str, str]
"""(role, text), with `<image>` in the text."""


def original_turns(messages: Sequence[Message], template: Template) -> list[Turn]:
    """Messages as turns in the original's JSON.

    Raises InputError for a system turn, and for other speakers, where the original does: the block-wise templates
    accept them after the first turn, version 0 and `plain` everywhere.
    """
    turns = []
    for number, message in enumerate(messages):
        taken = template.family in ("signal", "plain") or (number > 0 and template.family in ("qwen", "llama_3"))
        if message["role"] not in ("user", "assistant") and not taken:
            raise _stops(f"turn {number} is from {message['role']!r}, but it only knows human and gpt")
        parts = content_parts(message, number)
        turns.append((message["role"], "".join(IMAGE if p["type"] == "image" else p.get("text") or "" for p in parts)))
    return turns


def pictures_first(text: str, template: Template, is_next: bool) -> str:
    """`preprocess_multimodal`: a turn's pictures become one, in front; LLaVA-NeXT only moves a single picture."""
    if is_next:
        if text.count(IMAGE) == 1 and not text.startswith(IMAGE):
            text = _moved(text, template)
        return text.replace(NOISE, "")
    return _moved(text, template) if IMAGE in text else text


def original_prompt(turns: list[Turn], template: Template) -> str:
    """The text that is tokenised, for all families but the block-wise ones (qwen, llama_3)."""
    if template.family == "signal":
        return f"{template.default_system}\n\n{''.join(map(signalled, turns))}### "
    if template.family == "plain":
        if len(turns) != 2 or IMAGE not in turns[0][1]:
            raise _stops("the plain template needs two turns, the first with a picture")
        return IMAGE + turns[1][1] + template.assistant[1]
    turns = _alternating(turns)
    return _inst_prompt(turns, template) if template.family == "inst" else _role_prompt(turns, template)


def signalled(turn: Turn) -> str:
    """A turn of version 0. The original ignores the case of its speakers' names, and calls all others unknown."""
    role, text = turn
    names = {"user": "Human", "human": "Human", "assistant": "Assistant", "gpt": "Assistant"}
    return f"### {names.get(role.lower(), 'unknown')}: {text}\n"


def with_system(turns: list[Turn], template: Template) -> list[Turn]:
    """The template's system prompt, then the turns from the first human one on."""
    return [("system", template.default_system), *_from_human(turns)]


def _role_prompt(turns: list[Turn], template: Template) -> str:
    """An empty turn is only its role, without the separator: the original takes it for an answer to be generated."""
    text = template.system[0] + template.default_system + template.system[1]
    for role, said in turns:
        opening, ending = template.user if role == "user" else template.assistant
        gap = template.answer_gap if role == "assistant" else ""
        text += f"{opening}{gap}{said}{ending}" if said else opening.rstrip(" ")
    return text


def _inst_prompt(turns: list[Turn], template: Template) -> str:
    if turns and not turns[0][1]:
        raise _stops("the first message is empty")
    text = ""
    system = template.system[0] + template.default_system + template.system[1] if template.default_system else ""
    for number, (role, said) in enumerate(turns):
        if not said:
            continue
        if role == "user":
            opening = template.user[0] if number == 0 or template.again is None else template.again
            text += opening + ("" if number else system) + said + template.user[1]
        else:
            text += f" {said} </s>"
    return text


def _alternating(turns: list[Turn]) -> list[Turn]:
    turns = _from_human(turns)
    for number, (role, _) in enumerate(turns):
        if role != ("user", "assistant")[number % 2]:
            raise _stops("turns do not alternate between human and gpt")
    return turns


def _from_human(turns: list[Turn]) -> list[Turn]:
    """Without the first turn if it is the assistant's (only the first: the original looks no further)."""
    return turns[1:] if turns and turns[0][0] != "user" else turns


def _moved(text: str, template: Template) -> str:
    moved = f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()
    return moved.replace(IMAGE, template.picture[0] + IMAGE + template.picture[1])


def _stops(reason: str) -> InputError:
    return InputError(f"the original code fails on this row: {reason}. It can be used without compat mode.")
