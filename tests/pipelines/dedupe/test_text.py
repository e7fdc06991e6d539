"""Near text beside plain answers: all pairs of sets of n-grams in Python."""

import random
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.dedupe import DedupeText, TextConfig
from pipelines.dedupe.minhash import bands_for, bands_of, connect_similar, grams
from pipelines.dedupe.text import texts_of
from pipelines.engine.components import Components
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.texts import ngrams, words
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import CONVERSATIONS, IMAGES, MESSAGE
from schemas.writing import write_dataset


def sets_of(texts, length):
    split = [tuple(words(text)) for text in texts]
    return [set(ngrams(one, length)) or ({one} if one else set()) for one in split]


def captions(count, seed=1):
    """Captions from a small vocabulary; a third are another one with a few words changed, added or dropped."""
    drawn = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(300)]
    found = []
    for _ in range(count):
        if found and drawn.random() < 0.35:
            own = drawn.choice(found).split()
            for _ in range(drawn.randrange(3)):
                own[drawn.randrange(len(own))] = drawn.choice(vocabulary)
            own = own[drawn.randrange(2) :] or own
        else:
            own = drawn.choices(vocabulary, k=drawn.randint(1, 16))
        found.append(" ".join(own))
    return found


@given(st.lists(st.text(alphabet="ab 猫,", max_size=12), max_size=8), st.integers(1, 3))
def test_ngrams_are_numbered_as_sets_of_words(texts, length):
    numbers, ends, counts = grams(texts, length)
    assert counts.tolist() == [len(words(text)) for text in texts]
    own = [set(part.tolist()) for part in np.split(numbers, ends[:-1])] if texts else []
    plain = sets_of(texts, length)
    assert [len(one) for one in own] == [len(one) for one in plain]
    for first, second in combinations(range(len(texts)), 2):
        assert len(own[first] & own[second]) == len(plain[first] & plain[second])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.9, 1.0])
def test_pairs_of_the_threshold_rarely_share_no_band(threshold):
    bands, rows = bands_for(threshold)
    assert bands * rows <= 128 and (1 - threshold**rows) ** bands <= 0.02


@pytest.mark.parametrize(("length", "threshold"), [(1, 0.6), (2, 0.7), (3, 0.5)])
@pytest.mark.parametrize("hot", [64, 3])
def test_what_is_joined_is_what_shares_a_band_and_is_similar(length, threshold, hot, monkeypatch):
    monkeypatch.setattr("pipelines.dedupe.minhash.HOT", hot)
    texts = list(dict.fromkeys(captions(400)))
    numbers, ends, _ = grams(texts, length)
    bands = bands_of(numbers, ends, *bands_for(threshold))
    groups = np.arange(len(texts)) % 2
    sets, plain = Components(len(texts)), Components(len(texts))
    connect_similar(numbers, ends, bands, groups, threshold, sets)
    own, near = sets_of(texts, length), 0
    for first, second in combinations(range(len(texts)), 2):
        if len(own[first] & own[second]) / len(own[first] | own[second]) < threshold or (first + second) % 2:
            continue
        near += 1
        if (bands[first] == bands[second]).any():
            plain.join(np.array([first]), np.array([second]))
    everything = np.arange(len(texts))
    assert sets.roots(everything).tolist() == plain.roots(everything).tolist() and near > 10


def images_of(path, texts, cuts=(), column="alt_text"):
    values = [{"key": f"k{number:04}", column: text} for number, text in enumerate(texts)]
    ends = [*cuts, len(values)]
    tables = [pa.Table.from_pylist(values[start:end], IMAGES) for start, end in zip([0, *cuts], ends, strict=True)]
    return str(write_dataset(path, "images", tables).path)


def found_in(path):
    columns = ["key", "text_cluster", "text_cluster_size", "text_duplicate_of", "dedupe_text_status"]
    dataset = Dataset.open(path)
    return [tuple(row.values()) for row in dataset.take(range(dataset.rows), columns)]


