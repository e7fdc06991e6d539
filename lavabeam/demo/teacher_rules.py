"""The scripted teacher's rules: compose answers from the text of a request. It is not a model and sees no image.

In: the text of the last user message (notes about a picture, and a line `Task: ...`). Out: an answer in the form that
the task's prompt asks for. The same words always give the same answer.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field

from lavabeam.demo.teacher_reviews import judgement

_BOX = re.compile(r"^(?P<label>.+): (?P<x0>[\d.]+), (?P<y0>[\d.]+), (?P<x1>[\d.]+), (?P<y1>[\d.]+)$")
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass
class Notes:
    """What a request says about its picture."""

    task: str = ""
    captions: list[str] = field(default_factory=list)
    objects: list[tuple[str, float, float]] = field(default_factory=list)
    """(label, x and y of the centre), in fractions of the picture."""
    facts: dict[str, str] = field(default_factory=dict)
    conversation: list[str] = field(default_factory=list)
    seed: int = 0

    def choose(self, options: tuple[str, ...]) -> str:
        return options[self.seed % len(options)]


def compose(text: str) -> str:
    """The answer to a user message; without a known task, and where nothing is judged, it is a plain sentence."""
    judged = judgement(text)
    if judged is not None:
        return judged
    notes = read_notes(text)
    return _TASKS.get(notes.task, _describe)(notes)


def read_notes(text: str) -> Notes:
    """Captions, objects, facts and the task, as the lines of a request give them."""
    notes = Notes(seed=int(hashlib.sha256(text.encode()).hexdigest()[:8], 16))
    section = ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("Task:"):
            notes.task = line.removeprefix("Task:").strip()
        elif line.endswith(":") and not line.startswith("- "):
            section = line.split(" ")[0].rstrip(":")
        elif section == "Conversation" and line:
            notes.conversation.append(line)
        elif line.startswith("- "):
            _read_item(notes, section, line.removeprefix("- "))
    return notes


def _read_item(notes: Notes, section: str, item: str) -> None:
    if section == "Captions":
        notes.captions.append(item)
    elif section == "Facts" and ": " in item:
        name, value = item.split(": ", 1)
        notes.facts[name] = value
    elif section == "Objects" and (box := _BOX.match(item)):
        x = (float(box["x0"]) + float(box["x1"])) / 2
        y = (float(box["y0"]) + float(box["y1"])) / 2
        notes.objects.append((box["label"], x, y))


def _describe(notes: Notes) -> str:
    subject = _subject(notes.facts)
    if subject:
        return notes.choose(("The picture shows {}.", "There is {} in the picture.", "This is {}.")).format(subject)
    return _sentence(notes.captions[0]) if notes.captions else "It is a picture."


def _conversation(notes: Notes) -> str:
    pairs = _fact_pairs(notes.facts)
    for number, caption in enumerate(notes.captions[:3]):
        question = ("What does the picture show?", "What else can you say about it?", "Is there more to see?")[number]
        pairs.append((question, _sentence(caption)))
    if len(pairs) == 1:
        pairs.append(_MORE_TO_ASK)
    return "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs or [_NOTHING])


def _detail(notes: Notes) -> str:
    sentences = [_describe(notes)] if notes.facts else []
    sentences += [_sentence(caption) for caption in notes.captions]
    counts = Counter(label for label, _, _ in notes.objects)
    for label, count in counts.items():
        positions = [_position(x, y) for name, x, y in notes.objects if name == label]
        if count == 1:
            sentences.append(f"There is {_article(label)} {positions[0]}.")
        else:
            sentences.append(f"There are {_number(count)} {_plural(label)}, the first of them {positions[0]}.")
    text = " ".join(dict.fromkeys(sentences)) or _NOTHING[1]
    return text if len(text.split()) >= _LEAST_WORDS else f"{text} {_MORE}"


def _reasoning(notes: Notes) -> str:
    seen = _describe(notes)
    if notes.objects:
        thing = Counter(label for label, _, _ in notes.objects).most_common(1)[0][0]
        question = f"Why might the {thing} be important in this scene?"
        thought = f"The {thing} is what the scene is about: take it away, and the picture would tell another story."
    elif notes.facts:
        question = "How can one tell what is shown?"
        thought = " ".join(f"Its {name} is {value}, which settles it." for name, value in notes.facts.items())
        thought += " One look is enough to see that, and nothing else in the picture says otherwise."
    else:
        question = "What may have been the reason to take this picture?"
        thought = "Someone probably found this worth keeping, because people photograph what stands out to them, "
        thought += "and look at it again years later."
    return f"Question: {question}\nAnswer: {seen} {thought}"


def _short_answer(notes: Notes) -> str:
    pairs = [{"question": f"What is the {name}?", "answer": value} for name, value in notes.facts.items()]
    for label, count in list(Counter(label for label, _, _ in notes.objects).items())[:3]:
        pairs.append({"question": f"Is there {_article(label)} in the picture?", "answer": "yes"})
        pairs.append({"question": f"How many {_plural(label)} are there?", "answer": str(count)})
    if not pairs:
        pairs = [{"question": "Is this a picture?", "answer": "yes"}]
    return json.dumps({"pairs": pairs})


def _judge(notes: Notes) -> str:
    """Scores from 1 to 5, by the share of the notes' words that the answers use."""
    known = _words(" ".join([*notes.captions, *notes.facts.values(), *(label for label, _, _ in notes.objects)]))
    said = _words(" ".join(line for line in notes.conversation if line.startswith("assistant")))
    share = len(known & said) / max(1, len(known))
    score = 1 + min(4, round(4 * share))
    scores = {"relevance": score, "accuracy": score, "completeness": score, "language": 5}
    return json.dumps({**scores, "reason": f"{share:.0%} of the known words are used"})


