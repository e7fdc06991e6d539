"""Which rows of a source a mix takes: exact counts, shares, caps, and that nothing else moves them."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.mix.choose import REASONS, chosen
from pipelines.mix.maker import judges_of
from pipelines.mix.recipe import MixRecipe, MixSource
from pipelines.mix.select import copies, in_validation, key_hash
from schemas.dataset import Dataset
from schemas.errors import InputError
from schemas.records import BASE
from schemas.writing import write_dataset

QUESTION = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]


def talk(key: str, pictures: tuple[str, ...] = (), status: str = "ok", kind: str = "detail") -> dict:
    return {"key": key, "image_keys": list(pictures), "messages": QUESTION, "kind": kind, "status": status}


def talks(path, rows: list[dict], per_fragment: int = 7) -> str:
    parts = [rows[start : start + per_fragment] for start in range(0, len(rows), per_fragment)]
    write_dataset(path, "conversations", [pa.Table.from_pylist(part, BASE["conversations"]) for part in parts])
    return str(path)


def taken(seed: int = 0, **sources) -> dict[str, list[str]]:
    """The keys that are taken of each source."""
    made = {name: MixSource(missing_image="text", **values) for name, values in sources.items()}
    recipe = MixRecipe(sources=made, tokenizer="t", template="v1", seed=seed)
    opened = {source.dataset: Dataset.open(source.dataset) for source in made.values()}
    judges = judges_of(recipe, opened)
    surveys = chosen(recipe, judges)
    found = {}
    for name, judge in judges.items():
        keys = judge.dataset.take(range(judge.dataset.rows), ["key"])
        codes = surveys[name].codes if name in surveys else [0] * len(keys)
        fits = surveys[name].fits if name in surveys else [True] * len(keys)
        found[name] = [key["key"] for key, code, fit in zip(keys, codes, fits, strict=True) if fit and not code]
    return found


def test_a_count_is_exact_over_all_fragments_and_only_of_rows_that_may_be_taken(tmp_path):
    rows = [talk(f"k{n}", status="ok" if n % 3 else "refused") for n in range(60)]
    path = talks(tmp_path / "a", rows)
    keys = taken(one={"conversations": path, "rows": 11})["one"]
    assert len(keys) == 11
    usable = [row["key"] for row in rows if row["status"] == "ok"]
    assert set(keys) == set(sorted(usable, key=lambda key: key_hash(key, 0))[:11])
    assert len(taken(one={"conversations": path, "rows": 40})["one"]) == 40
    with pytest.raises(InputError, match=r"'one': `rows: 41` asks for 41 rows, and 40 of its 60.*20 import=refused"):
        taken(one={"conversations": path, "rows": 41})
    assert len(taken(one={"conversations": path, "max_rows": 41})["one"]) == 40


@settings(max_examples=8, deadline=None)
@given(
    st.integers(min_value=1, max_value=30),
    st.integers(min_value=0, max_value=9),
    st.sets(st.integers(0, 99), min_size=30),
)
def test_more_rows_or_sources_exchange_nothing_that_was_chosen(tmp_path_factory, size, seed, numbers):
    folder, keys = tmp_path_factory.mktemp("nested"), sorted(numbers)
    few = talks(folder / "few", [talk(f"k{n}") for n in keys])
    more = talks(folder / "more", [talk(f"k{n}") for n in sorted({*numbers, *range(40)}, reverse=True)])
    before = taken(seed, one={"conversations": few, "max_rows": size})["one"]
    beside = taken(seed, other={"conversations": more, "max_rows": 3}, one={"conversations": few, "max_rows": size})
    assert beside["one"] == before
    grown = set(taken(seed, one={"conversations": more, "max_rows": size})["one"])
    old = {f"k{n}" for n in keys}
    assert len(grown) == size
    assert grown & old <= set(before)
    assert set(before) <= set(taken(seed, one={"conversations": few, "max_rows": size + 1})["one"])


def test_shares_are_of_the_whole_mix(tmp_path):
    a, b = (
        talks(tmp_path / "a", [talk(f"a{n}") for n in range(60)]),
        talks(tmp_path / "b", [talk(f"b{n}") for n in range(300)]),
    )
    found = taken(fixed={"conversations": a}, part={"conversations": b, "share": 0.4})
    assert (len(found["fixed"]), len(found["part"])) == (60, 40)
    found = taken(one={"conversations": a, "share": 0.25}, two={"conversations": b, "share": 0.75})
    assert (len(found["one"]), len(found["two"])) == (60, 180)
    with pytest.raises(InputError, match=r"'one': `share: 0\.9` of 3,000 rows asks for 2700 rows, and 60 of its 60"):
        taken(one={"conversations": a, "share": 0.9}, two={"conversations": b})
    half = sum(copies(key_hash(f"a{n}", 0), 0.5) for n in range(60))
    found = taken(fixed={"conversations": a, "weight": 0.5}, part={"conversations": b, "share": 0.5})
    assert len(found["part"]) == half


def test_a_cap_leaves_the_same_rows_of_each_picture_whatever_their_order(tmp_path):
    rows = [talk(f"k{n}", (f"p{n % 4}",)) for n in range(40)] + [talk(f"t{n}") for n in range(5)]
    one = taken(s={"conversations": talks(tmp_path / "a", rows), "max_per_image": 3})["s"]
    other = taken(s={"conversations": talks(tmp_path / "b", rows[::-1]), "max_per_image": 3})["s"]
    assert sorted(one) == sorted(other)
    pictures = [int(key[1:]) % 4 for key in one if key.startswith("k")]
    assert [pictures.count(number) for number in range(4)] == [3, 3, 3, 3]
    assert len(one) == 17


def test_text_rows_alone(tmp_path):
    rows = [talk(f"k{n}", ("p",) if n % 2 else ()) for n in range(10)]
    path = talks(tmp_path / "a", rows)
    assert len(taken(s={"conversations": path, "modality": "text", "max_rows": 9})["s"]) == 5
    assert len(taken(s={"conversations": path, "modality": "pictures", "rows": 4})["s"]) == 4


def test_merged_rows_count_as_one(tmp_path):
    rows = [talk(f"k{n}", (f"p{n % 6}",)) for n in range(24)]
    path = talks(tmp_path / "a", rows)
    assert taken(s={"conversations": path, "turns": "merged"})["s"] == [f"k{n}" for n in range(6)]
    assert len(taken(s={"conversations": path, "turns": "merged", "rows": 4})["s"]) == 4
    assert REASONS[3] == "merged"


@given(st.text(), st.lists(st.text(), max_size=2), st.integers())
def test_the_validation_part_goes_by_the_picture(key, pictures, seed):
    mine = in_validation(key, pictures, 0.3, seed)
    assert mine == in_validation(pictures[0] if pictures else key, None, 0.3, seed)
    assert not in_validation(key, pictures, 0, seed)


def test_sizes_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="`rows` and `share` both say how many rows"):
        MixSource(conversations="a", rows=1, share=0.5)
    sources = {"a": MixSource(conversations="a", share=0.7), "b": MixSource(conversations="b", share=0.7)}
    with pytest.raises(ValueError, match=r"add up to 1\.4"):
        MixRecipe(sources=sources, tokenizer="t", template="v1")
    with pytest.raises(ValueError, match="`too_long: cut` needs `max_tokens`"):
        MixRecipe(sources={"a": MixSource(conversations="a")}, tokenizer="t", template="v1", too_long="cut")
