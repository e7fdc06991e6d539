"""Rows of conversations in the shapes that people publish, as turns, images and a system text.

| shape | keys | seen in |
|---|---|---|
| LLaVA | `conversations` of `{from, value}`, or of `{role, content}` | LLaVA, Cambrian, ALLaVA, OneVision |
| messages | `messages` of `{role, content}`, content a text or a list of parts | OpenAI, TRL, LLaMA-Factory |
| conversation | `conversation` of `{human, assistant}` pairs | ms-swift |
| prompt | `prompt`, `completion`: texts, or messages | TRL |
| query | `query`, `response`, `history` of pairs | ms-swift |
| texts | `texts` of `{user, assistant}` | the_cauldron |
| instruction | `instruction`, `input`, `output`, `history` | Alpaca, LLaMA-Factory |
| question | `question`, `answer` | plain VQA lists |

A list of turns may be JSON text.

Pictures are in `image` or `images`: a path, a list of paths, or objects with a `path`; a system text in `system` or
`system_prompt`. Where no text says where they are shown, they precede the first question; LLaVA's own shape
is refused then, and so is a row that shows some of them. Qwen-VL's `<img>PATH</img>` in a question is a picture too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from schemas.errors import InputError

PLACEHOLDER = "<image>"

MEDIA_KEYS = ("video", "videos", "audio", "audios")
"""Keys of media that are not trained on here: without them such a row would pass for text."""

PICTURE_KEYS = ("img", "imgs", "image_path", "image_paths", "image_file", "img_path", "picture", "pictures")
"""Keys that name a picture elsewhere and are not read here."""

MEDIA_PLACEHOLDERS = ("<video>", "<audio>")

_LIST_KEYS = ("conversations", "messages", "conversation", "prompt", "completion", "texts")
_PAIR_KEYS = ("query", "response", "history", "instruction", "input", "output", "question", "answer")
TURN_KEYS = (*_LIST_KEYS, *_PAIR_KEYS)
"""Keys of text."""
_OTHER_KEYS = ("id", "image", "images", "system", "system_prompt")
KEPT_KEYS = frozenset((*_OTHER_KEYS, *TURN_KEYS))
"""Keys whose values are read in a row of one shape or another; what else a row has is kept and not trained on."""


class Turn(NamedTuple):
    """`content` is a text, with PLACEHOLDER where a picture is shown, or a list of parts as in OpenAI's messages."""

    speaker: Any
    content: Any


def turns_of(row: Mapping[str, Any], where: str) -> list[Turn]:
    """The turns of a row of any known shape, its system text first. Raises InputError for a row of another shape."""
    shape = shape_of(row)
    if shape is None:
        raise InputError(
            f"{where}: no list `conversations` (keys {sorted(map(str, row))}), nor {', '.join(list(_SHAPES)[1:])}. "
            "Expected a row of LLaVA's JSON format."
        )
    check_media(row, where)
    turns = _SHAPES[shape](row, where)
    system = next((row[key] for key in ("system", "system_prompt") if row.get(key)), None)
    if isinstance(system, str) and not (turns and turns[0].speaker == "system"):
        turns.insert(0, Turn("system", system))
    return turns


def shape_of(row: Mapping[str, Any]) -> str | None:
    """The key that says which shape a row has; None for a row of no known one."""
    return next((key for key in _SHAPES if row.get(key) is not None and _COMPANIONS.get(key, key) in row), None)


def image_paths(row: Mapping[str, Any], where: str = "row") -> list[str]:
    """The pictures that a row names, in order; raises InputError for what names none that can be looked up."""
    image = row.get("image") if row.get("image") not in (None, "") else row.get("images")
    if image is None or image in ("", []):
        return []
    found = image if isinstance(image, list) else [image]
    return [_path(one, where) for one in found]


def read_keys(row: Mapping[str, Any]) -> frozenset[str]:
    """The keys of a row that its shape reads; all that any shape reads where it has none."""
    shape = shape_of(row)
    return KEPT_KEYS if shape is None else _READ[shape]


def unread_keys(row: Mapping[str, Any]) -> set[str]:
    """Keys with a value that no shape reads: it is kept, and not trained on."""
    return {key for key, value in row.items() if key not in KEPT_KEYS and value not in (None, "", [], {})}


