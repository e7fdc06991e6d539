"""Limits per host and in total, delays, and the memory bound, on a loop of the test's own."""

from __future__ import annotations

import asyncio
import itertools
import math

import pytest

from pipelines.download.hosts import HostLimits
from pipelines.download.memory import Line, Memory, MemoryFull
from pipelines.download.statuses import DownloadStatus, Failure
from pipelines.engine.retry import RetryPolicy
from tests.pipelines.download.images import jpeg
from tests.pipelines.download.web import Request, Web, body


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


def refusal(retry_after: float | None = None) -> Failure:
    return Failure(DownloadStatus.rate_limited, "HTTP 429", retry_after)


NO_JITTER = RetryPolicy(base_s=1, cap_s=30, jitter=0)


def test_a_host_that_refuses_rests_and_others_do_not():
    limits = {"total": 10, "per_host": 10, "delay": 0, "patience": NO_JITTER}
    times = starts(["a", "b"], limits, before=lambda gate: gate.refused("a", refusal(7)))
    assert [start for start, _ in times] == [7, 0]


def test_those_who_stand_in_line_when_a_rest_begins_wait_it_out_one_after_the_other():
    def rest_later(gate):
        asyncio.get_running_loop().call_later(1.5, gate.refused, "a", refusal(10))

    limits = {"total": 10, "per_host": 10, "delay": 1, "patience": NO_JITTER}
    times = starts(["a"] * 5, limits, seconds=0.1, before=rest_later)
    assert sorted(start for start, _ in times) == [0, 1, 11.5, 12.5, 13.5]


@pytest.mark.parametrize(
    ("retry_after", "rests"), [(None, [1, 2, 4, 8, 16, 30, 30]), (5.0, [5] * 7), (3600.0, [0] * 7)]
)
def test_a_host_that_only_refuses_is_left_alone(retry_after, rests):
    loop, asked = Clock(), []

    async def scenario() -> tuple[float, float]:
        gate = HostLimits(10, 1, 0, patience=NO_JITTER)
        with pytest.raises(Failure) as caught:
            while True:
                async with gate.slot("a"):
                    asked.append(loop.time())
                    gate.refused("a", refusal(retry_after))
        closed = loop.time()
        assert caught.value.status == "rate_limited" and caught.value.retry_after == math.inf
        async with gate.slot("b"):
            pass
        await asyncio.sleep(max(600, retry_after or 0))
        async with gate.slot("a"):
            return closed, loop.time()

    closed, opened = loop.run_until_complete(scenario())
    loop.close()
    assert [after - before for before, after in itertools.pairwise(asked)] == rests
    assert closed == asked[-1] and opened == closed + max(600, retry_after or 0)


def test_an_answer_between_refusals_keeps_a_host_open():
    loop = Clock()

    async def scenario() -> None:
        gate = HostLimits(10, 1, 0, patience=NO_JITTER)
        for _ in range(30):
            async with gate.slot("a"):
                gate.refused("a", refusal())
            gate.answered("a")

    loop.run_until_complete(scenario())
    assert loop.time() == 29
    loop.close()


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


@pytest.mark.parametrize("retries", [0, 2])
def test_a_host_that_bans_us_is_not_asked_for_every_row(download, retries):
    banned = body(b"", "429 Too Many Requests", Retry_After="86400")
    with Web({"*": banned}) as web, Web({"*": body(jpeg())}) as other:
        urls = [*(web.url(f"/{number}.jpg") for number in range(300)), other.url("/a.jpg", "127.0.0.1")]
        allowed = ["localhost", "127.0.0.1"]
        rows = download(urls, retries=retries, respect_robots_txt=False, allow_private_hosts=allowed)
    assert {(row["download_status"], row["download_detail"]) for row in rows[:-1]} == {("rate_limited", "HTTP 429")}
    assert rows[-1]["download_status"] == "ok"
    assert sum(web.hits.values()) <= 16, "eight refusals, and those under way beside them"


def test_a_server_in_maintenance_rests_as_long_as_it_asks(download):
    asked = []

    async def picture(request: Request) -> None:
        asked.append(asyncio.get_running_loop().time())
        if len(asked) == 1:
            await request.send(b"", "503 Service Unavailable", Retry_After="0.4")
        else:
            await request.send(jpeg())

    with Web({"*": picture}) as web:
        urls = [web.url(f"/{number}.jpg") for number in range(3)]
        rows = download(urls, host_limit=1, respect_robots_txt=False)
    assert {row["download_status"] for row in rows} == {"ok"}
    assert asked[1] - asked[0] >= 0.4
