"""What counts as a copy, on real photographs and on made pictures that a perceptual hash alone confuses."""

from collections import defaultdict

import pyarrow as pa
import pytest

from bench.curating.copies import changes, encoded, false_pairs, made, photographs, table
from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.dedupe.detail import detail_of
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from schemas import Dataset
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset

PHOTOS = ("chelsea", "coffee", "camera", "rocket", "page")


@pytest.fixture(scope="module")
def pictures():
    photos = photographs(PHOTOS)
    return {**photos, **made(photos["chelsea"])}


def test_recall_per_change_and_no_false_pair(pictures):
    asked = [change for change in changes() if not change.name.startswith(("cropped", "mirrored"))]
    recall = {name: found / count for name, count, _, found in table(pictures, asked)}
    assert all(recall[f"saved as JPEG {quality}"] >= 0.9 for quality in (30, 50, 75, 95))
    assert all(recall[f"resized by {factor}"] >= 0.8 for factor in (0.5, 0.75, 1.5, 2))
    assert recall["EXIF turn"] >= 0.95 and recall["brightness 0.85"] >= 0.9
    by_hash, by_all = false_pairs(pictures)
    assert len(by_hash) > 20 and by_all == []


@pytest.mark.parametrize("kind", ["flat", "gradient"])
def test_pictures_without_structure_have_none(pictures, kind):
    for name, picture in pictures.items():
        if name.startswith(kind):
            assert not detail_of(encoded(picture)).structured
        elif name.split()[0] not in ("flat", "gradient"):
            assert detail_of(encoded(picture)).structured, name


def test_clusters_of_the_step_hold_one_picture_each(pictures, tmp_path):
    """Copies and originals together: no chain joins two pictures, and equal bytes of a flat one are a copy."""
    rows = [(f"{name}/original", encoded(picture)) for name, picture in pictures.items()]
    chosen = [change for change in changes() if change.name in ("saved as JPEG 75", "resized by 0.5", "EXIF turn")]
    rows += [(f"{name}/{change.name}", change.apply(one)) for name, one in pictures.items() for change in chosen]
    rows += [("flat white/again", encoded(pictures["flat white"]))]
    schema = pa.schema([*BASE["images"], STORED_IMAGE[0]])
    values = [{"key": key, "image": {"bytes": data}} for key, data in rows]
    write_dataset(tmp_path / "pictures", "images", [pa.Table.from_pylist(values, schema)])
    run_step(Dedupe(DedupeConfig()), tmp_path / "pictures", Runner("local", 1))
    clusters, statuses = defaultdict(set), {}
    for row in Dataset.open(tmp_path / "pictures"):
        clusters[row["cluster"]].add(row["key"].partition("/")[0])
        statuses[row["key"]] = row["dedupe_status"]
    assert [names for names in clusters.values() if len(names) > 1] == []
    assert statuses["flat white/again"] == "copy" and statuses["flat #fdfdfd/original"] == "ok"
    assert statuses["coffee/resized by 0.5"] == "near_copy"
