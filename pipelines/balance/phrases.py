"""Noun phrases of captions, from a lexicon-based tagger or a spaCy model."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

from pipelines.texts import normalised
from schemas.errors import InputError

LEXICON = "lexicon"
SPACY = "spacy:"
Finder = Callable[[Sequence[str]], list[list[str]]]
"""Captions -> the different noun phrases of each, in order, normalised."""

_TOKENS = re.compile(r"'s\b|[^\W_]+(?:[-'][^\W_]+)*?(?='s\b)|[^\W_]+(?:[-'][^\W_]+)*|[^\w\s]|_")
_APOSTROPHES = str.maketrans("’‘ʼ", "'''")
_HEADING = frozenset({"DET", "PRON", "NUM", "PUNCT", "SPACE", "CCONJ"})
"""Parts of speech (Universal Dependencies) that are cut from the front of spaCy's noun chunks."""


def finder(kind: str) -> Finder:
    """The finder that `kind` names: `lexicon`, or `spacy:MODEL`. Raises InputError as `versions` does."""
    versions(kind)
    return _with_lexicon() if kind == LEXICON else _with_spacy(kind.removeprefix(SPACY))


def versions(kind: str) -> dict[str, str]:
    """What decides the phrases that `kind` finds: packages and their versions.

    Raises InputError for another word than `lexicon` or `spacy:MODEL`, and for a package or model that is missing.
    """
    if kind == LEXICON:
        return {"textblob": _version("textblob", "pip install 'lavabeam[curate]'")}
    if not kind.startswith(SPACY) or kind == SPACY:
        raise InputError(
            f"phrases: expected {LEXICON} or {SPACY}MODEL (a spaCy model's name or folder), found {kind!r}."
        )
    found = {"spacy": _version("spacy", "pip install 'lavabeam[spacy]', and a model")}
    meta = _load(kind.removeprefix(SPACY)).meta
    return {**found, "model": f"{meta.get('lang')}_{meta.get('name')} {meta.get('version')}"}


def tagged_phrases(tagged: Sequence[Sequence[str]]) -> Iterator[str]:
    """The noun phrases of (word, Penn tag) pairs: adjectives, then nouns, the longest runs; no determiner or number."""
    run: list[str] = []
    nouns = False
    for word, tag in chain(tagged, [("", "END")]):
        noun, adjective = tag.startswith("NN"), tag.startswith("JJ")
        if noun or (adjective and not nouns):
            run.append(word)
            nouns = noun
            continue
        if nouns:
            yield " ".join(run)
        run, nouns = [word] if adjective else [], False


def _with_lexicon() -> Finder:
    from textblob.en import parser

    def find(captions: Sequence[str]) -> list[list[str]]:
        # Lower case: the tagger takes every capital for a name's, and titles are written in capitals.
        tokens = (_TOKENS.findall(_composed(caption).translate(_APOSTROPHES).lower()) for caption in captions)
        return [_distinct(tagged_phrases(parser.find_tags(words))) for words in tokens]

    return find


def _with_spacy(model: str) -> Finder:
    pipeline = _load(model)
    if not pipeline.has_pipe("parser"):
        raise InputError(f"phrases: the spaCy model {model!r} has no parser, which finds noun chunks. Choose another.")

    def find(captions: Sequence[str]) -> list[list[str]]:
        documents = pipeline.pipe(_composed(caption).lower() for caption in captions)
        return [_distinct(map(_without_heading, document.noun_chunks)) for document in documents]

    return find


def _composed(caption: str) -> str:
    """Letters with their accents as one character: a separate mark would end a word."""
    return unicodedata.normalize("NFC", caption)


def _without_heading(chunk: Any) -> str:
    words = list(chunk)
    while words and words[0].pos_ in _HEADING:
        del words[0]
    return " ".join(word.text for word in words)


def _distinct(phrases: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, map(normalised, phrases))))


def _load(model: str) -> Any:
    import spacy

    try:
        return spacy.load(model)
    except (OSError, ValueError) as error:
        cause = " ".join(str(error).split())
        raise InputError(f"phrases: the spaCy model {model!r} cannot be loaded: {cause}") from error


def _version(package: str, remedy: str) -> str:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"balance finds noun phrases with {package}, which is not installed: {remedy}.")
    return importlib.metadata.version(package)
