"""A dataset whose list of files is in ranges of three fragments, so that small tests have several."""

import pytest

from schemas.commit import commit
from schemas.store import Store
from tests.schemas.lists import change, listed


@pytest.fixture
def small_ranges(monkeypatch):
    monkeypatch.setattr("schemas.merging.RANGE", 3)
    monkeypatch.setattr("schemas.format1.RANGE", 3)


@pytest.fixture
def store(tmp_path, small_ranges):
    store = Store(tmp_path / "d")
    commit(store, change(0, fragments=listed(8)))
    return store
