"""Join questions, answers and ground truth by content, never by position.

By order POPE's labels of today (3,000 random questions) lie beside LLaVA's 2,910 without an error, and give F1 .4565
instead of .8714.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lavabeam.evaluation.question import Answered, Given, Question, same_words
from schemas.errors import InputError


@dataclass(frozen=True)
class Allowed:
    """What may be there anyway: questions without an answer (they count as wrong), more answers to a question than it
    was asked times (the first count), answers to no question (they are left out), questions without a truth (they are
    not scored)."""

    missing: bool = False
    doubled: bool = False
    foreign: bool = False
    unscored: bool = False


@dataclass(frozen=True)
class Truth:
    """What is right. `words`: the question that it belongs to, where its file says."""

    value: Any
    words: str | None = None


@dataclass
class Joined:
    """Every question, in the file's order, with its answer, and what did not fit."""

    rows: list[Answered]
    counts: dict[str, int] = field(default_factory=dict)


def check_ids(questions: Sequence[Question], source: str, name: Callable[[Question], Any]) -> None:
    """Raises InputError naming `source` where a `name` stands for several questions, or for one question twice."""
    first: dict[Any, Question] = {}
    copies, others = list[tuple[Question, Question]](), list[tuple[Question, Question]]()
    for question in questions:
        key = name(question)
        if (known := first.get(key)) is None:
            first[key] = question
        else:
            same = (known.text, known.image) == (question.text, question.image)
            (copies if same else others).append((known, question))
    if others:
        one, two = others[0]
        raise InputError(
            f"{source}: {len(others)} questions have the id of another one, the first: id {two.id} is {one.stem!r:.60} "
            f"({one.image!s:.60}) and {two.stem!r:.60} ({two.image!s:.60}). Answers are joined by id: give each "
            "question its own."
        )
    if copies:
        one, _ = copies[0]
        raise InputError(
            f"{source}: {len(copies)} questions are listed again, with the same id and words, the first: id {one.id}, "
            f"{one.stem!r:.60}. Remove the copies: a question counts once."
        )


def with_answers(
    questions: Sequence[Question],
    answers: Iterable[Given],
    allowed: Allowed,
    plain_id: Callable[[str], str] = str,
    words: Callable[[str], str] | None = None,
    upload_id: Callable[[Question], str] | None = None,
) -> Joined:
    """Each question with its answer. plain_id: an id as both spell it; words: a prompt's own question, where ids repeat
    and (id, question) is the key; upload_id: what names a question there in a file without prompts.

    Raises InputError for missing, doubled and foreign answers that are not `allowed`, naming the first of them. An
    answer is foreign when its id is unknown, or when what it says it was asked is another question.
    """
    answers = _by_own_ids(questions, list(answers), words, upload_id)
    places: defaultdict[tuple[str, str], deque[int]] = defaultdict(deque)
    key = _key_of(plain_id, words)
    for number, question in enumerate(questions):
        places[key(question.id, question.stem)].append(number)
    asked = {name: (numbers[0], len(numbers)) for name, numbers in places.items()}
    texts: list[str | None] = [None] * len(questions)
    foreign, doubled, empty = [], [], []
    for given in answers:
        name = key(given.id, given.prompt or "")
        if name not in asked or not _same(questions[asked[name][0]], given):
            foreign.append(given)
        elif not places[name]:
            doubled.append(given)
        else:
            number = places[name].popleft()
            if given.reason:
                empty.append(given)
            else:
                texts[number] = given.text
    _check(questions, texts, foreign, doubled, empty, allowed)
    return Joined(
        [Answered(question, text) for question, text in zip(questions, texts, strict=True)],
        _counts(answers, texts, doubled, foreign),
    )


def with_truths(
    rows: Sequence[Answered],
    truths: Mapping[Any, Truth],
    key: Callable[[Question], Any],
    source: str,
    allowed: Allowed,
) -> list[Answered]:
    """The rows with what is right, those without it left out where that is `allowed`.

    Raises InputError naming `source` when a truth is missing, or belongs to another question with the same id.
    """
    found, missing = [], []
    for row in rows:
        truth = truths.get(key(row.question))
        if truth is None:
            missing.append(row)
        elif truth.words is not None and not _alike(truth.words, row.question.stem):
            raise InputError(
                f"{source}: of another version: for id {row.question.id} it has {truth.words!r:.80}, the questions "
                f"have {row.question.stem!r:.80}. Take the truth file that belongs to the questions."
            )
        else:
            found.append(Answered(row.question, row.text, truth.value))
    if missing and (not found or not allowed.unscored):
        first = missing[0].question
        raise InputError(
            f"{source}: has no truth for {len(missing)} of {len(rows)} questions, the first: id {first.id}, "
            f"{first.stem!r:.80}. It is of another version or split; take the one that belongs to the questions"
            + (", or leave those out with --allow-unscored." if found else ".")
        )
    return found


