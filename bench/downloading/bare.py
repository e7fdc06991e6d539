"""aiohttp alone on a list of URLs: what any download with it costs on this machine, before a picture is looked at.

`python -m bench.downloading.bare MODE URLS_FILE THREADS`. Prints one JSON line as `ours` does.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import aiohttp

from bench.downloading.ours import cpu, reported
from pipelines.download.connect import tls_context


def main() -> None:
    urls, threads = Path(sys.argv[2]).read_text().split(), int(sys.argv[3])
    before, started = cpu(), time.perf_counter()
    sizes = asyncio.run(fetch_all(urls, threads))
    print(
        json.dumps(reported(sum(size > 0 for size in sizes), len(urls), cpu() - before, time.perf_counter() - started))
    )


async def fetch_all(urls: list[str], threads: int) -> list[int]:
    """Bytes of each answer."""
    places = asyncio.Semaphore(threads)
    context = tls_context()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=threads, ssl=context)) as session:

        async def one(url: str) -> int:
            async with places, session.get(url) as response:
                return len(await response.read())

        return list(await asyncio.gather(*map(one, urls)))


if __name__ == "__main__":
    main()
