from hypothesis import given
from hypothesis import strategies as st

from pipelines.texts import ngrams, normalised, words


def test_what_rewording_by_form_changes_is_gone():
    assert normalised("Is it RED?") == normalised(" is  it: red ") == "is it red"
    assert normalised("ﬁne Ｗide") == "fine wide"
    assert normalised("Straße") == "strasse"
    assert normalised("cafe\u0301") == normalised("CAFÉ") == "café"
    assert normalised("café") != normalised("cafe")
    assert normalised("?!…") == ""


def test_words_of_scripts_without_blanks_are_characters():
    assert words('A 5" plate, snake_case') == ["a", "5", "plate", "snake", "case"]
    assert words("猫が2匹 cat") == ["猫", "が", "2", "匹", "cat"]


def test_ngrams_are_all_runs_in_order():
    assert list(ngrams(["a", "b", "a", "b"], 2)) == [("a", "b"), ("b", "a"), ("a", "b")]
    assert list(ngrams(["a"], 2)) == []


@given(st.text())
def test_the_normal_form_is_one(text):
    once = normalised(text)
    assert normalised(once) == once
    assert " ".join(once.split()) == once
    assert "".join(words(text)) == once.replace(" ", "")
