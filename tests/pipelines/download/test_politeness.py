"""Limits per host and in total, delays, and the memory bound, on a loop of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from pipelines.download.hosts import HostLimits
from pipelines.download.memory import Line, Memory, MemoryFull


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time jumps to the next timer, so that waiting takes no time and starts can be compared exactly."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


def starts(hosts: list[str], limits: dict, seconds: float = 1.0, before=None) -> list[tuple[float, float]]:
    """When each download started and how many were under way then."""
    loop, under_way, log = Clock(), [0], {}

    async def one(number: int, host: str, gate: HostLimits) -> None:
        async with gate.slot(host):
            under_way[0] += 1
            log[number] = (round(loop.time(), 6), under_way[0])
            await asyncio.sleep(seconds)
            under_way[0] -= 1

    async def all_of_them() -> None:
        gate = HostLimits(**limits)
        if before:
            before(gate)
        await asyncio.gather(*(one(number, host, gate) for number, host in enumerate(hosts)))

    loop.run_until_complete(all_of_them())
    loop.close()
    return [log[number] for number in range(len(hosts))]


def test_the_limit_of_a_host_and_the_total():
    of_one = starts(["a"] * 6, {"total": 100, "per_host": 2, "delay": 0})
    assert [start for start, _ in of_one] == [0, 0, 1, 1, 2, 2]
    of_all = starts(list("abcdef"), {"total": 3, "per_host": 2, "delay": 0})
    assert [start for start, _ in of_all] == [0, 0, 0, 1, 1, 1]


def test_a_waiting_host_keeps_no_slot_of_the_total():
    times = starts(["a", "a", "a", "b"], {"total": 2, "per_host": 1, "delay": 0})
    assert times[3][0] == 0


def test_starts_at_a_host_are_apart():
    times = starts(["a", "a", "a", "b"], {"total": 10, "per_host": 10, "delay": 0.25})
    assert [start for start, _ in times] == [0, 0.25, 0.5, 0]


def test_limits_are_shared_among_workers():
    times = starts(["a"] * 4, {"total": 10, "per_host": 4, "delay": 0.5, "workers": 2})
    assert [start for start, _ in times] == [0, 1, 2, 3]


def test_a_paused_host_waits_and_others_do_not():
    times = starts(["a", "b"], {"total": 10, "per_host": 10, "delay": 0}, before=lambda gate: gate.pause("a", 7))
    assert [start for start, _ in times] == [7, 0]


def test_a_crawl_delay_slows_its_host_alone():
    times = starts(
        ["a", "a", "b", "b"], {"total": 10, "per_host": 10, "delay": 0}, before=lambda gate: gate.slow_down("a", 2)
    )
    assert [start for start, _ in times] == [0, 2, 0, 0]


def test_memory_gives_way_to_the_head_of_the_line():
    memory, line = Memory(100), Line()
    first, second = line.join(), line.join()
    memory.take(second, 60)
    assert not memory.may_start(line.join())
    assert memory.may_start(first)
    memory.take(first, 500)
    with pytest.raises(MemoryFull):
        memory.take(second, 1)
    memory.resize(first, 10)
    line.finish(first)
    assert second.is_head and memory.held == 70
    memory.take(second, 1000)
    memory.resize(second, 0)
    memory.resize(first, 0)
    assert memory.held == 0


def test_rows_wait_for_room_and_are_woken():
    async def scenario() -> list[str]:
        memory, line, log = Memory(100), Line(), []
        first, second, third = line.join(), line.join(), line.join()
        memory.take(first, 80)

        async def start(name, row):
            await memory.room(row)
            log.append(name)

        tasks = [asyncio.create_task(start("second", second)), asyncio.create_task(start("third", third))]
        await asyncio.sleep(0)
        log.append("full")
        line.finish(first)  # second becomes the head: it may start although the memory is full
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        log.append("written")
        memory.resize(first, 0)
        await asyncio.gather(*tasks)
        return log

    assert asyncio.run(scenario()) == ["full", "second", "written", "third"]
