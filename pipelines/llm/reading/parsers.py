"""Parsers: tolerant about form, strict about content. Text in, (question, answer) pairs out, or `Rejected`."""

from __future__ import annotations

import functools
import itertools
import json
import re
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.llm.reading.notation import bare, is_ornament, joined, unnumbered, untitled, unwrapped
from pipelines.llm.reading.rejected import NO_ANSWER, Rejected
from pipelines.llm.request import AnswerSchema

Pair = tuple[str, str]

# Who asks and who answers, in sets that go together: inside one set's answers the words of another are only words.
_SPEAKERS = (
    (
        "question|frage|pregunta|domanda|pergunta|vraag|问题|问",
        "answer|antwort|réponse|reponse|respuesta|risposta|resposta|antwoord|response|reply|回答|答案|答",
    ),
    ("q", "a"),
    ("user|human|person|curious person|asker|visitor", "assistant|gpt|model|observer|ai|you|response|reply"),
)
_ANY = tuple("|".join(words) for words in zip(*_SPEAKERS, strict=True))
# A question without a question mark; only where nothing is labelled.
_INSTRUCTION = re.compile(
    r"(?:please )?(?:describe|explain|write|analy[sz]e|tell|give|list|name|summari[sz]e|compare|identify|say)\b[^\n]*$",
    re.IGNORECASE,
)
_BRACKET = re.compile(r"[\[{]")
# So many brackets that begin no JSON are looked behind; a text full of them is none.
_MOST_BRACKETS = 20
MOST_CHARACTERS = 2**15
"""A longer answer is not read: no conversation has 8,000 tokens, and some patterns take the square of a length."""
# Between paragraphs: a blank line, and the line breaks before and after a line that ends as a question.
_PARAGRAPHS = re.compile(
    r"""\n\s*\n|\n(?=[^\n]*[?？][*_"”]*\s*\n)|(?<=[?？])\s*\n|(?<=[?？]["”])\s*\n|(?<=[?？]\*\*)\s*\n"""
)


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
    text = unwrapped(_of_a_length(text))
    pairs = _from_json(text) or _labelled(text) or _unlabelled(text)
    pairs = [(bare(question), bare(answer)) for question, answer in pairs if question and answer]
    if not pairs:
        raise Rejected(NO_ANSWER, f"no question and answer in: {_start(text)}")
    return pairs


def parse_pair(text: str) -> list[Pair]:
    """One question with its answer; when there are more, the first."""
    return parse_turns(text)[:1]


def parse_text(text: str) -> str:
    """A text that is the answer itself, without a greeting, a title, quotes or a code fence around it."""
    text = bare(untitled(unwrapped(_of_a_length(text))))
    if not text:
        raise Rejected(NO_ANSWER, "the answer is empty")
    return text


def parse_json(text: str) -> Any:
    """The first JSON object or list in the text, whatever surrounds it; raises ValueError."""
    if len(text) > MOST_CHARACTERS:
        raise ValueError(_too_long(text))
    values = _json_values(unwrapped(text))
    if not values:
        raise ValueError(f"no JSON in: {_start(text)}")
    return values[0]


def _of_a_length(text: str) -> str:
    if len(text) > MOST_CHARACTERS:
        raise Rejected(NO_ANSWER, _too_long(text))
    return text


def _too_long(text: str) -> str:
    return f"the answer has {len(text)} characters; at most {MOST_CHARACTERS} are parsed"


def _json_values(text: str) -> list[Any]:
    """The JSON objects and lists in a text, one after the other. Line breaks inside strings are let pass."""
    reader, values, position, misses = json.JSONDecoder(strict=False), [], 0, 0
    while misses < _MOST_BRACKETS and (found := _BRACKET.search(text, position)):
        try:
            value, position = reader.raw_decode(text, found.start())
            values.append(value)
        except (ValueError, RecursionError):
            position, misses = found.end(), misses + 1
    return values


