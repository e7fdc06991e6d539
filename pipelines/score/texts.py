"""Text measures: length, repetition, share of URLs, language."""

from __future__ import annotations

import re

import pyarrow as pa

from pipelines.score.scorer import Encoders, RowScorer, Sample, TextSettings
from pipelines.texts import ngrams, words
from schemas.errors import InputError

GRAM = 4
"""Words of a run that counts as repeated."""
_ADDRESS = re.compile(r"(?:https?://|ftp://|www\.)[!#-;=?-~]+", re.IGNORECASE)
"""Addresses with a scheme or `www.`: printable ASCII without quotes and angle brackets."""
_ENDS = "com|org|net|edu|gov|info|io|co|de|uk|fr|jp|cn|ru|br|in|it|nl"
_HOST = re.compile(rf"(?:[a-z0-9-]{{1,63}}\.)+(?:{_ENDS})", re.IGNORECASE)
"""A bare host name of one of the commonest ends."""
MOST_HOST = 253
"""Characters of a host name (RFC 1035, section 2.3.4)."""


def repetition(text: str) -> float:
    """The share of its 4-grams of words that are there already, 0 to 1: 1 - distinct / all; 0 below five words."""
    runs = list(ngrams(words(text), GRAM))
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def url_share(text: str) -> float:
    """The share of its characters, white space left out, that belong to addresses on the web, 0 to 1."""
    whole = sum(map(len, text.split()))
    named = sum(len(found.group()) for found in _ADDRESS.finditer(text))
    named += sum(len(word) for word in _ADDRESS.sub(" ", text).split() if _is_address(word))
    return named / whole if whole else 0.0


def _is_address(word: str) -> bool:
    """Whether a word is `example.com` or `example.com/path`."""
    host = word.strip("()[]<>,.;:!?'\"").partition("/")[0]
    return len(host) <= MOST_HOST and _HOST.fullmatch(host) is not None


class Length(RowScorer[TextSettings]):
    """Words (pipelines/texts.py); of scripts without blanks (Han, Kana) each character is one."""

    name, version, Settings = "length", 1, TextSettings

    def score(self, sample: Sample) -> float:
        return float(len(words(sample.text(self.text_column))))


class Repetition(RowScorer[TextSettings]):
    """`repetition`, 0 to 1: one sentence over and over is near 1. After Gopher's rules (arXiv 2112.11446, A1.1)."""

    name, version, Settings = "repetition", 1, TextSettings

    def score(self, sample: Sample) -> float:
        return repetition(sample.text(self.text_column))


class UrlShare(RowScorer[TextSettings]):
    """`url_share`, 0 to 1."""

    name, version, Settings = "url_share", 1, TextSettings

    def score(self, sample: Sample) -> float:
        return url_share(sample.text(self.text_column))


class Language(RowScorer[TextSettings]):
    """The likeliest of 139 languages (its ISO 639 code: `en`), and in `<column>_confidence` its probability, 0 to 1.

    By py3langid, a naive Bayes over bytes (Lui & Baldwin, "langid.py", ACL 2012); no download. Null for a text without
    a letter.
    """

    name, version, Settings = "language", 1, TextSettings

    @property
    def adds(self) -> tuple[pa.Field, ...]:
        return pa.field(self.column, pa.string()), pa.field(f"{self.column}_confidence", pa.float32())

    def check(self) -> dict[str, str]:
        """The release of the detector, whose model comes with it."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return {"py3langid": version("py3langid")}
        except PackageNotFoundError as error:
            raise InputError(
                "scorer language: the package py3langid is not installed: pip install 'lavabeam[curate]'."
            ) from error

    def setup(self, encoders: Encoders) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def score(self, sample: Sample) -> tuple[str, float] | None:
        text = sample.text(self.text_column)
        if not any(character.isalpha() for character in text):
            return None
        code, probability = self._identifier.classify(text)
        return str(code), float(probability)
