from typing import Literal

import pytest

from schemas.config import StrictModel, load_yaml, parse, read_yaml
from schemas.errors import InputError


class Inner(StrictModel):
    thread_count: int = 8


class Outer(StrictModel):
    engine: Literal["own", "other"] = "own"
    fetch: Inner = Inner()
    many: list[Inner] = []  # noqa: RUF012


def test_a_misspelt_key_names_the_nearest_one(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("fetch: {thread_cuont: 3}\n")
    with pytest.raises(InputError, match=r"r\.yaml: unknown key 'fetch\.thread_cuont'. Did you mean 'thread_count'\?"):
        load_yaml(recipe, Outer)


def test_a_misspelt_key_in_a_list_is_found_too():
    with pytest.raises(InputError, match=r"'many\.1\.thread'. Did you mean 'thread_count'\?"):
        parse({"many": [{}, {"thread": 1}]}, Outer, "here")


def test_every_problem_is_told():
    with pytest.raises(InputError) as raised:
        parse({"engine": "mine", "fetch": {"thread_count": "many"}}, Outer, "here")
    assert str(raised.value).count("here:") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [("a: [", "not valid YAML"), ("- 1\n", "expected a mapping"), (None, "no such file")],
)
def test_unreadable_files_are_told(tmp_path, content, message):
    recipe = tmp_path / "r.yaml"
    if content is not None:
        recipe.write_text(content)
    with pytest.raises(InputError, match=message):
        load_yaml(recipe, Outer)


def test_configurations_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().engine = "other"


class Lists(StrictModel):
    kinds: tuple[str, ...] = ()
    sizes: list[int] | None = None
    either: str | tuple[str, ...] = ""
    pair: tuple[float, float] = (0.9, 0.99)


def test_one_value_stands_for_a_list_of_one():
    lists = parse({"kinds": "detail", "sizes": 3, "either": "one"}, Lists, "x")
    assert (lists.kinds, lists.sizes, lists.either) == (("detail",), [3], "one")


def test_a_pair_needs_both():
    with pytest.raises(InputError, match=r"x: pair: .*\(found 0.9\)"):
        parse({"pair": 0.9}, Lists, "x")


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "outer:\n  a: {x: 1}\n  b: 2\n  a: {x: 2}\n"])
def test_a_key_that_is_given_twice_is_refused(tmp_path, text):
    """YAML readers keep the last: of two sources of a mix with one name, the first would vanish."""
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(InputError, match=r"r.yaml: not valid YAML: key 'a' is given twice.*line [34]"):
        read_yaml(tmp_path / "r.yaml")


def test_merged_keys_are_not_repeated_ones(tmp_path):
    (tmp_path / "r.yaml").write_text("base: &b {x: 1, y: 2}\nown: {<<: *b, x: 3}\n")
    assert read_yaml(tmp_path / "r.yaml")["own"] == {"x": 3, "y": 2}


def test_a_file_too_large_for_a_recipe_is_not_read(tmp_path):
    with (tmp_path / "r.yaml").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match=r"r\.yaml: 1099511627776 bytes, expected at most"):
        read_yaml(tmp_path / "r.yaml")
