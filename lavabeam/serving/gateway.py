"""The routes: OpenAI's chat completions in front of a registry, health, metrics, and the administration."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from lavabeam.serving.answers import Completion, event
from lavabeam.serving.errors import RequestError
from lavabeam.serving.limits import Body
from lavabeam.serving.metrics import Metrics
from lavabeam.serving.pictures import Pictures
from lavabeam.serving.registry import Registry
from lavabeam.serving.requests import ChatRequest, parse_request
from lavabeam.serving.settings import ModelSpec, ServeSettings
from lavabeam.serving.worker import Piece, Question
from schemas.config import parse
from schemas.errors import InputError, LavaBeamError

T = TypeVar("T")
_LARGE = 1 << 20
"""Bytes of a body that is parsed on a thread: on the event loop it would hold up all others."""


class ClientGone(Exception):
    """The client closed its connection."""


def create_app(settings: ServeSettings, registry: Registry, token: str) -> FastAPI:
    """The application. token: of the administration. No CORS header is ever sent, no schema is served."""
    app = FastAPI(title="LavaBeam", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Body, settings=settings)
    app.add_exception_handler(LavaBeamError, _failed)
    app.add_exception_handler(HTTPException, _failed)
    app.add_exception_handler(Exception, _defect)
    app.add_exception_handler(ClientGone, lambda request, error: Response(status_code=499))
    chat = Chat(settings, registry)
    keys, admin = [key.encode() for key in settings.api_keys], [token.encode()]

    def guarded(handler: Callable[[Request], Awaitable[Response]], allowed: list[bytes]) -> Any:
        async def handle(request: Request) -> Response:
            _authorise(request, allowed)
            return await handler(request)

        return handle

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model.listed() for model in registry.models()]})

    async def model(request: Request) -> Response:
        return JSONResponse(registry.get(request.path_params["name"]).listed())

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "models": {one.spec.name: one.host.state for one in registry.models()}})

    async def metrics(request: Request) -> Response:
        return Response(chat.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_route("/v1/chat/completions", guarded(chat.complete, keys), methods=["POST"])
    app.add_route("/v1/models", guarded(models, keys), methods=["GET"])
    app.add_route("/v1/models/{name}", guarded(model, keys), methods=["GET"])
    app.add_route("/metrics", guarded(metrics, keys), methods=["GET"])
    app.add_route("/health", health, methods=["GET"])
    for path, method, handler in _administration(registry):
        app.add_route(path, guarded(handler, admin), methods=[method])
    return app


def _administration(registry: Registry) -> list[tuple[str, str, Callable[[Request], Awaitable[Response]]]]:
    """Only these routes name checkpoints by their paths."""

    def shown(model: Any) -> dict[str, Any]:
        return {**model.listed(), "spec": model.spec.model_dump(mode="json"), "questions": model.host.waiting}

    async def listed(request: Request) -> Response:
        return JSONResponse({"models": [shown(model) for model in registry.models()]})

    async def add(request: Request) -> Response:
        try:
            given = json.loads(await request.body())
        except ValueError as error:
            raise InputError(f"the body is not valid JSON: {error}") from error
        if not isinstance(given, dict):
            raise InputError("the body is not an object with name and checkpoint.")
        return JSONResponse(shown(await registry.add(parse(given, ModelSpec, "body"))))

    async def remove(request: Request) -> Response:
        await registry.remove(request.path_params["name"])
        return JSONResponse({"removed": request.path_params["name"]})

    return [
        ("/admin/models", "GET", listed),
        ("/admin/models", "POST", add),
        ("/admin/models/{name}", "DELETE", remove),
    ]


class Chat:
    """POST /v1/chat/completions."""

    def __init__(self, settings: ServeSettings, registry: Registry):
        self._settings, self._registry = settings, registry
        self._pictures = Pictures(settings)
        self.metrics = Metrics(registry)

    async def complete(self, request: Request) -> Response:
        began, name, status = time.perf_counter(), "unknown", 500
        last: Piece | None = None
        streaming = False
        try:
            asked = await self._parsed(request)
            name = self._registry.get(asked.model).spec.name
            async with asyncio.timeout(self._settings.answer_seconds):
                pieces = self._ask(asked)
                if asked.stream:
                    first = await _unless_gone(request, anext(pieces))
                    streaming, status = True, 200
                    return _Stream(self, request, asked, first, pieces, began)
                text, last = await _unless_gone(request, _whole(pieces))
            status = 200
            return JSONResponse(Completion(name).whole(text, last))
        except LavaBeamError as error:
            status = error.status if isinstance(error, RequestError) else 400
            raise
        except ClientGone:
            status = 499
            raise
        except TimeoutError:
            status = 504
            raise _too_late(self._settings) from None
        except StopAsyncIteration:
            status = 502
            raise _unfinished() from None
        finally:
            if not streaming:
                self.metrics.ended(name, status, time.perf_counter() - began, last)

    async def _parsed(self, request: Request) -> ChatRequest:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestError(
                415, f"content-type: found {kind[:60]!r}; expected application/json.", code="invalid_header"
            )
        body = await request.body()
        return parse_request(body) if len(body) < _LARGE else await asyncio.to_thread(parse_request, body)

    async def _ask(self, asked: ChatRequest) -> AsyncGenerator[Piece, None]:
        model = self._registry.get(asked.model)
        images = await self._pictures.collect(asked.images)
        question = Question(
            asked.messages,
            images,
            asked.max_tokens,
            asked.temperature,
            asked.top_p,
            asked.seed,
            asked.stop,
            asked.stream,
        )
        async with aclosing(model.ask(question)) as pieces:
            async for piece in pieces:
                yield piece


class _Stream(Response):
    """Pieces as server-sent events. What fails after the first piece is an event as well: the status is sent."""

    def __init__(
        self,
        chat: Chat,
        request: Request,
        asked: ChatRequest,
        first: Piece,
        rest: AsyncGenerator[Piece, None],
        began: float,
    ):
        self._chat, self._request, self._asked, self._first, self._rest = chat, request, asked, first, rest
        self._began = began
        self.status_code, self.background = 200, None
        self.raw_headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status, last = 499, None
        try:
            async with aclosing(self._rest):
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                last = await _unless_gone(self._request, self._write(send))
                status = 200 if last else 500
        except (ClientGone, OSError):
            pass
        finally:
            self._chat.metrics.ended(self._asked.model, status, time.perf_counter() - self._began, last)

    async def _write(self, send: Any) -> Piece | None:
        """The last piece; None when the answer failed."""
        made = Completion(self._asked.model)
        self._chat.metrics.began(self._asked.model, time.perf_counter() - self._began)

        async def write(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        piece, content = self._first, made.first()
        try:
            left = self._chat._settings.answer_seconds - (time.perf_counter() - self._began)
            async with asyncio.timeout(left):
                while True:
                    content += made.piece(piece.text) if piece.text else b""
                    if piece.finish is not None:
                        await write(content + made.last(piece, self._asked.usage), False)
                        return piece
                    await write(content)
                    piece, content = await anext(self._rest), b""
        except TimeoutError:
            error: LavaBeamError = _too_late(self._chat._settings)
        except StopAsyncIteration:
            error = _unfinished()
        except LavaBeamError as found:
            error = found
        await write(event(_request_error(error).body), False)
        return None


async def _whole(pieces: AsyncGenerator[Piece, None]) -> tuple[str, Piece]:
    texts, last = [], Piece("")
    async with aclosing(pieces):
        async for last in pieces:
            texts.append(last.text)
    if last.finish is None:
        raise _unfinished()
    return "".join(texts), last


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T] | Awaitable[T]) -> T:
    """The result of `work`; raises ClientGone, and cancels it, when the client goes away before."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        gone.cancel()
        if not working.done():
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _authorise(request: Request, allowed: list[bytes]) -> None:
    """Raises RequestError, 401, unless the request has one of the keys; no keys, no question."""
    if not allowed:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    found = [hmac.compare_digest(given.strip().encode(), key) for key in allowed]
    if scheme.lower() != "bearer" or not any(found):
        raise RequestError(401, "a key is needed: Authorization: Bearer KEY.", code="invalid_api_key")


def _too_late(settings: ServeSettings) -> RequestError:
    return RequestError(504, f"not answered within {settings.answer_seconds:g} s.", code="timeout")


def _unfinished() -> RequestError:
    return RequestError(502, "the worker ended its answer without saying why.", code="bad_answer")


def _request_error(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    if isinstance(error, HTTPException):
        return RequestError(error.status_code, f"{error.detail}.", code="not_found")
    return RequestError(400, str(error), code="invalid_input")


async def _failed(request: Request, error: Exception) -> Response:
    found = _request_error(error)
    return JSONResponse(found.body, found.status, headers=found.headers)


async def _defect(request: Request, error: Exception) -> Response:
    found = RequestError(500, f"this is a defect of lavabeam: {type(error).__name__}.", code="defect")
    return JSONResponse(found.body, found.status)
