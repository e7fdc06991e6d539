"""Prompts wait for others as long as that may pay, and a client alone does not."""

from lavabeam.serving.gathering import MOST_S, Gathering


def waits(gathering, rows):
    """How often a wait with `rows` is not met until no more are expected."""
    count = 0
    gathering.begin(rows)
    while gathering.expects_more(rows):
        count += 1
        gathering.end(rows)
        gathering.begin(rows)
    return count


def test_as_many_are_expected_as_were_there_and_fewer_each_time_that_they_do_not_come():
    gathering = Gathering()
    assert waits(gathering, 1) == 0
    assert waits(gathering, 8) == 0
    assert 3 <= waits(gathering, 6) <= 6


def test_a_client_that_is_alone_after_many_is_soon_not_waited_for():
    gathering = Gathering()
    gathering.begin(32)
    assert waits(gathering, 1) <= 12


def test_the_wait_is_what_prompts_take_and_bounded():
    gathering = Gathering()
    assert gathering.seconds == 0
    gathering.took(0.008)
    assert gathering.seconds == 0.012
    gathering.took(3)
    assert gathering.seconds == MOST_S
