"""Guesses the language of a short text from its script and commonest words; no model."""

from __future__ import annotations

import re
import unicodedata

# The commonest words of each language that the others do not share.
_WORDS = {
    "en": "the and is of with on are this that it from by there which has have what be was not to in for at they can",
    "de": "der die das und ist nicht ein eine mit auf dem den sich von sind im zu auch wird einem",
    "fr": "le les et est une des dans sur avec pour qui pas du au cette sont il elle ce aux",
    "es": "el los las y es una con por para que del en se su como hay esta son está al",
    "it": "il gli di che è una con per sono nella della del si anche come questo sul alla dei e",
    "pt": "o os e um uma com para que não em da na são está dos mais ao pelo pela",
    "nl": "de het een en van op met niet zijn dat voor aan er ook naar bij wordt deze hij zij",
}
KNOWN = tuple(_WORDS)
_SETS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")
# Fewer words than this tell nothing about a Latin-script language.
_FEWEST_WORDS = 8


def is_other_language(text: str, language: str) -> str | None:
    """Evidence against `text` being in `language` (one of `KNOWN`, all in Latin script), or None.

    Short or mixed texts count as right: only clear cases are reported.
    """
    letters = [letter for letter in text if letter.isalpha()]
    foreign = [letter for letter in letters if not unicodedata.name(letter, "").startswith("LATIN")]
    if len(foreign) > 0.3 * len(letters):
        return f"{len(foreign)} of {len(letters)} letters are not Latin"
    words = [word.lower() for word in _WORD.findall(text)]
    if len(words) < _FEWEST_WORDS:
        return None
    # Different words: a name or a "no" that is said five times says nothing about the language.
    counts = {name: len(known.intersection(words)) for name, known in _SETS.items()}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] >= 3 and counts[best] > 2 * counts[language]:
        return f"it reads like {best!r}: {counts[best]} of its commonest words, {counts[language]} of {language!r}"
    return None
