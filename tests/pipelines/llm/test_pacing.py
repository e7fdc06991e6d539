import asyncio

import pytest

from pipelines.llm.pacing import TokenBucket, Window


def rounds(window, overloaded_of_ten, count):
    """Let `count` answers arrive, `overloaded_of_ten` of each ten overloaded."""
    for number in range(count):
        window.open += 1
        window.leave(number % 10 < overloaded_of_ten)


def test_a_storm_closes_the_window_to_one():
    window = Window(64)
    rounds(window, 10, 200)
    assert int(window.size) == 1


def test_it_opens_again_when_answers_come_through():
    window = Window(64)
    rounds(window, 10, 200)
    rounds(window, 0, 700)
    assert window.size == 64


def test_a_tenth_of_429_costs_a_small_part_of_the_window():
    window = Window(64)
    rounds(window, 1, 5000)
    assert 48 <= window.size <= 64


def test_half_of_429_costs_most_of_it():
    window = Window(64)
    rounds(window, 5, 5000)
    assert 4 <= window.size <= 16


def test_what_was_not_sent_is_no_sign():
    window = Window(8)
    for _ in range(100):
        window.open += 1
        window.leave(None)
    assert (window.size, window.open) == (8, 0)


def test_waiters_enter_in_turn_and_a_cancelled_one_holds_no_place():
    async def run():
        window, entered = Window(1), []

        async def work(name):
            await window.enter()
            entered.append(name)

        await window.enter()
        waiting = [asyncio.ensure_future(work(name)) for name in "abc"]
        await asyncio.sleep(0)
        waiting[0].cancel()
        for _ in range(2):
            window.leave(False)
            await asyncio.sleep(0)
        assert entered == ["b", "c"]
        assert window.open == 1

    asyncio.run(run())


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """A clock that sleeping moves."""
    clock = Clock()

    async def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr("pipelines.llm.pacing.asyncio.sleep", sleep)
    return clock


def test_a_bucket_gives_its_rate_after_a_burst(clock):
    bucket = TokenBucket(60, clock)

    async def take(units):
        await bucket.take(units)
        return round(clock.now, 6)

    # One a second, five at once in the beginning.
    assert [asyncio.run(take(1)) for _ in range(7)] == [0, 0, 0, 0, 0, 1, 2]


def test_units_given_back_can_be_taken_again(clock):
    bucket = TokenBucket(60, clock)
    asyncio.run(bucket.take(5))
    bucket.give_back(3)
    asyncio.run(bucket.take(3))
    assert clock.now == 0


def test_more_than_a_burst_is_paid_for_afterwards(clock):
    bucket = TokenBucket(60, clock)
    asyncio.run(bucket.take(20))
    assert clock.now == 0
    asyncio.run(bucket.take(1))
    assert clock.now == pytest.approx(16)


def test_no_rate_is_no_limit(clock):
    asyncio.run(TokenBucket(None, clock).take(10**9))
    assert clock.now == 0