def loose(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """What is wrong with a question that holds the placeholder of a picture, video or sound as plain text, if one does.

    Answers may mention placeholders; a question that does so has lost what it is about.
    """
    for message in messages:
        for part in message["content"] if message["role"] != "assistant" else ():
            text = part.get("text")
            if text and "<" in text:
                found = next((one for one in (PLACEHOLDER, *MEDIA_PLACEHOLDERS) if one in text), None)
                if found is not None:
                    return (
                        f"{found} is in its text, and the row names nothing that it could show. Name it, or leave "
                        "the row out."
                    )
    return None


def _path(image: Any, where: str) -> str:
    if isinstance(image, Mapping) and isinstance(image.get("path"), str) and image["path"]:
        image = image["path"]
    if not isinstance(image, str):
        raise InputError(f"{where}: image is {image!r:.80}; expected a path or a list of paths.")
    if image.startswith("data:"):
        raise InputError(
            f"{where}: the picture stands in the row itself (a data URL). Save it to a file, and name that."
        )
    return image


def check_media(row: Mapping[str, Any], where: str) -> None:
    """Raise InputError for a row about a video or sound, and for a picture that is named by a key that is not read."""
    media = next((key for key in MEDIA_KEYS if row.get(key)), None)
    if media is not None:
        raise InputError(f"{where}: it has {media!r}, which is not trained on here. Leave the row out.")
    named = next((key for key in PICTURE_KEYS if row.get(key)), None)
    if named is not None and not row.get("image") and not row.get("images"):
        raise InputError(f"{where}: its picture is named in {named!r}, which is not read. Rename the key to `image`.")


def _listed(row: Mapping[str, Any], key: str, where: str) -> list[Any]:
    turns = row[key]
    if isinstance(turns, str) and turns.lstrip().startswith("["):  # as columns of text have them
        with suppress(ValueError, RecursionError):
            turns = json.loads(turns)
    if turns == []:
        raise InputError(f"{where}: its `{key}` are empty. Leave the row out.")
    if not isinstance(turns, list):
        raise InputError(f"{where}: no list `{key}`, but {type(turns).__name__}. Expected a list of turns.")
    return turns


def _conversations(row: Mapping[str, Any], where: str) -> list[Turn]:
    return [_turn(turn, where, number) for number, turn in enumerate(_listed(row, "conversations", where))]


def _messages(row: Mapping[str, Any], where: str) -> list[Turn]:
    return _with_pictures(row, [_turn(turn, where, n) for n, turn in enumerate(_listed(row, "messages", where))])


def _conversation(row: Mapping[str, Any], where: str) -> list[Turn]:
    """ms-swift's pairs."""
    return _with_pictures(row, _named_pairs(row, "conversation", ("human", "assistant"), where))


def _prompt(row: Mapping[str, Any], where: str) -> list[Turn]:
    """TRL's prompt and completion: both texts, or both messages."""
    if isinstance(row["prompt"], str):
        return _with_pictures(row, [Turn("user", row["prompt"]), Turn("assistant", row["completion"])])
    turns = [*_listed(row, "prompt", where), *_listed(row, "completion", where)]
    return _with_pictures(row, [_turn(turn, where, number) for number, turn in enumerate(turns)])


def _turn(turn: Any, where: str, number: int) -> Turn:
    if isinstance(turn, dict):
        if "from" in turn and "value" in turn:
            return Turn(turn["from"], turn["value"])
        if "role" in turn and "content" in turn:
            return Turn(turn["role"], turn["content"])
    raise InputError(f"{where}: turn {number} is {turn!r:.80}; expected {{'from': ..., 'value': text}}.")


def _texts(row: Mapping[str, Any], where: str) -> list[Turn]:
    """the_cauldron's pairs: the pictures come before the first question, without a placeholder."""
    return _with_pictures(row, _named_pairs(row, "texts", ("user", "assistant"), where))


def _named_pairs(row: Mapping[str, Any], key: str, speakers: tuple[str, str], where: str) -> list[Turn]:
    turns: list[Turn] = []
    for number, pair in enumerate(_listed(row, key, where)):
        if not isinstance(pair, dict) or not all(speaker in pair for speaker in speakers):
            raise InputError(f"{where}: {key} {number} is {pair!r:.80}; expected {' and '.join(speakers)}.")
        turns += [Turn("user", pair[speakers[0]]), Turn("assistant", pair[speakers[1]])]
    return turns


def _pairs(row: Mapping[str, Any], where: str, last: tuple[Any, Any]) -> list[Turn]:
    """Turns of a `history` of [question, answer] pairs and of the last pair."""
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise InputError(f"{where}: history is {history!r:.80}; expected pairs of question and answer.")
    return [turn for asked, said in (*history, last) for turn in (Turn("user", asked), Turn("assistant", said))]


def _query(row: Mapping[str, Any], where: str) -> list[Turn]:
    return _with_pictures(row, _pairs(row, where, (row["query"], row.get("response"))))


def _instruction(row: Mapping[str, Any], where: str) -> list[Turn]:
    asked = row["instruction"]
    if isinstance(asked, str) and isinstance(row.get("input"), str) and row["input"]:
        asked = f"{asked}\n{row['input']}"
    return _with_pictures(row, _pairs(row, where, (asked, row.get("output"))))


def _question(row: Mapping[str, Any], where: str) -> list[Turn]:
    return _with_pictures(row, [Turn("user", row["question"]), Turn("assistant", row.get("answer"))])


def _with_pictures(row: Mapping[str, Any], turns: list[Turn]) -> list[Turn]:
    """The first question with the row's pictures in front, where no text and no part says where they are shown."""
    missing = len(image_paths(row))
    if not missing or any(_shows(turn.content) for turn in turns):
        return turns
    first = next((number for number, turn in enumerate(turns) if turn.speaker in ("user", "human")), None)
    if first is not None and isinstance(turns[first].content, str):
        turns[first] = Turn(turns[first].speaker, f"{PLACEHOLDER}\n" * missing + turns[first].content)
    return turns


def _shows(content: Any) -> bool:
    """Whether a turn says itself that it shows pictures."""
    if isinstance(content, str):
        return PLACEHOLDER in content or _QWEN_PICTURE.search(content) is not None
    return isinstance(content, list)


def pictures_in(text: str) -> tuple[str, list[str]]:
    """A question with a placeholder for every `<img>PATH</img>` in it, and those paths."""
    paths = [found.strip() for found in _QWEN_PICTURE.findall(text)]
    return (_QWEN_PICTURE.sub(PLACEHOLDER, text), paths) if paths else (text, [])


_QWEN_PICTURE = re.compile(r"<img>([^<>]{1,4096})</img>")
_COMPANIONS = {"prompt": "completion", "query": "response", "instruction": "output", "question": "answer"}
"""Keys that say nothing of a row's shape alone, and those that must be there too."""

ABOUT_PICTURES = ("texts", "question")
"""Shapes of questions about pictures that say nowhere where they are shown: without pictures such a row is not text."""

_SHAPES = {
    "conversations": _conversations,
    "messages": _messages,
    "conversation": _conversation,
    "prompt": _prompt,
    "query": _query,
    "texts": _texts,
    "instruction": _instruction,
    "question": _question,
}

_BESIDE = {
    "prompt": ("completion",),
    "query": ("response", "history"),
    "instruction": ("input", "output", "history"),
    "question": ("answer",),
}
"""The keys that a shape reads beside the one that it is known by."""

_READ = {shape: frozenset((*_OTHER_KEYS, shape, *_BESIDE.get(shape, ()))) for shape in _SHAPES}


def parts_of(content: Sequence[Any], where: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Parts of a message as ("text", text) and ("image", ""), and the paths of pictures that parts name themselves.

    Parts are OpenAI's (both of its interfaces), TRL's, and LLaMA-Factory's, which have a `value`.
    """
    parts: list[tuple[str, str]] = []
    paths: list[str] = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = _first(part, "text", "value") if kind in _TEXT_PARTS else None
        if isinstance(text, str):
            parts.append(("text", text))
        elif kind in _IMAGE_PARTS:
            parts.append(("image", ""))
            named = _first(part, "image_url", "image", "url", "path", "value")
            named = named["url"] if isinstance(named, Mapping) and named.get("url") else named
            if named is not None:
                paths.append(_path(named, where))
        else:
            raise InputError(f"{where}: a part of a message is {part!r:.80}; expected text or image.")
    return parts, paths


_TEXT_PARTS = ("text", "input_text", "output_text")
_IMAGE_PARTS = ("image", "image_url", "input_image")


def _first(part: Mapping[str, Any], *names: str) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)