def test_clusters_of_captions(tmp_path):
    texts = [
        "A red bus in the rain, seen from a bridge at night",
        "a RED bus -- in the rain; seen from a bridge at night",
        None,
        "A red bus in the rain, seen from a bridge at night, blurred",
        "dog",
        "Dog!",
        "dogs",
        "?!",
        "a man bites a dog",
    ]
    path = images_of(tmp_path / "captions", texts, [2, 2, 5])
    summary = run_step(DedupeText(TextConfig()), path, Runner("local", 1))
    assert found_in(path) == [
        ("k0000", "k0000", 3, "k0003", "near_copy"),
        ("k0001", "k0000", 3, "k0003", "near_copy"),
        ("k0002", None, None, None, "no_text"),
        ("k0003", "k0000", 3, None, "ok"),
        ("k0004", "k0004", 2, None, "ok"),
        ("k0005", "k0004", 2, "k0004", "copy"),
        ("k0006", "k0006", 1, None, "ok"),
        ("k0007", None, None, None, "no_text"),
        ("k0008", "k0008", 1, None, "ok"),
    ]
    assert summary.statuses == {"ok": 4, "near_copy": 2, "no_text": 2, "copy": 1}


def test_recall_beside_all_pairs_and_the_same_when_appended(tmp_path):
    """Of pairs as similar as the threshold or more, at most 3% are in different clusters; and no pair below it joins
    alone. The same clusters when fragments are cut otherwise."""
    texts = captions(600, seed=7)
    whole = images_of(tmp_path / "whole", texts)
    parts = images_of(tmp_path / "parts", texts, [50, 333])
    for path in (whole, parts):
        run_step(DedupeText(TextConfig()), path, Runner("local", 1))
    assert found_in(whole) == found_in(parts)
    clusters, own = [row[1] for row in found_in(whole)], sets_of(texts, 2)
    similar = [
        clusters[first] == clusters[second]
        for first, second in combinations(range(len(texts)), 2)
        if len(own[first] & own[second]) >= 0.7 * len(own[first] | own[second])
    ]
    assert len(similar) > 50 and sum(similar) >= 0.97 * len(similar)


def test_messages_all_turns_or_the_answers():
    said = [[("user", "What is it?"), ("assistant", "A cat.")], None]
    rows = [
        turns and [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
        for turns in said
    ]
    column = pa.array(rows, pa.list_(MESSAGE))
    assert texts_of(column, "all") == ["What is it?\nA cat.", ""]
    assert texts_of(column, "answers") == ["A cat.", ""]
    assert texts_of(pa.array([["a", None, "b"], None]), "all") == ["a\nb", ""]


def test_a_column_that_is_not_there_or_no_text_is_one_error_before_any_work(tmp_path):
    path = images_of(tmp_path / "captions", ["a"])
    with pytest.raises(InputError, match="--column alttext: no such column"):
        run_step(DedupeText(TextConfig(column="alttext")), path, Runner("local", 1))
    with pytest.raises(InputError, match="--column boxes holds list<"):
        run_step(DedupeText(TextConfig(column="boxes")), path, Runner("local", 1))
    assert set(Dataset.open(path).manifest.steps) == {"base"} or not Dataset.open(path).manifest.steps


def test_conversations_beside_another_dataset(tmp_path):
    def talk(key, answer):
        said = [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
        return {"key": key, "messages": said, "status": "ok"}

    def write(name, rows):
        table = pa.Table.from_pylist([talk(*row) for row in rows], CONVERSATIONS)
        return str(write_dataset(tmp_path / name, "conversations", [table]).path)

    other = write("benchmark", [("q1", "Two dogs run along the beach.")])
    own = write("own", [("a", "two dogs run along the beach"), ("b", "a cat sleeps"), ("c", "A cat sleeps!")])
    options = {"column": "messages", "turns": "answers"}
    with pytest.raises(InputError, match="lacks the column 'text_digest'"):
        run_step(DedupeText(TextConfig(**options, against=(other,))), own, Runner("local", 1))
    run_step(DedupeText(TextConfig(**options)), other, Runner("local", 1))
    with pytest.raises(InputError, match="with other options"):
        run_step(DedupeText(TextConfig(**options, ngram=3, against=(other,))), own, Runner("local", 1))
    run_step(DedupeText(TextConfig(**options, against=(other,))), own, Runner("local", 1))
    assert [row[2:] for row in found_in(own)] == [
        (1, "benchmark:q1", "copy"),
        (2, None, "ok"),
        (2, "b", "copy"),
    ]
