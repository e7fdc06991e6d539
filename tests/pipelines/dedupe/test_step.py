"""Dedupe over a small dataset of real pictures, on the runners it will meet."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.dedupe.keys import DedupeKeys
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from schemas import Dataset
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset


def landscape(seed, size=256):
    """A smooth random picture: its low frequencies are its own, like a photograph's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def encoded(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def dataset_of(path, fragments):
    """An images dataset of (key, bytes) rows, without any hash."""
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0]])
    tables = []
    for rows in fragments:
        values = [{"key": key, "image": {"bytes": data} if data else None} for key, data in rows]
        tables.append(pa.Table.from_pylist(values, schema))
    return write_dataset(path, "images", tables)


def known_of(path, rows, cuts):
    """A dataset of rows whose hashes are known, (key, hash, number of a sha256, side) or (key, None), in fragments."""
    schema = pa.schema([*BASE["images"], *STORED_IMAGE])
    values = [
        {
            "key": key,
            "image": {"bytes": b"unread"},
            "phash": f"{known[0]:016x}",
            "sha256": f"{known[1]:064x}",
            "width": known[2],
            "height": known[2],
        }
        if known[0] is not None
        else {"key": key}
        for key, *known in rows
    ]
    ends = [*cuts, len(rows)]
    tables = [pa.Table.from_pylist(values[start:end], schema) for start, end in zip([0, *cuts], ends, strict=True)]
    return write_dataset(path, "images", tables)


def found_in(path):
    columns = ["key", "cluster", "cluster_size", "duplicate_of", "dedupe_status"]
    dataset = Dataset.open(path)
    return {row.pop("key"): tuple(row.values()) for row in dataset.take(range(dataset.rows), columns)}


@pytest.fixture
def photos(tmp_path):
    first, second = landscape(1), landscape(2)
    fragments = [
        [("a", encoded(first)), ("b", encoded(second)), ("c", None)],
        [
            ("d", encoded(first)),
            ("e", encoded(first, "JPEG", quality=70)),
            ("f", encoded(landscape(1, 512))),
            ("g", b"no picture"),
        ],
    ]
    dataset_of(tmp_path / "photos", fragments)
    return tmp_path / "photos"


def test_clusters_over_fragments(photos):
    summary = run_step(Dedupe(DedupeConfig()), photos, Runner("local", 2))
    assert run_step(Dedupe(DedupeConfig()), photos, Runner("local", 1)).made == 0
    assert found_in(photos) == {
        "a": ("a", 4, "f", "near_copy"),
        "b": ("b", 1, None, "ok"),
        "c": (None, None, None, "no_image"),
        "d": ("a", 4, "f", "near_copy"),
        "e": ("a", 4, "f", "near_copy"),
        "f": ("a", 4, None, "ok"),
        "g": ("g", 1, None, "ok"),
    }
    assert summary.statuses == {"ok": 3, "near_copy": 3, "no_image": 1}


def test_equal_bytes_only_and_no_pair_at_all(photos):
    run_step(Dedupe(DedupeConfig(near=False)), photos, Runner("local", 1))
    found = found_in(photos)
    assert found["d"] == ("a", 2, "a", "copy")
    assert [found[key][3] for key in "aef"] == ["ok", "ok", "ok"]


def test_the_smallest_key_may_represent_equals(tmp_path):
    path = known_of(str(tmp_path / "named"), [("b", 5, 1, 99), ("a", 5, 1, 99), ("c", 5, 1, 99)], [1]).path
    runs = [({}, ["ok", "copy", "copy"]), ({"among_equals": "smallest_key"}, ["copy", "ok", "copy"])]
    for options, statuses in runs:
        run_step(Dedupe(DedupeConfig(**options)), path, Runner("local", 1))
        assert [row["dedupe_status"] for row in Dataset.open(path)] == statuses
    assert DedupeConfig().identity() == {"near": True, "near_distance": 6, "near_min_size": 96}


def test_small_pictures_count_as_the_same_only_by_their_bytes():
    schema = pa.schema([("key", pa.string()), *DedupeKeys.adds])
    known = {"key": "a", "dedupe_sha256": "5ha", "dedupe_phash": "00ff" * 4, "dedupe_width": 64, "dedupe_height": 90}
    batch = pa.RecordBatch.from_pylist([known, {**known, "dedupe_sha256": None}], schema=schema)
    for least, near in [(64, 0x00FF00FF00FF00FF), (65, None)]:
        (found,) = Dedupe(DedupeConfig(near_min_size=least)).key(batch).to_pylist()
        assert (found["row"], found["near"], found["area"], found["key"]) == (0, near, 64 * 90, "a")


def test_options_change_the_verdicts_and_not_the_keys():
    def steps(**options):
        config = DedupeConfig(**options)
        return DedupeKeys(config).fingerprint({"base": "f"}), Dedupe(config).fingerprint({"base": "f"})

    assert steps()[0] == steps(near_distance=2)[0]
    assert steps()[1] != steps(near_distance=2)[1]


