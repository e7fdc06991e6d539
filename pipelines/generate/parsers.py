"""Reading answers: tolerant about form, strict about content. Text in, (question, answer) pairs out, or `Rejected`."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.generate.statuses import GenerateStatus, Rejected
from pipelines.llm.request import AnswerSchema

Pair = tuple[str, str]

_ASKER = r"question|q|user|human|person|asker|visitor"
_ANSWERER = r"answer|a|assistant|gpt|model|observer|response|reply"
# A turn's label at the start of a line, with what models put around it: bullets, numbers, bold, "Q1:", "Answer 2 -".
_LABEL = re.compile(
    rf"^[\s>#*_\-\d.)(]*(?:(?P<asker>{_ASKER})|(?P<answerer>{_ANSWERER}))\s*\d*[*_]*\s*(?:[:：]|\s[-–—]\s|[.)](?=\s))[*_]*\s*",
    re.IGNORECASE,
)
# A label as a heading of its own ("### Question 2", "**Answer**"), and as tags ("<question>...</question>").
_HEADING = re.compile(
    rf"^\s*(?:#+\s*[*_]*|[*_]{{2,}})(?P<who>{_ASKER}|{_ANSWERER})\s*(?P<number>\d*)[*_:：]*\s*$",
    re.IGNORECASE | re.MULTILINE,
)
_TAG = re.compile(rf"<(?P<end>/?)(?P<who>{_ASKER}|{_ANSWERER})>", re.IGNORECASE)
# A question without a question mark; only where nothing is labelled.
_INSTRUCTION = re.compile(
    r"(?:please )?(?:describe|explain|write|analy[sz]e|tell|give|list|name|summari[sz]e|compare|identify|say)\b[^\n]*$",
    re.IGNORECASE,
)
_RULE = re.compile(r"^\s*(?:[=\-*_~#]\s*){3,}$")
_FENCE = re.compile(r"^\s*```[\w-]*\s*\n(?P<inner>.*?)\n?\s*```\s*$", re.DOTALL)
# "Sure! Here is the description:" before the answer itself.
_PREFACE = re.compile(
    r"^\s*(?:sure|certainly|of course|okay|ok|here(?:'s| is| are))\b[^\n]{0,120}:[ \t]*\n+", re.IGNORECASE
)
_TITLE = re.compile(r"^[\s#*_]*(?:answer|description|detailed description)[*_\s]*[:：][*_]*\s*", re.IGNORECASE)


class QuestionAnswer(BaseModel):
    """One question with its answer."""

    model_config = ConfigDict(extra="forbid")

    question: str
    answer: str


class QuestionAnswers(BaseModel):
    """What a `json_pairs` prompt asks for."""

    model_config = ConfigDict(extra="forbid")

    pairs: list[QuestionAnswer]


PAIRS_SCHEMA = AnswerSchema("question_answers", QuestionAnswers.model_json_schema())


def parse_turns(text: str) -> list[Pair]:
    """A conversation in any usual notation: labelled lines, JSON, or questions and answers as paragraphs in turn."""
    text = _unwrapped(text)
    pairs = _from_json(text) or _labelled(text) or _unlabelled(text)
    pairs = [(question, answer) for question, answer in pairs if question and answer]
    if not pairs:
        raise Rejected(GenerateStatus.no_answer, f"no question with an answer in: {_start(text)}")
    return pairs


def parse_pair(text: str) -> list[Pair]:
    """One question with its answer; when there are more, the first."""
    return parse_turns(text)[:1]


def parse_text(text: str) -> str:
    """A text that is the answer itself, without a preface, a title or a code fence around it."""
    text = _PREFACE.sub("", _unwrapped(text), count=1)
    text = _TITLE.sub("", text, count=1).strip()
    if not text:
        raise Rejected(GenerateStatus.no_answer, "the answer is empty")
    return text


def parse_json(text: str) -> Any:
    """The first JSON object or list in the text, whatever stands around it; raises ValueError."""
    text = _unwrapped(text)
    starts = [place for place in (text.find("{"), text.find("[")) if place >= 0]
    if not starts:
        raise ValueError(f"no JSON in: {_start(text)}")
    value, _ = json.JSONDecoder().raw_decode(text[min(starts) :])
    return value


def _from_json(text: str) -> list[Pair]:
    """`[{"question", "answer"}]`, the same under one key, or a list of role/content turns; [] when it is none."""
    if text[:1] not in "{[":
        return []
    try:
        value = parse_json(text)
    except ValueError:
        return []
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if lists else [value]
    items = [item for item in value if isinstance(item, dict)]
    pairs = [(_text(item, "question", "q"), _text(item, "answer", "a")) for item in items]
    if any(question for question, _ in pairs):
        return pairs
    turns = [(_text(item, "role", "from"), _text(item, "content", "value", "text")) for item in items]
    return _paired([(bool(re.fullmatch(_ASKER, who, re.IGNORECASE)), said) for who, said in turns])


def _labelled(text: str) -> list[Pair]:
    turns: list[tuple[bool, list[str]]] = []
    text = _HEADING.sub(r"\g<who>\g<number>: ", text)
    text = _TAG.sub(lambda tag: "\n" if tag["end"] else f"\n{tag['who']}: ", text)
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label:
            turns.append((label["asker"] is not None, [line[label.end() :]]))
        elif turns and not _RULE.match(line):
            turns[-1][1].append(line)
    return _paired([(asks, _joined(lines)) for asks, lines in turns])


def _unlabelled(text: str) -> list[Pair]:
    """Paragraphs in turn: a question ends with its mark or is an order, up to the next one is its answer."""
    first, _, rest = text.partition("\n")
    if _INSTRUCTION.match(first):
        text = f"{first}\n\n{rest}"
    paragraphs = [_joined([part]) for part in re.split(r"\n\s*\n|\n(?=[^\n]*\?\s*\n)|(?<=\?)\s*\n", text)]
    asks = [part.endswith("?") or _INSTRUCTION.match(part) is not None for part in paragraphs]
    turns = [(asking, part) for asking, part in zip(asks, paragraphs, strict=True) if part and not _RULE.match(part)]
    return _paired(turns) if turns and turns[0][0] else []


def _paired(turns: list[tuple[bool, str]]) -> list[Pair]:
    """Questions with the answers after them. Turns of one speaker in a row are one turn; a lone turn is left out."""
    merged: list[tuple[bool, str]] = []
    for asks, said in turns:
        if merged and merged[-1][0] == asks:
            merged[-1] = (asks, f"{merged[-1][1]}\n\n{said}".strip())
        else:
            merged.append((asks, said))
    return [
        (question[1], answer[1]) for question, answer in itertools.pairwise(merged) if question[0] and not answer[0]
    ]


def _unwrapped(text: str) -> str:
    fenced = _FENCE.match(text)
    return (fenced["inner"] if fenced else text).strip()


def _joined(lines: list[str]) -> str:
    text = "\n".join(line.strip() for line in lines).strip()
    return re.sub(r"\n{3,}", "\n\n", text)


def _text(item: dict[str, Any], *names: str) -> str:
    found = [value for name, value in item.items() if name.lower() in names and isinstance(value, (str, int, float))]
    return str(found[0]).strip() if found else ""


def _start(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
