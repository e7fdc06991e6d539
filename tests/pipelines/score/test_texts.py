"""Measures of texts, with literal texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.models.words import text_of
from pipelines.score.registry import scorer, settings_of
from pipelines.score.scorer import Encoders, Sample
from pipelines.score.texts import repetition, url_share
from schemas.errors import InputError


def score(name, text):
    (settings,) = settings_of(name)
    made = scorer(name)(settings)
    made.setup(Encoders(None))
    return made.score(Sample({"alt_text": text}))


def test_length_is_in_words():
    assert score("length", "A red car, parked.") == 4
    assert score("length", "一个人 on a bike") == 6
    assert score("length", "...") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red car", 0),
        ("a red car is here", 0),
        ("a b c d a b c d", 1 / 5),  # abcd bcda cdab dabc abcd
        ("A b, c D! a b c d a b c d", 5 / 9),
        ("cat " * 103, 99 / 100),
    ],
)
def test_repetition_is_the_share_of_runs_that_are_there_already(text, expected):
    assert repetition(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red car", 0),
        ("https://a.org/x", 1),
        ("see https://a.org/x now", 15 / 21),
        ("WWW.A.ORG rocks", 9 / 14),
        ("photo by example.com", 11 / 18),
        ("(example.co.uk/path?q=1)", 1),
        ("version 1.2 of a.b and e.g. this", 0),
        ("見よhttp://a.jp/b。", 13 / 16),
        ("  ", 0),
    ],
)
def test_the_share_of_addresses(text, expected):
    assert url_share(text) == pytest.approx(expected)


@given(st.text(alphabet=st.sampled_from("ab .,-/:wcomhtps\n<>\"'é字"), max_size=80))
def test_shares_are_shares(text):
    assert 0 <= url_share(text) <= 1
    assert 0 <= repetition(text) < 1


def test_hostile_texts_take_linear_time():
    """Each of these would take minutes with a pattern that backtracks."""
    for text in ("a-" * 200_000, "a." * 200_000, "www." * 100_000, "http://" * 100_000, "a" * 400_000):
        assert 0 <= url_share(text) <= 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("a man riding a wave on top of a surfboard", "en"),
        ("zwei Hunde spielen im Schnee", "de"),
        ("deux chiens jouent dans la neige", "fr"),
        ("一个人在公园里骑自行车", "zh"),
        ("две собаки играют в снегу", "ru"),
    ],
)
def test_the_language_and_how_sure_it_is(text, language):
    found, sure = score("language", text)
    assert found == language
    assert 0.5 < sure <= 1


def test_digits_have_no_language():
    assert score("language", "123, 45!") is None


def test_the_text_of_a_cell():
    said = [{"content": [{"type": "image", "text": None}, {"type": "text", "text": "Is it?"}]}, {"content": None}]
    assert text_of("a", "c") == "a"
    assert text_of(["", " b", "c"], "c") == " b"
    assert text_of(said, "c") == "Is it?"
    assert [text_of(nothing, "c") for nothing in (None, "", " \n", [], [None])] == [None] * 5
    with pytest.raises(InputError, match="column 'c' holds int values"):
        text_of(3, "c")
