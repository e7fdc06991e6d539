"""A backfill may run dates in any order: keys, statuses, clusters and representatives are the same."""

import pytest

from tests.dags.conftest import DATES, seen


def test_copies_are_found_over_dates(undisturbed):
    statuses = {key: (row[1], row[3]) for key, row in seen(undisturbed / "photos").items()}
    assert statuses == {
        "2026-11-02/000000000": ("ok", "ok"),
        "2026-11-02/000000001": ("ok", "near_copy"),
        "2026-11-02/000000002": ("not_found", "no_image"),
        "2026-11-03/000000000": ("ok", "copy"),
        "2026-11-03/000000001": ("ok", "ok"),
        "2026-11-03/000000002": ("ok", "ok"),
        "2026-11-04/000000000": ("ok", "copy"),
        "2026-11-04/000000001": ("ok", "ok"),
        "2026-11-04/000000002": ("ok", "near_copy"),
    }


@pytest.mark.parametrize("order", [(2, 1, 0), (1, 2, 0)])
def test_the_order_of_dates_changes_no_row(undisturbed, ingest, tmp_path, order):
    assert seen(ingest(tmp_path, tuple(DATES[place] for place in order)) / "photos") == seen(undisturbed / "photos")
