"""Prompts wait for others as long as that may pay, and a client alone does not."""

from lavabeam.serving.gathering import MOST_S, Gathering


def test_as_many_are_expected_as_were_there_and_fewer_each_time_that_they_do_not_come():
    gathering = Gathering()
    gathering.begin(1)
    assert not gathering.expects_more(1)
    gathering.begin(8)
    assert not gathering.expects_more(8)
    waits = 0
    gathering.begin(1)
    while gathering.expects_more(1):
        waits += 1
        gathering.begin(1)
    assert 20 < waits < 60


def test_the_wait_is_what_prompts_take_and_bounded():
    gathering = Gathering()
    assert gathering.seconds == 0
    gathering.took(0.008)
    assert gathering.seconds == 0.012
    gathering.took(3)
    assert gathering.seconds == MOST_S