def _from_json(text: str) -> list[Pair]:
    """`[{"question", "answer"}]`, the same under one key or line by line, or a list of role/content turns; else []."""
    if text[:1] not in ("{", "["):
        return []
    values = _json_values(text)
    value = values[0] if len(values) == 1 else values
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if lists else [value]
    items = [item for item in value if isinstance(item, dict)]
    pairs = [(_text(item, "question", "q"), _text(item, "answer", "a")) for item in items]
    if any(question for question, _ in pairs):
        return pairs
    turns = [(_text(item, "role", "from"), _text(item, "content", "value", "text")) for item in items]
    return _paired([(bool(re.fullmatch(_ANY[0], who, re.IGNORECASE)), said) for who, said in turns])


def _labelled(text: str) -> list[Pair]:
    """By the speakers who come first; if that gives nothing, by all speakers there are."""
    first = [(_label(*words).search(text), words) for words in _SPEAKERS]
    used = sorted((found.start(), words) for found, words in first if found)
    for _, words in [*used, (0, _ANY)]:
        pairs = _spoken(text, *words)
        if pairs:
            return pairs
    return []


def _spoken(text: str, askers: str, answerers: str) -> list[Pair]:
    turns: list[tuple[bool, list[str]]] = []
    label = _label(askers, answerers)
    # "### Question 2" alone on its line, <question>...</question>, and "Question: ...? Answer: ..." on one line.
    heading = rf"^\s*(?:#+\s*[*_]*|[*_]{{2,}})(?P<who>{askers}|{answerers})\s*(?P<number>\d*)[*_:：]*\s*$"
    text = re.sub(heading, r"\g<who>\g<number>: ", text, flags=re.IGNORECASE | re.MULTILINE)
    tag = re.compile(rf"<(?P<end>/?)(?P<who>{askers}|{answerers})>", re.IGNORECASE)
    text = tag.sub(lambda found: "\n" if found["end"] else f"\n{found['who']}: ", text)
    text = re.sub(rf"(?<=[?？])[*_]*[ \t]+(?=[*_]*(?:{answerers})[*_]*\s*[:：])", "\n", text, flags=re.IGNORECASE)
    for line in text.splitlines():
        found = label.match(line)
        if found:
            turns.append((found["asker"] is not None, [line[found.end() :]]))
        elif turns and not is_ornament(line):
            turns[-1][1].append(line)
    return _paired([(asks, joined(lines)) for asks, lines in turns])


@functools.cache
def _label(askers: str, answerers: str) -> re.Pattern[str]:
    """A turn's label at the start of a line, with what models put around it: bullets, numbers, bold, "Answer 2 -"."""
    return re.compile(
        rf"^[\s>#*_\-\d.)(]*(?:(?P<asker>{askers})|(?P<answerer>{answerers}))\s*\d*[*_]*\s*"
        r"(?:[:：]|\s[-–—]\s|[.)](?=\s))[*_]*\s*",
        re.IGNORECASE | re.MULTILINE,
    )


def _unlabelled(text: str) -> list[Pair]:
    """Paragraphs in turn: a question ends with its mark or is an order, up to the next one is its answer."""
    first, _, rest = text.partition("\n")
    if _INSTRUCTION.match(first):
        text = f"{first}\n\n{rest}"
    turns = []
    for part in map(str.strip, _PARAGRAPHS.split(text)):
        question = bare(_label(*_ANY).sub("", bare(unnumbered(part)), count=1))
        asks = question.endswith(("?", "？")) or _INSTRUCTION.match(question) is not None
        if part and not is_ornament(part):
            turns.append((asks, question if asks else _answer(part)))
    return _paired(turns) if turns and turns[0][0] else []


def _answer(part: str) -> str:
    """A one-line answer may follow a bullet; more lines may be a list."""
    said = joined([part])
    return said if "\n" in said else re.sub(r"^[-•]\s+", "", said)


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


def _text(item: dict[str, Any], *names: str) -> str:
    found = [value for name, value in item.items() if name.lower() in names and isinstance(value, (str, int, float))]
    return str(found[0]).strip() if found else ""


def _start(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