def test_known_hashes_are_taken_over_and_missing_ones_computed():
    step = DedupeKeys(DedupeConfig())
    data = encoded(landscape(1))
    schema = pa.schema([("key", pa.string()), *STORED_IMAGE])
    known = {"sha256": "5ha", "phash": "0123456789abcdef", "width": 9, "height": 8}
    rows = [
        {"key": "a", "image": {"bytes": b"unread"}, **known},
        {"key": "b", "image": {"bytes": data}, "sha256": "5hb"},
    ]
    taken, computed = step.process(pa.RecordBatch.from_pylist(rows, schema=schema)).to_pylist()
    assert list(taken.values()) == ["5ha", "0123456789abcdef", 9, 8, None, "ok", None]
    assert (computed["dedupe_sha256"], computed["dedupe_width"], computed["dedupe_keys_status"]) == ("5hb", 256, "ok")
    assert len(computed["dedupe_phash"]) == 16 and len(computed["dedupe_cells"]) == 576


def test_pictures_that_cannot_be_decoded_still_have_bytes():
    step = DedupeKeys(DedupeConfig())
    schema = pa.schema([("key", pa.string()), STORED_IMAGE[0]])
    batch = pa.RecordBatch.from_pylist([{"key": "a", "image": {"bytes": b"junk"}}, {"key": "b"}], schema=schema)
    junk, nothing = step.process(batch).to_pylist()
    assert (len(junk["dedupe_sha256"]), junk["dedupe_phash"], junk["dedupe_keys_status"]) == (64, None, "undecodable")
    assert (nothing["dedupe_sha256"], nothing["dedupe_keys_status"]) == (None, "no_image")


MIXED = [
    ("é", 0b111, 1, 200),
    ("失敗", None),
    ("z", 0b110, 2, 300),
    ("a", 2**64 - 2**40, 3, 100),
    ("e", 0, 1, 300),
    ("small", 0, 4, 50),
    ("smaller", 0, 4, 40),
]


@pytest.mark.parametrize("cuts", [[], [0, 2, 2, 5], [1, 2, 3, 4, 5, 6]])
def test_fragments_may_be_cut_anywhere_and_be_empty(tmp_path, cuts):
    known_of(tmp_path / "known", MIXED, cuts)
    run_step(Dedupe(DedupeConfig()), tmp_path / "known", Runner("local", 2))
    assert found_in(tmp_path / "known") == {
        "é": ("e", 3, "z", "near_copy"),
        "失敗": (None, None, None, "no_image"),
        "z": ("e", 3, None, "ok"),
        "a": ("a", 1, None, "ok"),
        "e": ("e", 3, "z", "near_copy"),
        "small": ("small", 2, None, "ok"),
        "smaller": ("small", 2, "small", "copy"),
    }


@pytest.mark.parametrize("rows", [[], [("a", None), ("b", None)], [("a", 5, 1, 200)]])
def test_nothing_to_compare(tmp_path, rows):
    known_of(tmp_path / "known", rows, [0])
    summary = run_step(Dedupe(DedupeConfig()), tmp_path / "known", Runner("local", 1))
    assert summary.rows == len(rows)
    assert set(summary.statuses) <= {"ok", "no_image"}


def test_100k_rows_beside_the_planted_answer(tmp_path):
    """Random hashes, none of them near by chance; every twentieth row is a copy of one before it, 0 to 6 bits away."""
    random = np.random.default_rng(5)
    hashes = random.integers(0, 2**64, 100_000, np.uint64)
    expected = list(range(len(hashes)))
    for row in range(19, len(hashes), 20):
        source = int(random.integers(row))
        bits = random.choice(64, random.integers(7), replace=False)
        hashes[row] = int(hashes[source]) ^ sum(1 << int(bit) for bit in bits)
        expected[row] = expected[source]
    schema = pa.schema([*BASE["images"], *STORED_IMAGE])
    columns = {field.name: pa.nulls(len(hashes), field.type) for field in schema} | {
        "key": [f"{row:06}" for row in range(len(hashes))],
        "image": pa.array([{"bytes": b"unread"}] * len(hashes), schema.field("image").type),
        "phash": [f"{value:016x}" for value in hashes.tolist()],
        "sha256": [f"{row:064x}" for row in range(len(hashes))],
        "width": pa.array([640] * len(hashes), pa.int32()),
        "height": pa.array([480] * len(hashes), pa.int32()),
    }
    table = pa.table(columns, schema=schema)
    write_dataset(
        tmp_path / "known", "images", (table.slice(start, 5000) for start in range(0, 100_000, 5000)), batch_rows=5000
    )
    summary = run_step(Dedupe(DedupeConfig()), tmp_path / "known", Runner("local", 2))
    assert summary.statuses == {"ok": 95_000, "near_copy": 5_000}
    found = [
        fragment.read(["cluster"]).column(0).to_pylist() for fragment in Dataset.open(tmp_path / "known").fragments
    ]
    assert [int(name) for names in found for name in names] == expected
