"""The index: hashes of pictures and texts, and a file that says how they were made."""

import io

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.decontaminate.build import build_index
from pipelines.decontaminate.hashes import gram_hashes, lines, questions, views
from pipelines.decontaminate.index import Index, Meta, Settings, assembled
from pipelines.texts import ngrams
from schemas.errors import CorruptError, InputError, VersionError
from schemas.phash import perceptual_hash
from schemas.pictures import PictureError
from schemas.records import BASE
from schemas.writing import write_dataset
from tests.pipelines.decontaminate.leaks import images_of, landscape, png, talks_of

QUESTION = "What is the brand of the camera on the table?"


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=9), max_size=6), st.integers(2, 4))
def test_runs_of_words_are_those_of_each_text_alone(texts, length):
    hashes, owners = gram_hashes(texts, length)
    expected = [(owner, gram) for owner, text in enumerate(texts) for gram in ngrams(text, length)]
    assert owners.tolist() == [owner for owner, _ in expected]
    known = dict(zip(hashes.tolist(), (gram for _, gram in expected), strict=True))
    assert [known[value] for value in hashes.tolist()] == [gram for _, gram in expected]
    assert len(known) == len({gram for _, gram in expected})


def test_questions_in_other_words_by_form_are_the_same():
    asked = questions(f"<image>\n{QUESTION}\nAnswer with one word.", 8)
    assert asked & questions("what is the BRAND of the camera, on the table", 8)
    assert questions(QUESTION, 11) == questions("<image>", 1) == set()
    assert list(lines("<image>\nIs it?\n\nYES.")) == [["is", "it"], ["yes"]]


def test_views_of_a_picture_begin_with_its_own_hash():
    data = png(landscape(1))
    digest, hashes = views(data, 96)
    assert len(digest) == 64 and f"{hashes[0]:016x}" == perceptual_hash(data) and 5 < len(hashes) <= 15
    assert views(data, 300)[1] == [] and views(png(np.full((200, 200, 3), 90, np.uint8)), 96)[1] == []
    with pytest.raises(PictureError):
        views(b"junk", 96)


def index_of(hashes):
    meta = Meta(format="f", version=1, settings=Settings(), sets=[{"name": "one", "rows": 3}])
    rows = np.arange(len(hashes))
    return assembled(meta, [0] * len(hashes), [f"r{n}" for n in rows], {"picture": [np.array(hashes, np.uint64), rows]})


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=8),
    st.integers(0, 2**64 - 1),
    st.lists(st.integers(0, 63), max_size=20),
    st.integers(0, 16),
)
def test_near_finds_what_comparing_all_finds(hashes, asked, flips, distance):
    near = asked
    for bit in flips:
        near ^= 1 << bit
    index = index_of([*hashes, near])
    rows, bits = index.near(asked, distance)
    expected = [(row, (value ^ asked).bit_count()) for row, value in enumerate([*hashes, near])]
    found = set(zip(rows.tolist(), bits.tolist(), strict=True))
    assert found == {pair for pair in expected if pair[1] <= distance}


def test_the_file_is_the_same_bytes_and_opens_as_it_was(tmp_path):
    images_of(tmp_path / "photos", {"a": png(landscape(1)), "ü": png(landscape(2)), "junk": b"junk", "none": None})
    talks_of(tmp_path / "talks", {"q": (QUESTION, "a b c")})
    sets = [("vqa", str(tmp_path / "photos")), ("vqa", str(tmp_path / "talks")), ("more", str(tmp_path / "talks"))]
    for name in ("one.npz", "two.npz"):
        made, reports = build_index(sets, Settings())
        made.write(tmp_path / name)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    vqa = reports[0]
    assert (vqa.rows, vqa.pictures, vqa.undecodable, vqa.questions) == (5, 2, 1, 1)
    index = Index.open(tmp_path / "one.npz")
    assert (index.sets, index.kinds, index.name(1)) == (["vqa", "more"], ["bytes", "picture", "question"], "ü")
    asked = np.array(sorted(questions(QUESTION, 8)), np.uint64)
    assert [index.set_of(row) for row in index.equal("question", asked)[1]] == [0, 1]


def test_what_every_row_asks_is_nobodys(tmp_path):
    talks_of(tmp_path / "talks", {str(n): (QUESTION, " ".join(f"w{n}x{i}" for i in range(13))) for n in range(11)})
    made, (report,) = build_index([("talks", str(tmp_path / "talks"))], Settings())
    assert (report.questions, report.ngrams, report.common, made.kinds) == (0, 11, 1, ["ngram"])
    assert build_index([("talks", str(tmp_path / "talks"))], Settings(common_rows=11))[1][0].questions == 1


def test_sets_without_anything_are_refused(tmp_path):
    images_of(tmp_path / "photos", {"a": None, "b": b"junk"})
    write_dataset(tmp_path / "empty", "images", [pa.Table.from_pylist([], pa.schema(BASE["images"]))])
    for path in ("photos", "empty"):
        with pytest.raises(InputError, match=r"set 'x': .* has nothing to compare"):
            build_index([("x", str(tmp_path / path))], Settings())
    with pytest.raises(InputError, match="no evaluation set"):
        build_index([], Settings())
    with pytest.raises(InputError, match="no column 'vector'"):
        build_index([("x", str(tmp_path / "photos"))], Settings(), "vector")


def test_files_that_are_no_index_are_one_message(tmp_path):
    path = tmp_path / "index.npz"
    with pytest.raises(InputError, match="cannot be read"):
        Index.open(path)
    whole = io.BytesIO()
    np.savez(whole, a=np.zeros(3))
    for content in (b"", b"text", whole.getvalue(), whole.getvalue()[:40]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not an index of evaluation sets, or damaged"):
            Index.open(path)
    index = index_of([1, 2])
    for change, error in [({"version": 2}, VersionError), ({"format": "other"}, InputError)]:
        values = {"format": "lavabeam evaluation index", "version": 1, **change}
        Index(index.meta.model_copy(update=values), index.arrays).write(path)
        with pytest.raises(error):
            Index.open(path)
    meta = index.meta.model_copy(update={"format": "lavabeam evaluation index"})
    wrong = [
        {"picture_row": np.array([0], np.uint32)},
        {"picture_row": np.array([0, 9], np.uint32)},
        {"picture_hash": np.zeros(2)},
        {"picture_hash": np.array([2, 1], np.uint64)},
        {"row_set": np.array([0, 1], np.uint16)},
        {"name_ends": np.array([1, 9])},
    ]
    for arrays in wrong:
        Index(meta, {**index.arrays, **arrays}).write(path)
        with pytest.raises(CorruptError, match="does not hold together"):
            Index.open(path)


def test_a_dataset_counts_once_in_a_set_and_every_set_has_a_name(tmp_path):
    """Counted twice, its leak rate would be halved."""
    with pytest.raises(InputError, match="named twice"):
        build_index([("ev", "x/e"), ("ev", "x/./e")], Settings())
    with pytest.raises(InputError, match="no name"):
        build_index([("", "e")], Settings())
