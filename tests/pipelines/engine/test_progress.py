"""What a run says while it works."""

from pipelines.engine.counting import Done
from pipelines.engine.progress import Progress
from schemas.store import Store


def line(tmp_path, title, rows, done, seconds):
    return Progress(title, rows, Store(tmp_path), "run", live=True).line(done, seconds)


def test_a_line_has_the_total_the_rate_the_time_left_and_the_statuses(tmp_path):
    done = Done(40, {"ok": 30, "timeout": 10})
    assert line(tmp_path, "mix", 100, done, 4.0) == "mix: 40/100 rows, 10/s, 6 s left, 30 ok, 10 timeout"


def test_nothing_is_left_before_the_first_row_and_after_the_last(tmp_path):
    assert line(tmp_path, "mix", 100, Done(), 4.0) == "mix: 0/100 rows, 0/s"
    assert line(tmp_path, "mix", 100, Done(100), 4.0) == "mix: 100/100 rows, 25/s"


def test_answers_are_counted_before_their_rows_are_finished(tmp_path):
    assert line(tmp_path, "generate", 100, Done(answers=6), 4.0) == "generate: 0/100 rows, 0/s, 6 answers, 1.5/s"


def test_only_the_most_frequent_statuses_are_named(tmp_path):
    statuses = {name: count for count, name in enumerate("abcdef", 1)}
    assert line(tmp_path, "s", 21, Done(21, statuses), 1.0) == "s: 21/21 rows, 21/s, 6 f, 5 e, 4 d, 3 c"
