"""What lmms-eval wrote, literal lines of its layout: read, refused, and turned into figures."""

import json

import pytest

from lavabeam.evaluation.lmms.samples import check_samples, read_bare, read_samples, task_figures
from schemas.errors import InputError

FAILED = "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Connection error."


def line(number, said, **metrics):
    return {
        "doc_id": number,
        "target": "red",
        "filtered_resps": said,
        "doc_hash": "x",
        "token_counts": [None],
        **metrics,
    }


@pytest.fixture
def written(tmp_path):
    def write(rows, task="mine", **results):
        folder = tmp_path / "runs" / "model"
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"20261128_samples_{task}.jsonl").write_text(text)
        known = folder / "20261128_results.json"
        earlier = json.loads(known.read_text())["results"] if known.is_file() else {}
        known.write_text(json.dumps({"results": {**earlier, task: {"alias": task, **results}}}))
        return tmp_path / "runs"

    return write


def test_good_samples_pass_in_the_order_of_their_rows(written):
    samples = read_samples(written([line(1, "blue"), line(0, ["red", "Red."])]))
    check_samples(samples, {"mine": 0}, False)
    assert [(one.number, one.texts) for one in samples["mine"]] == [(0, ("red", "Red.")), (1, ("blue",))]


def test_failures_empty_answers_and_rows_without_a_picture_are_counted(written):
    rows = [line(0, "red"), line(1, FAILED), line(2, FAILED), line(3, " "), line(4, "")]
    samples = read_samples(written(rows))
    with pytest.raises(InputError) as found:
        check_samples(samples, {"mine": 3}, False)
    for said in ("2 failed requests", "3 rows without a picture", "2 empty answers", "among 5 rows", "row 1 of mine"):
        assert said in str(found.value)
    with pytest.raises(InputError, match="2 failed requests among 5 rows"):
        check_samples(samples, {}, True)
    check_samples(read_samples(written([line(0, "")])), {}, True)
    with pytest.raises(InputError, match="1 rows without a picture among 1 rows"):
        check_samples(read_samples(written([line(0, "red")])), {"mine": 1}, False)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([line(0, "red"), line(0, "red")], "row 0 of task mine is there twice"),
        ([{"doc_id": 0}], "row 1: expected a sample of lmms-eval"),
        ([{"question_id": 0, "text": "red"}], "expected a sample of lmms-eval"),
    ],
)
def test_what_are_no_samples_is_refused(written, rows, said):
    with pytest.raises(InputError, match=said):
        read_samples(written(rows))


def test_no_samples_and_no_notes_are_refused(tmp_path):
    with pytest.raises(InputError, match="wrote no samples"):
        read_samples(tmp_path)
    with pytest.raises(InputError, match="before its rows' pictures were noted"):
        read_bare(tmp_path / "pictures.tsv")
    (tmp_path / "pictures.tsv").write_text("pope\t0\t9\nscienceqa\t12\t20\n")
    assert read_bare(tmp_path / "pictures.tsv") == {"pope": 0, "scienceqa": 12}


def test_figures_are_means_of_rows_with_intervals_beside_its_own(written):
    rows = [line(number, "yes", exact_match=float(number < 3), submission={"image": "a"}) for number in range(4)]
    written(rows, **{"exact_match,none": 0.75, "exact_match_stderr,none": 0.2})
    scored = [
        {"pope_f1": {"question_id": n, "score": float(n % 2), "category": "random" if n < 2 else "popular"}}
        for n in range(4)
    ]
    runs = written([line(number, "no", **one) for number, one in enumerate(scored)], "pope", **{"pope_f1,none": 0.6})
    found = task_figures(read_samples(runs), runs)
    exact = found["mine"]["metrics"]["exact_match"]
    assert (exact["value"], exact["rows"], list(found["mine"]["metrics"])) == (0.75, 4, ["exact_match"])
    assert 0.0 <= exact["low"] < 0.75 < exact["high"] <= 1.0
    assert found["mine"]["lmms_eval"] == {"exact_match,none": 0.75, "exact_match_stderr,none": 0.2}
    assert {
        name: part["pope_f1"]["value"] for name, part in found["pope"]["metrics"]["pope_f1"]["categories"].items()
    } == {
        "random": 0.5,
        "popular": 0.5,
    }
    assert found["pope"]["lmms_eval"] == {"pope_f1,none": 0.6}


def test_a_metric_of_some_rows_is_a_mean_of_those(written):
    runs = written([line(0, "a", perception=1), line(1, "b", cognition=0), line(2, "c", perception=0)])
    metrics = task_figures(read_samples(runs), runs)["mine"]["metrics"]
    assert {name: (one["value"], one["rows"]) for name, one in metrics.items()} == {
        "perception": (0.5, 2),
        "cognition": (0.0, 1),
    }
