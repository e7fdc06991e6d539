"""The checks on answers of a real small model, which were labelled by hand before the checks were run on them."""

import json
from pathlib import Path

from bench.curating.answers import CAUGHT, status_of

ROWS = [json.loads(line) for line in (Path(__file__).parent / "labelled.jsonl").read_text().splitlines()]
STATUSES = {row["key"]: status_of(row) for row in ROWS}


def test_nothing_usable_is_rejected():
    assert [row["key"] for row in ROWS if row["label"] == "g" and STATUSES[row["key"]] != "ok"] == []


def test_most_of_what_repeats_itself_or_says_too_little_is_found():
    for label, least in (("r", 0.9), ("l", 0.9)):
        of = [STATUSES[row["key"]] for row in ROWS if label in row["label"]]
        assert sum(status in CAUGHT[label] for status in of) >= least * len(of) > 3


def test_less_than_a_fifth_of_what_is_bad_passes():
    bad = [row["key"] for row in ROWS if row["label"] != "g"]
    assert sum(STATUSES[key] == "ok" for key in bad) < 0.2 * len(bad)
