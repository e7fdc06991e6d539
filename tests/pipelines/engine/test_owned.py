"""A step's column never hides one that is not its own: the run ends before any work."""

import pyarrow as pa
import pytest

from pipelines.engine.runners import Runner
from pipelines.engine.step import Config, Step
from pipelines.engine.work import preview_step, run_step
from schemas import Dataset
from schemas.errors import InputError
from schemas.records import BASE, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pipelines.steps import Shout, ShoutConfig, Status, Twin

LOCAL = Runner("local", 1)


def dataset_with(path, *names):
    """Two fragments; the second alone has the further columns."""
    plain = pa.Table.from_pylist([{"key": "k0"}], BASE["images"])
    schema = pa.schema([*BASE["images"], *((name, pa.string()) for name in names)])
    further = pa.Table.from_pylist([{"key": "k1", **dict.fromkeys(names, "theirs")}], schema)
    write_dataset(path, "images", [plain, further])
    return str(path)


def adding(*fields, name="other"):
    class Other(Step[Config]):
        version, Config, statuses = 1, Config, Status
        reads = ("key",)
        adds = fields

        def process(self, batch):
            return self.rows_to_batch([{"status": "ok"} for _ in range(batch.num_rows)])

    Other.name = name
    return Other(Config())


TEXT = pa.string()


def test_an_imported_column_is_not_hidden(tmp_path):
    path = dataset_with(tmp_path / "photos", "loud")
    words = (
        "shout: the column 'loud' of .*photos was imported with the rows, and this step's column of that name would "
        r"hide it. Import it under another name \(--extra '{loud_of_list: ...}'\)"
    )
    for run in (lambda: run_step(Shout(ShoutConfig()), path, LOCAL), lambda: preview_step(Shout(ShoutConfig()), path)):
        with pytest.raises(InputError, match=words):
            run()
    assert Dataset.open(path).fragments[1].read(["loud"]).to_pylist() == [{"loud": "theirs"}]
    assert Dataset.open(path).manifest.number == 1


@pytest.mark.parametrize("column", ["cluster", "last"])
def test_nor_by_a_step_over_all_rows_or_its_keys(tmp_path, column):
    path = dataset_with(tmp_path / "photos", column)
    with pytest.raises(InputError, match=f"the column '{column}' of .* was imported with the rows"):
        run_step(Twin(Twin.Config()), path, LOCAL)
    assert Dataset.open(path).manifest.number == 1


def test_nor_a_column_of_another_step(tmp_path):
    path = dataset_with(tmp_path / "photos")
    run_step(Shout(ShoutConfig()), path, LOCAL)
    for step in (adding(pa.field("loud", TEXT)), adding(pa.field("shout_status", TEXT))):
        with pytest.raises(InputError, match=r"of .*photos is the step shout's"):
            run_step(step, path, LOCAL)
    assert run_step(Shout(ShoutConfig(word="?")), path, LOCAL).made == 2


@pytest.mark.parametrize("column", BASE["images"].names)
def test_nor_one_of_every_dataset(tmp_path, column):
    path = dataset_with(tmp_path / "photos")
    with pytest.raises(InputError, match=f"other: '{column}' is a column of every images dataset"):
        run_step(adding(pa.field(column, TEXT)), path, LOCAL)


def test_a_column_is_made_once(tmp_path):
    path = dataset_with(tmp_path / "photos")
    with pytest.raises(InputError, match="other: it would make the column 'other_status' twice"):
        run_step(adding(pa.field("other_status", TEXT)), path, LOCAL)


def test_only_what_stores_pictures_writes_their_columns_anew(tmp_path):
    image, width = STORED_IMAGE[0], pa.field("width", pa.int32())
    table = pa.Table.from_pylist([{"key": "k0", "width": 3}], pa.schema([*BASE["images"], *STORED_IMAGE]))
    write_dataset(tmp_path / "photos", "images", [table])
    with pytest.raises(InputError, match="'width' is a column of every images dataset"):
        run_step(adding(width), tmp_path / "photos", LOCAL)
    assert run_step(adding(image, width), tmp_path / "photos", LOCAL).made == 1