_MORE_TO_ASK = ("Is that easy to see?", "Yes, it is the first thing that one notices.")
_LEAST_WORDS = 25
"""What a prompt for a description takes as one."""
_MORE = (
    "It fills most of the picture, and nothing else asks for attention. Whoever looks at it sees this first, and may "
    "look twice before noticing anything more."
)
_NOTHING = ("What does the picture show?", "It is a picture.")
_TASKS = {
    "describe": _describe,
    "caption": _describe,
    "recaption": _describe,
    "conversation": _conversation,
    "detail": _detail,
    "reasoning": _reasoning,
    "short_answer": _short_answer,
    "judge": _judge,
}


def _fact_pairs(facts: dict[str, str]) -> list[tuple[str, str]]:
    subject = facts.get("shape") or facts.get("object") or "thing"
    return [
        (f"What {name} is shown?", f"It is {_article(value)}.")
        if value == subject
        else (f"What {name} is the {subject}?", f"The {subject} is {value}.")
        for name, value in facts.items()
    ]


def _subject(facts: dict[str, str]) -> str:
    """`{color: teal, shape: triangle}` -> `a teal triangle`."""
    noun = facts.get("shape") or facts.get("object")
    if not facts:
        return ""
    if noun is None:
        return "something whose " + " and ".join(f"{name} is {value}" for name, value in facts.items())
    qualities = [value for name, value in facts.items() if value != noun]
    return _article(" ".join([*qualities, noun]))


def _article(words: str) -> str:
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def _plural(label: str) -> str:
    if label in ("person", "child", "man", "woman"):
        return {"person": "people", "child": "children", "man": "men", "woman": "women"}[label]
    return label + ("es" if label.endswith(("s", "x", "ch", "sh")) else "s")


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)


def _position(x: float, y: float) -> str:
    side = "on the left" if x < 0.4 else "on the right" if x > 0.6 else "in the middle"
    height = "at the top" if y < 0.33 else "at the bottom" if y > 0.67 else ""
    return f"{side}, {height}" if height else side


def _sentence(caption: str) -> str:
    words = " ".join(caption.split())
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{3,}", text.lower()))
