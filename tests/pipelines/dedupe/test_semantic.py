"""Clusters of embeddings beside the whole matrix of cosines."""

import numpy as np
import pyarrow as pa
import pytest

from pipelines.dedupe import semantic
from pipelines.dedupe.semantic import DedupeSemantic, SemanticConfig, directions, near_pairs
from pipelines.engine.components import Components
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import IMAGES
from schemas.writing import write_dataset


def embeddings(rows, size=16, kind=np.float32, seed=0):
    """Unit vectors; every third is near an earlier one."""
    random = np.random.default_rng(seed)
    found = random.normal(size=(rows, size))
    for row in range(2, rows, 3):
        found[row] = found[random.integers(row)] + random.normal(size=size) * random.choice([0.0, 0.05, 0.3])
    return (found * random.uniform(0.1, 9, (rows, 1))).astype(kind)


def dataset_of(path, vectors, cuts=(), nulls=(), size=None):
    """`size` -1: lists that do not say their length, as most tools write them."""
    size = vectors.shape[1] if size is None else size
    schema = IMAGES.append(pa.field("embedding", pa.list_(pa.from_numpy_dtype(vectors.dtype), size)))
    kind, tables = schema.field("embedding").type, []
    for start, end in zip([0, *cuts], [*cuts, len(vectors)], strict=True):
        values = [None if row in nulls else list(vectors[row]) for row in range(start, end)]
        table = pa.Table.from_pylist([{"key": f"k{row:03}"} for row in range(start, end)], IMAGES)
        tables.append(table.append_column(schema.field("embedding"), pa.array(values, kind)))
    return str(write_dataset(path, "images", tables).path)


def found_in(path):
    columns = ["semantic_cluster", "semantic_cluster_size", "semantic_duplicate_of", "dedupe_semantic_status"]
    dataset = Dataset.open(path)
    return [tuple(row.values()) for row in dataset.take(range(dataset.rows), columns)]


def plain_clusters(vectors, threshold):
    """The smallest row of each row's component, by the whole matrix in float64."""
    unit = vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    sets = Components(len(vectors))
    sets.join(*np.nonzero(unit @ unit.T >= threshold))
    return sets.roots(np.arange(len(vectors))).tolist()


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_clusters_are_those_of_the_whole_matrix_however_rows_are_cut(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(semantic, "BLOCK_ROWS", 37)
    monkeypatch.setattr(semantic, "PRODUCT_ROWS", 10)
    vectors = embeddings(120, kind=kind)
    found = []
    for number, cuts in enumerate([(), (1, 50, 50, 90)][: 2 if kind is np.float32 else 1]):
        path = dataset_of(tmp_path / str(number), vectors, cuts)
        run_step(DedupeSemantic(SemanticConfig(threshold=0.9)), path, Runner("local", 1))
        found.append(found_in(path))
    assert [int(row[0][1:]) for row in found[0]] == plain_clusters(vectors, 0.9)
    assert all(one == found[0] for one in found)
    assert {row[3] for row in found[0]} >= {"ok", "near_copy"}


def test_blocks_give_the_pairs_of_the_matrix():
    ours, theirs = embeddings(50), embeddings(60, seed=1)
    theirs[:20] = ours[:20] * 3
    (ours, _), (theirs, _) = (
        directions(pa.FixedSizeListArray.from_arrays(pa.array(one.ravel()), 16)) for one in (ours, theirs)
    )
    found = [pair for ends in near_pairs(ours, theirs, 0.5) for pair in zip(*map(np.ndarray.tolist, ends), strict=True)]
    assert len(found) == len(set(found)) > 20
    assert set(found) == set(zip(*(side.tolist() for side in np.nonzero(ours @ theirs.T >= 0.5)), strict=True))


def test_rows_without_a_direction_take_no_part(tmp_path):
    vectors = embeddings(6)
    vectors[1], vectors[2], vectors[3], vectors[5] = 0, np.nan, vectors[0], -vectors[0]
    path = dataset_of(tmp_path / "own", vectors, nulls={4})
    run_step(DedupeSemantic(SemanticConfig()), path, Runner("local", 1))
    statuses = [row[3] for row in found_in(path)]
    assert statuses == ["ok", "no_embedding", "no_embedding", "copy", "no_embedding", "ok"]
    keys = [row["dedupe_semantic_keys_status"] for row in Dataset.open(path)]
    assert keys == ["ok", "unusable", "unusable", "ok", "no_embedding", "ok"]


def test_what_cannot_be_compared_is_one_error_before_any_work(tmp_path):
    own, other = dataset_of(tmp_path / "own", embeddings(3)), dataset_of(tmp_path / "other", embeddings(3, size=8))
    with pytest.raises(InputError, match="--column embeddings: no such column"):
        run_step(DedupeSemantic(SemanticConfig(column="embeddings")), own, Runner("local", 1))
    with pytest.raises(InputError, match="holds string, expected lists of one length"):
        run_step(DedupeSemantic(SemanticConfig(column="url")), own, Runner("local", 1))
    with pytest.raises(InputError, match=r"several sizes cannot be compared: 16 in .*own.*, 8 in .*other"):
        run_step(DedupeSemantic(SemanticConfig(against=(other,))), own, Runner("local", 1))
    assert not Dataset.open(own).manifest.statuses()


def test_lists_that_do_not_say_their_length_are_compared_where_they_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(semantic, "BLOCK_ROWS", 10)
    vectors, nulls = embeddings(60), {3, *range(20, 40)}
    paths = [dataset_of(tmp_path / str(size), vectors, (30,), nulls, size) for size in (None, -1)]
    for path in paths:
        run_step(DedupeSemantic(SemanticConfig(threshold=0.9)), path, Runner("local", 1))
    assert found_in(paths[0]) == found_in(paths[1])
    table = pa.Table.from_pylist([{"key": "a"}, {"key": "b"}], IMAGES)
    column = pa.array([[1.0, 2.0], [1.0]], pa.list_(pa.float32()))
    path = str(write_dataset(tmp_path / "odd", "images", [table.append_column("embedding", column)]).path)
    with pytest.raises(InputError, match=r"embeddings of several sizes cannot be compared: 2 in .*, 1 in"):
        run_step(DedupeSemantic(SemanticConfig()), path, Runner("local", 1))


def test_very_large_and_very_small_numbers_have_a_direction(tmp_path, recwarn):
    vectors = np.array([[1e300, 1e300], [1e-300, 1e-300], [2e300, 2e300], [1.0, -1.0]])
    path = dataset_of(tmp_path, vectors)
    run_step(DedupeSemantic(SemanticConfig(threshold=0.99)), path, Runner("local", 1))
    assert [row[1] for row in found_in(path)] == [3, 3, 3, 1]
    assert [row[3] for row in found_in(path)] == ["ok", "near_copy", "near_copy", "ok"]
    assert not [one for one in recwarn if issubclass(one.category, RuntimeWarning)]
