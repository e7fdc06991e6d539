"""Noun phrases: what the lexicon finds, and spaCy's chunks by way of a stand-in."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest

from pipelines.balance import phrases
from pipelines.balance.phrases import finder, tagged_phrases, versions
from schemas.errors import InputError


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a very typical bus station", ["typical bus station"]),
        ("person , actor and musician performs on stage", ["person", "actor", "musician", "stage"]),
        (
            "A man's best friend: two dogs running in the tall green grass!",
            ["man", "best friend", "dogs", "tall green grass"],
        ),
        ("The Red Car On The Street", ["red car", "street"]),
        ("the dog and the dog", ["dog"]),
        ("it is very much so", []),
        ("12 34 !!", []),
    ],
)
def test_the_lexicon_finds_adjectives_with_their_nouns(caption, found):
    assert finder("lexicon")([caption]) == [found]


def test_a_phrase_ends_with_its_nouns():
    tagged = [("old", "JJ"), ("men", "NNS"), ("red", "JJ"), ("tall", "JJ"), ("hat", "NN"), ("blue", "JJ")]
    assert list(tagged_phrases(tagged)) == ["old men", "red tall hat"]


def token(text, pos):
    return SimpleNamespace(text=text, pos_=pos)


class Model:
    meta: ClassVar = {"lang": "xx", "name": "stand_in", "version": "1.2"}

    def __init__(self, parses=True):
        self.parses = parses

    def has_pipe(self, name):
        return self.parses

    def pipe(self, texts):
        for text in texts:
            words = [token(word, "DET" if word in ("the", "two") else "NOUN") for word in text.split()]
            yield SimpleNamespace(noun_chunks=[words, words[:1]])


@pytest.fixture
def spacy(monkeypatch):
    """spaCy as the finder calls it: a model's pipe gives documents with noun chunks of tokens."""
    module, models = ModuleType("spacy"), {"good": Model(), "flat": Model(parses=False)}

    def load(name):
        if name not in models:
            raise OSError(f"[E050] Can't find model '{name}'.")
        return models[name]

    module.load, known = load, importlib.util.find_spec
    monkeypatch.setitem(sys.modules, "spacy", module)
    monkeypatch.setattr(phrases.importlib.util, "find_spec", lambda name: name == "spacy" or known(name))
    monkeypatch.setattr(phrases.importlib.metadata, "version", lambda name: "9.9")


def test_spacy_chunks_lose_their_determiners(spacy):
    assert finder("spacy:good")(["The two Dogs", "cat"]) == [["dogs"], ["cat"]]
    assert versions("spacy:good") == {"spacy": "9.9", "model": "xx_stand_in 1.2"}


def test_what_cannot_find_phrases_is_one_message(spacy, monkeypatch):
    for kind, said in [
        ("spacy:none", "E050"),
        ("spacy:flat", "no parser"),
        ("spacy:", "expected"),
        ("nltk", "found 'nltk'"),
    ]:
        with pytest.raises(InputError, match=said):
            finder(kind)
    monkeypatch.setattr(phrases.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="textblob, which is not installed: pip install 'lavabeam\\[curate\\]'"):
        versions("lexicon")


def test_accents_are_parts_of_letters_however_they_are_written():
    found = finder("lexicon")(["un\u00e9cole blanche", "une\u0301cole blanche"])
    assert found[0] == found[1]
