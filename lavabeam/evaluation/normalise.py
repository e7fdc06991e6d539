"""Answers as EvalAI's processor writes them before they are compared (VQA, Antol et al. 2015, arXiv:1505.00468).

The rules are those of the VQA challenge's evaluation code, with what published figures depend on: commas, question
marks and the `'s` of a word are treated first (as LLaVA's TextVQA evaluator and its upload scripts do; the challenge's
own evaluation does not), and only the first 32 full stops are removed, because the original passes `re.UNICODE` where
`re.sub` takes a count.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_PUNCTUATED = re.compile(f"[{re.escape(_PUNCTUATION)}.]")
_PERIOD = re.compile(r"\.(?!\d)")
_MOST_PERIODS = int(re.UNICODE)
_COMMA_IN_NUMBER = re.compile(r"\d,+\d")
_ARTICLES = frozenset({"a", "an", "the"})
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBERS = {word: str(number) for number, word in enumerate(_DIGITS)} | {"none": "0"}

# Written without an apostrophe, each of these gets it back.
_ONE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
# Written with one of their apostrophes missing, each of these gets it back.
_SEVERAL = """
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""


def evalai(text: str) -> str:
    """An answer through EvalAI's processor with its word step, as LLaVA's uploads and TextVQA's evaluator have it:
    `Hershey's` is `hershey 's`, `A/B` is `b`, `none` is `0`."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return challenge(text)


@lru_cache(1 << 18)
def challenge(text: str) -> str:
    """An answer as the VQA challenge's evaluation compares it: without most punctuation and articles, numbers up to ten
    as digits, lower case."""
    text = plain(text)
    if _PUNCTUATED.search(text):
        text = _without_punctuation(text)
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def plain(text: str) -> str:
    """Without line feeds, tabs and surrounding blanks."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def _without_punctuation(text: str) -> str:
    """A mark that touches a blank anywhere is removed everywhere; another one becomes a blank. With a comma inside a
    number all marks are removed."""
    cleaned, numbers = text, _COMMA_IN_NUMBER.search(text) is not None
    for mark in _PUNCTUATION:
        if mark in text:
            cleaned = cleaned.replace(mark, "" if numbers or f"{mark} " in text or f" {mark}" in text else " ")
    return _PERIOD.sub("", cleaned, count=_MOST_PERIODS)


def _contractions() -> dict[str, str]:
    known = {whole.replace("'", ""): whole for whole in _ONE.split()}
    for whole in _SEVERAL.split():
        for place, letter in enumerate(whole):
            if letter == "'":
                known[whole[:place] + whole[place + 1 :]] = whole
    return known | {"somebody'd": "somebodyd"}  # the wrong way round in the original, too


_CONTRACTIONS = _contractions()
