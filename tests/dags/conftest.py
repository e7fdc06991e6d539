"""Three dates of URL lists on a website of this machine, and what the commands of the DAGs make of them.

The helpers of dags/ are found as Airflow finds them: by name in the DAG folder, which is on the path.
"""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from lavabeam.demo.web import Page, Server, new_port
from schemas import Dataset
from tests.pipelines.dedupe.test_step import encoded, landscape

ROOT = Path(__file__).parent.parent.parent
AIRFLOW = ROOT / ".venv-airflow"
sys.path.append(str(ROOT / "dags"))

import _lavabeam as words  # noqa: E402 - found since the line above
from _lavabeam_settings import PARAMS  # noqa: E402

DATES = ("2026-11-02", "2026-11-03", "2026-11-04")
SLOW = "/2026-11-03/slow.png"
"""Arrives in pieces, so that its download can be killed."""
SEEN = ("url", "download_status", "sha256", "dedupe_status", "cluster", "cluster_size", "duplicate_of")
DOWNLOAD = {"allow_private_hosts": ["127.0.0.1"], "retries": 0}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need Airflow run where they are asked for: `make test-dags`."""
    if not (AIRFLOW / "bin/airflow").exists():
        reason = "Airflow is not installed: make test-dags"
    elif not any("dags" in one for one in config.args):
        reason = "make test-dags runs these"
    else:
        return
    for item in items:
        if "tests/dags/airflow" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=reason))


def pages(slow_s=0.0):
    """Path -> page. The first picture comes back on each later date; others come back larger, and as JPEG."""
    one, two, three, four = (landscape(seed, 128) for seed in range(4))
    found = {
        "/2026-11-02/first.png": one,
        "/2026-11-02/small.png": two,
        "/2026-11-03/again.png": one,
        "/2026-11-03/large.png": landscape(1, 256),
        SLOW: three,
        "/2026-11-04/again.png": one,
        "/2026-11-04/new.png": four,
    }
    served = {path: Page(encoded(picture), seconds=slow_s * (path == SLOW)) for path, picture in found.items()}
    return {**served, "/2026-11-04/slow.jpg": Page(encoded(three, "JPEG", quality=80))}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with Server(pages(), new_port(folder / "port")) as server:
        yield server


@pytest.fixture(scope="session")
def lists(site, tmp_path_factory):
    """A URL list for each date, without keys; the first date's names a picture that is gone."""
    folder = tmp_path_factory.mktemp("lists")
    for date in DATES:
        urls = [path for path in site.pages if date in path] + ([f"/{date}/gone.png"] if date == DATES[0] else [])
        lines = [f"{site.base_url}{path},a plain picture of hills number {len(path)}" for path in urls]
        (folder / f"{date}.csv").write_text("\n".join(["url,alt_text", *lines]) + "\n")
    return folder


@pytest.fixture(scope="session")
def ingest(lists):
    """Run what `lavabeam_ingest` runs, in this process, for dates in an order."""

    def run(folder: Path, dates: tuple[str, ...]) -> Path:
        chosen = {"folder": str(folder), "lists": f"{lists}/{{date}}*.csv", "workers": 1, "download_options": DOWNLOAD}
        params = {name: param.default for name, param in PARAMS.items()} | chosen
        for date in dates:
            for command in (words.import_lists, words.download, words.dedupe):
                done = CliRunner().invoke(app, command(words.Run(params, date)), catch_exceptions=False)
                assert done.exit_code == 0, done.output
        return folder

    return run


@pytest.fixture(scope="session")
def undisturbed(ingest, tmp_path_factory):
    """The folder after three dates in their order."""
    return ingest(tmp_path_factory.mktemp("undisturbed"), DATES)


def seen(photos) -> dict[str, tuple]:
    """Key -> what a row says of itself, in no order."""
    dataset = Dataset.open(photos)
    rows = dataset.take(range(dataset.rows), ["key", *SEEN])
    return {row["key"]: tuple(row[name] for name in SEEN) for row in rows}