def _key_of(
    plain_id: Callable[[str], str], words: Callable[[str], str] | None
) -> Callable[[str, str], tuple[str, str]]:
    return lambda name, prompt: (plain_id(name), words(prompt) if words else "")


def _by_own_ids(
    questions: Sequence[Question],
    answers: list[Given],
    words: Callable[[str], str] | None,
    upload_id: Callable[[Question], str] | None,
) -> list[Given]:
    """The answers under the questions' ids, of files that name pictures (VizWiz's upload) or numbers (TextVQA's).

    Raises InputError for one without a prompt where ids repeat and nothing else tells the questions apart.
    """
    if answers and all(given.by_image for given in answers):
        by_picture = {str(question.image): question for question in questions}
        return [_renamed(given, by_picture) for given in answers]
    lacking = None if words is None else next((given for given in answers if given.prompt is None), None)
    if lacking is None:
        return answers
    by_number = {upload_id(question): question for question in questions} if upload_id else {}
    if len(by_number) == len(questions) and not any(given.prompt for given in answers):
        return [_renamed(given, by_number) for given in answers]
    raise InputError(f"{lacking.where}: has no prompt, and ids repeat here. Give LLaVA's answers (with prompt).")


def _counts(
    answers: Sequence[Given], texts: Sequence[str | None], doubled: Sequence[Given], foreign: Sequence[Given]
) -> dict[str, int]:
    """Raises InputError where all answers are blank."""
    counts = {
        "questions": len(texts),
        "answered": sum(text is not None for text in texts),
        "missing": sum(text is None for text in texts),
        "doubled": len(doubled),
        "foreign": len(foreign),
        "blank": sum(text is not None and not text.strip() for text in texts),
    }
    if counts["answered"] and counts["blank"] == counts["answered"]:
        raise InputError(
            f"{answers[0].where}: all {counts['blank']} answers are blank. Check the run that produced them."
        )
    return counts


def _renamed(given: Given, known: Mapping[str, Question]) -> Given:
    """The answer under the id, and with the words, of the question that `known` has for its id."""
    question = known.get(given.id)
    if question is None:
        return given
    return Given(question.id, given.text, given.prompt or question.stem, given.reason, given.where)


def _same(question: Question, given: Given) -> bool:
    return given.prompt is None or _alike(given.prompt, question.stem) or _alike(given.prompt, question.text)


def _alike(one: str, other: str) -> bool:
    """Whether two prompts ask the same: one may have more in front (a hint) or behind (what a protocol adds)."""
    first, second = same_words(one).lower(), same_words(other).lower()
    return first == second or (bool(first) and bool(second) and (first in second or second in first))


def _check(
    questions: Sequence[Question],
    texts: Sequence[str | None],
    foreign: list[Given],
    doubled: list[Given],
    empty: list[Given],
    allowed: Allowed,
) -> None:
    missing = [question for question, text in zip(questions, texts, strict=True) if text is None]
    if len(missing) == len(questions):
        if not foreign:
            why = empty[0].reason if empty else "there are no answers"
            raise InputError(f"none of {len(questions)} questions has an answer: {why:.400}")
        raise InputError(
            f"none of {len(questions)} questions has an answer: these are of another benchmark. The first answer, "
            f"{foreign[0].where}: {_shown(foreign[0])}."
        )
    problems = []
    if foreign and not allowed.foreign:
        which = f"{len(foreign)} foreign (to no question here; first {foreign[0].where}: {_shown(foreign[0])})"
        problems.append((which, "--allow-foreign leaves them out"))
    if doubled and not allowed.doubled:
        which = f"{len(doubled)} doubled (first {doubled[0].where}: id {doubled[0].id} again)"
        problems.append((which, "--allow-doubled takes the first of each"))
    if missing and not allowed.missing:
        reason = f"; {len(empty)} say why, first {empty[0].where}: {empty[0].reason:.200}" if empty else ""
        which = (
            f"{len(missing)} of {len(questions)} missing (first id {missing[0].id}, {missing[0].stem!r:.60}{reason})"
        )
        problems.append((which, "--allow-missing counts them as wrong"))
    if problems:
        words, remedies = (", ".join(part) for part in zip(*problems, strict=True))
        raise InputError(f"answers that do not fit the questions: {words}. Complete them, or: {remedies}.")


def _shown(given: Given) -> str:
    return (
        f"id {given.id}" + (f", {given.prompt!r:.60}" if given.prompt else "") + (given.reason and f" ({given.reason})")
    )
