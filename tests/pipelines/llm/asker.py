"""A worker process for tests: asks numbered questions through the request layer, then exits.

python -m tests.pipelines.llm.asker BASE_URL CACHE --first 0 --count 30
"""

import argparse
import asyncio

from pipelines.llm import postgres
from pipelines.llm.client import LlmClient
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig


async def ask(base_url, cache, first, count, **limits):
    config = EndpointConfig(model="m", provider="test", base_url=base_url, cache=cache, concurrency=8, **limits)
    client = LlmClient(config, "b")
    questions = [f"question {number}" for number in range(first, first + count)]
    requests = [ChatRequest("test", "m", (Message("user", text),), max_output_tokens=40) for text in questions]
    answers = await asyncio.gather(*map(client.ask, requests))
    await client.close()
    return answers


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("cache")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--max-requests", type=int)
    parser.add_argument("--grace", type=float, default=postgres.GRACE_S)
    asked = parser.parse_args()
    postgres.GRACE_S = asked.grace
    asyncio.run(ask(asked.base_url, asked.cache, asked.first, asked.count, max_requests=asked.max_requests))
