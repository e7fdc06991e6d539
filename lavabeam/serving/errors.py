"""Request errors in OpenAI's format: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

from typing import Any

from schemas.errors import LavaBeamError

TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}

MOST_PARAM = 200
"""Characters of `param`: a client chooses it when it sends an unknown field."""


class RequestError(LavaBeamError):
    """Why a request has no answer. `status`: of HTTP. `retry_after`: seconds after which it may work."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ):
        message, param = _printable(message), None if param is None else _printable(param)[:MOST_PARAM]
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.status, self.message, self.code, self.param, self.retry_after)

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(max(1, round(self.retry_after)))}


def _printable(text: str) -> str:
    """`text` as UTF-8 can have it: half of a surrogate pair, which JSON may bring, is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _again(status: int, message: str, code: str | None, param: str | None, retry_after: float | None) -> RequestError:
    return RequestError(status, message, code=code, param=param, retry_after=retry_after)
