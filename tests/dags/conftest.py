"""The helpers of dags/ are found as Airflow finds them: by name in the DAG folder, which is on the path."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
AIRFLOW = ROOT / ".venv-airflow"
sys.path.append(str(ROOT / "dags"))


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
