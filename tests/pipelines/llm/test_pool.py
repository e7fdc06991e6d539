import asyncio
import subprocess
import sys
import threading
import time

import pytest

from pipelines.llm.cache import summary
from pipelines.llm.pool import Lease
from pipelines.llm.settings import EndpointConfig


@pytest.fixture
def lease(tmp_path):
    """One request in flight: four items are started ahead of the one that is handed on."""
    address = "http://127.0.0.1:9/v1"
    config = EndpointConfig(model="m", provider="p", base_url=address, cache=str(tmp_path), concurrency=1)
    lease = Lease(config, "b", 1)
    yield lease
    lease.close()


def test_results_come_in_order_whatever_takes_longest(lease):
    async def work(number):
        await asyncio.sleep(0.02 if number % 3 == 0 else 0)
        return number

    assert list(lease.in_order(range(20), work)) == list(range(20))


def test_no_more_is_started_than_fits_the_requests_in_flight(lease):
    pulled = []

    def items():
        for number in range(30):
            pulled.append(number)
            yield number

    async def work(number):
        return number

    results = lease.in_order(items(), work)
    assert next(results) == 0
    assert len(pulled) == 4
    assert next(results) == 1
    assert len(pulled) == 5


def test_a_consumer_that_stops_cancels_what_was_started(lease):
    started, ended = [], []

    async def work(number):
        started.append(number)
        if number:
            try:
                await asyncio.sleep(10)
            finally:
                ended.append(number)

    results = lease.in_order(range(6), work)
    next(results)
    deadline = time.monotonic() + 60
    while len(started) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    results.close()
    while len(ended) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(ended) == [1, 2, 3]


def test_threads_share_one_loop_and_one_client(lease, tmp_path):
    other = Lease(lease.client.settings, "b", 1)
    assert other.client is lease.client
    loops = []

    async def work(_):
        return asyncio.get_running_loop()

    threads = [threading.Thread(target=lambda: loops.extend(lease.in_order([1, 2], work))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loops) == 6
    assert len(set(loops)) == 1
    other.close()
    assert list(lease.in_order([1], work)) == [loops[0]]


def test_a_process_that_ends_without_giving_back_closes_its_clients(tmp_path):
    """A cluster's worker does not learn that a run is over: hits would stay uncounted, connections open."""
    code = f"""
from pipelines.llm.pool import Lease
from pipelines.llm.settings import EndpointConfig
config = EndpointConfig(model="m", provider="p", base_url="http://127.0.0.1:9/v1", cache={str(tmp_path)!r})
lease = Lease(config, "b", 1)
lease.client.cache._hits["k"] += 1
lease.client.store.connection.execute(
    "INSERT INTO answers VALUES ('k', 'p', 'm', 'q/1', '{{}}', 1, 1, 0.5, 0.0, 0)")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Unclosed" not in ended.stderr
    assert summary(tmp_path)["hits"] == 1
    assert not list(tmp_path.glob("worker-*.lock"))


def test_a_lease_that_ends_in_the_loops_own_thread_holds_nobody_up(tmp_path):
    """A generator that nobody finishes may be collected there: it must not wait for the loop that it stops."""
    address = "http://127.0.0.1:9/v1"
    config = EndpointConfig(model="m", provider="p", base_url=address, cache=str(tmp_path), concurrency=1)
    lease = Lease(config, "b", 1)

    async def close():
        lease.close()
        return threading.current_thread().name

    assert list(lease.in_order([1], lambda _: close())) == ["llm"]
    Lease(config, "b", 1).close()
