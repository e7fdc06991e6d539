"""Asking an LLM for many rows: `generate` beside a bare asyncio client, on a local server with 200 ms latency.

    python bench/generate.py [--rows 1500] [--kills 10]

Both sides ask the same questions with 64 requests in flight, once of a calm server and once of one that answers a
tenth with 429. The bare client is openai's AsyncOpenAI with its own retries behind a semaphore. The ideal is 64
requests per 0.2 s = 320 requests/s. Then: a second run of `generate` (sends nothing), and `kill -9` at random moments
(only requests in flight at a kill are sent again). Prints one JSON list of figures, last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

WORK = Path(__file__).parent / "output" / "generate"
LATENCY_S, CONCURRENCY = 0.2, 64
IDEAL = CONCURRENCY / LATENCY_S
BUSY_SHARE = 0.1
KINDS = ["describe"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--side", choices=["bare", "generate"])
    parser.add_argument("--server")
    parser.add_argument("--cache")
    asked = parser.parse_args()
    if asked.side:
        measured = (
            bare(asked.server, asked.rows) if asked.side == "bare" else ours(asked.server, asked.rows, asked.cache)
        )
        print(json.dumps(measured))
        return
    shutil.rmtree(WORK, ignore_errors=True)
    figures = []
    for busy, goal in ((0.0, 0.8), (BUSY_SHARE, 0.5)):
        figures += compare(asked.rows, busy, goal)
    figures.append(kill_test(min(asked.rows, 600), asked.kills))
    shutil.rmtree(WORK)
    print(json.dumps(figures))


def compare(rows: int, busy: float, goal: float) -> list[dict]:
    """Requests per second and CPU of both sides on one server; on the calm one also a second run."""
    title = f"with {busy:.0%} 429s" if busy else "calm server"
    cache = str(WORK / f"cache-{busy}")
    with server(busy) as (url, _):
        theirs, mine = run("bare", url, rows, cache), run("generate", url, rows, cache)
        again = run("generate", url, rows, cache)
    for name, side in (("bare", theirs), ("generate", mine), ("again", again)):
        share = f"{side['per_s'] / IDEAL:.0%} of the ideal" if side["sent"] else "from the cache"
        speed = f"{side['per_s']:7.1f} rows/s ({share}), {side['cpu_ms']:.2f} ms CPU/row"
        print(f"{title:14} {name:9} {speed}, {side['sent']} sent")
    figures = [
        figure(f"generate, {title}: requests/s", mine["per_s"], theirs["per_s"], goal),
        figure(f"generate, {title}: CPU ms per request", mine["cpu_ms"], theirs["cpu_ms"], 1.0, at_most=True),
    ]
    if not busy:
        figures.append(figure("generate, second run: requests sent", again["sent"], mine["sent"], 0, at_most=True))
    return figures


def kill_test(rows: int, kills: int) -> dict:
    """`kill -9` at random moments: requests sent twice, against what was in flight at the kills."""
    cache, log, moments = WORK / "cache-kills", WORK / "kills.jsonl", random.Random(3)
    with server(0.0, log) as (url, _):
        for _ in range(kills):
            worker = subprocess.Popen(side_command("generate", url, rows, str(cache)), stdout=subprocess.DEVNULL)
            wanted = answered(log) + rows // (kills + 2)
            while answered(log) < wanted and worker.poll() is None:
                time.sleep(0.005)
            time.sleep(moments.random() * LATENCY_S)
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait()
        run("generate", url, rows, str(cache))
    from pipelines.llm import cache as answers

    lost = sum(budget["lost_requests"] for budget in answers.summary(cache)["budgets"].values())
    repeated = answered(log) - rows
    print(f"{kills} kills: {repeated} requests answered twice, {lost} in flight at a kill")
    return figure(
        f"generate, {kills} kills: requests repeated beyond those in flight", max(0, repeated - lost), lost, 0, True
    )


def bare(url: str, rows: int) -> dict:
    """What a script of twenty lines does."""
    from openai import AsyncOpenAI

    from pipelines.llm.request import ChatRequest

    requests: list[ChatRequest] = questions(url, rows)
    bodies = [request.body() for request in requests]

    async def ask() -> dict:
        client = AsyncOpenAI(base_url=url, api_key="none", max_retries=20)
        places = asyncio.Semaphore(CONCURRENCY)

        async def one(body: dict) -> str:
            async with places:
                answer = await client.chat.completions.create(**body)
                return answer.choices[0].message.content or ""

        await one(bodies[0])
        return measured(rows, await timed(asyncio.gather(*map(one, bodies))), rows)

    return asyncio.run(ask())


def ours(url: str, rows: int, cache: str) -> dict:
    """The `generate` step over one fragment."""
    from pipelines.engine.step import Context
    from pipelines.generate import Generate

    step = Generate(config(url, cache))
    step.setup(Context("bench", str(WORK / "talks")))
    batches = fragment(rows)
    started, cpu = time.perf_counter(), time.process_time()
    made = [status for batch in step.process_fragment(batches) for status in batch.column("status").to_pylist()]
    took = (time.perf_counter() - started, time.process_time() - cpu)
    sent = step._lease.client.counts["sent"]
    step.teardown()
    assert made == ["ok"] * rows, set(made)
    return measured(rows, took, sent)


def config(url: str, cache: str):
    from pipelines.generate import GenerateConfig

    values = {"model": "scripted-teacher", "provider": "bench", "base_url": url, "cache": cache}
    return GenerateConfig(**values, kinds=KINDS, concurrency=CONCURRENCY)


def fragment(rows: int) -> Iterator:
    import pyarrow as pa

    from schemas.records import IMAGES

    made = [{"key": f"row-{number}", "captions": [f"Picture {number} shows a red house."]} for number in range(rows)]
    return iter(pa.Table.from_pylist(made, IMAGES).to_batches(max_chunksize=64))


def questions(url: str, rows: int) -> list:
    from pipelines.generate.questions import build_request
    from pipelines.llm.context import known_from

    settings = config(url, "")
    ((_, prompt),) = settings.prompts()
    known = [known_from(row, ("captions",)) for batch in fragment(rows) for row in batch.to_pylist()]
    return [build_request(settings, prompt, one, None) for one in known]


async def timed(work) -> tuple[float, float]:
    started, cpu = time.perf_counter(), time.process_time()
    await work
    return time.perf_counter() - started, time.process_time() - cpu


def measured(rows: int, took: tuple[float, float], sent: int) -> dict:
    return {"per_s": rows / took[0], "cpu_ms": took[1] / rows * 1000, "sent": sent}


@contextmanager
def server(busy: float, log: Path | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """The scripted teacher in a process of its own."""
    WORK.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "lavabeam.demo.teacher", "--latency", str(LATENCY_S), "--busy", str(busy)]
    command += ["--log", str(log)] if log else []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def run(side: str, url: str, rows: int, cache: str) -> dict:
    done = subprocess.run(side_command(side, url, rows, cache), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def side_command(side: str, url: str, rows: int, cache: str) -> list[str]:
    return [sys.executable, __file__, "--side", side, "--server", url, "--rows", str(rows), "--cache", cache]


def answered(log: Path) -> int:
    return log.read_bytes().count(b"\n") if log.exists() else 0


def figure(name: str, value: float, peer: float, goal: float, at_most: bool = False) -> dict:
    """One figure; `goal` is for the ratio to the peer, or for the value when it is 0."""
    ratio = round(value / peer, 3) if peer else None
    reached = value <= goal if not goal else ratio is not None and (ratio <= goal if at_most else ratio >= goal)
    return {
        "figure": name,
        "value": round(value, 2),
        "peer": round(peer, 2),
        "ratio": ratio,
        "goal": goal,
        "ok": bool(reached),
    }


if __name__ == "__main__":
    main()
