"""HTTP routes: OpenAI's chat completions on top of the registry, health, metrics, and the admin API."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.datastructures import Headers
from fastapi.responses import JSONResponse, Response

from lavabeam.serving.chat import Chat, ClientGone, request_error
from lavabeam.serving.errors import RequestError
from lavabeam.serving.limits import Body
from lavabeam.serving.registry import Registry
from lavabeam.serving.settings import ModelSpec, ServeSettings
from schemas.config import parse
from schemas.errors import InputError, LavaBeamError


def create_app(settings: ServeSettings, registry: Registry, token: str) -> FastAPI:
    """The application. token: of the administration. No CORS header is ever sent, no schema is served."""
    app = FastAPI(title="LavaBeam", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Body, settings=settings, authorise=_authorising(settings, token))
    app.add_exception_handler(LavaBeamError, _failed)
    app.add_exception_handler(404, _no_route)
    app.add_exception_handler(405, _no_route)
    app.add_exception_handler(Exception, _defect)
    app.add_exception_handler(ClientGone, lambda request, error: Response(status_code=499))
    chat = Chat(settings, registry)

    async def models(request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [model.listed() for model in registry.models()]})

    async def model(request: Request) -> Response:
        return JSONResponse(registry.get(request.path_params["name"]).listed())

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "models": {one.spec.name: one.host.state for one in registry.models()}})

    async def metrics(request: Request) -> Response:
        return Response(chat.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_route("/v1/chat/completions", chat.complete, methods=["POST"])
    app.add_route("/v1/models", models, methods=["GET"])
    app.add_route("/v1/models/{name}", model, methods=["GET"])
    app.add_route("/metrics", metrics, methods=["GET"])
    app.add_route("/health", health, methods=["GET"])
    for path, method, handler in _administration(registry):
        app.add_route(path, handler, methods=[method])
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


def _authorising(settings: ServeSettings, token: str) -> Callable[[Any], None]:
    """Raises RequestError, 401, unless a request has one of the keys, or for /admin the token; /health is for all."""
    keys, admin = [key.encode() for key in settings.api_keys], [token.encode()]

    def authorise(scope: Any) -> None:
        path = scope["path"]
        allowed = admin if path.startswith("/admin") else [] if path == "/health" else keys
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        found = [hmac.compare_digest(given.strip().encode(), key) for key in allowed]
        if allowed and (scheme.lower() != "bearer" or not any(found)):
            raise RequestError(401, "a key is needed: Authorization: Bearer KEY.", code="invalid_api_key")

    return authorise


async def _failed(request: Request, error: Exception) -> Response:
    found = request_error(error)
    return JSONResponse(found.body, found.status, headers=found.headers)


async def _no_route(request: Request, error: Any) -> Response:
    words = f"{request.method} {request.url.path[:100]}: {error.detail}."
    return JSONResponse(RequestError(error.status_code, words, code="not_found").body, error.status_code)


async def _defect(request: Request, error: Exception) -> Response:
    found = RequestError(500, f"this is a bug in lavabeam: {type(error).__name__}.", code="defect")
    return JSONResponse(found.body, found.status)
