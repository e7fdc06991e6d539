"""A server that misbehaves on purpose, over real sockets: the scripted teacher with a script of faults."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from lavabeam.demo.teacher import Teacher, refusal

OK = "ok"


class FaultyServer(Teacher):
    """`script(question, arrival)` names what happens to the n-th arrival (from 1) of a question.

    `arrivals` counts arrivals by question, `answered` the questions that got a whole, billed answer.
    """

    def __init__(self, script: Callable[[str, int], str] = lambda question, arrival: OK, **options: Any):
        super().__init__(**options)
        self.script = script
        self.arrivals: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.open = self.most_open = 0

    @property
    def billed_tokens(self) -> int:
        return sum(entry["total_tokens"] for entry in self.requests)

    async def respond(self, request: web.Request, body: dict[str, Any], answer: dict[str, Any]) -> web.StreamResponse:
        content = body["messages"][-1]["content"]
        question = content if isinstance(content, str) else content[-1]["text"]
        self.arrivals[question] += 1
        self.bodies.append(body)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            fault = self.script(question, self.arrivals[question])
            if fault == OK:
                self.answered[question] += 1
                return await super().respond(request, body, answer)
            return await getattr(self, f"_{fault}")(request, answer)
        finally:
            self.open -= 1

    async def _busy(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(429, "rate_limit_exceeded", "too many requests", {"retry-after-ms": "10"})

    async def _broken(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(500, "server_error", "something went wrong")

    async def _policy(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(400, "content_policy_violation", "this is not allowed")

    async def _too_long(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(400, "context_length_exceeded", "this model's maximum context length is 8192 tokens")

    async def _bad(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(400, "invalid_value", "temperature must be a number")

    async def _no_schemas(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(400, "invalid_request_error", "response_format is not supported by this server")

    async def _locked_out(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(401, "invalid_api_key", "incorrect API key")

    async def _no_credit(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(429, "insufficient_quota", "you exceeded your current quota")

    async def _unknown(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(404, "model_not_found", "the model does not exist")

    async def _reset(self, request: web.Request, answer: dict) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _stall(self, request: web.Request, answer: dict) -> web.Response:
        await asyncio.sleep(1)
        return web.Response()

    async def _not_json(self, request: web.Request, answer: dict) -> web.Response:
        return web.Response(text="<html>Bad gateway, but with status 200</html>", content_type="text/html")

    async def _no_choices(self, request: web.Request, answer: dict) -> web.Response:
        return web.json_response({**answer, "choices": []})

    async def _other_shape(self, request: web.Request, answer: dict) -> web.Response:
        return web.json_response({"result": "hello"})

    async def _not_text(self, request: web.Request, answer: dict) -> web.Response:
        return web.Response(body='{"id": "caf\xe9"}'.encode("latin-1"), content_type="application/json")

    async def _latin(self, request: web.Request, answer: dict) -> web.Response:
        answer["choices"][0]["message"]["content"] = "caf\xe9"
        body = json.dumps(answer, ensure_ascii=False).encode("latin-1")
        return web.Response(body=body, headers={"content-type": "application/json; charset=latin-1"})

    async def _away_for_today(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(429, "rate_limit_exceeded", "requests per day", {"retry-after": "3600"})

    async def _wrong_setting(self, request: web.Request, answer: dict) -> web.Response:
        return refusal(400, "unsupported_value", "temperature must be 1")

    async def _dear(self, request: web.Request, answer: dict) -> web.Response:
        return web.json_response({**answer, "usage": {"prompt_tokens": 990, "completion_tokens": 10}})

    async def _half(self, request: web.Request, answer: dict) -> web.StreamResponse:
        whole = json.dumps(answer).encode()
        response = web.StreamResponse(headers={"content-length": str(len(whole))})
        await response.prepare(request)
        await response.write(whole[: len(whole) // 2])
        assert request.transport is not None
        request.transport.close()
        return response
