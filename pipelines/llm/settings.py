"""Endpoint settings, shared by every step that calls an LLM."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipelines.engine.retry import RetryPolicy
from pipelines.engine.step import Config, Runtime
from pipelines.llm.address import check_base_url
from pipelines.llm.ledger import Caps
from pipelines.llm.masking import looks_like_key
from pipelines.llm.postgres import check_database, is_database
from pipelines.llm.prices import Price, find_price
from schemas.errors import InputError

DEFAULT_CACHE = "~/.cache/lavabeam/llm"
# Fields of a request that `extra` must leave to us, because caps and readers count on them, and what sets them.
_OURS = dict.fromkeys(("messages", "n", "best_of", "stream", "response_format", "tools"), "Leave it out")
_OURS |= dict.fromkeys(("max_tokens", "max_completion_tokens"), "Set max_output_tokens instead")
_OURS |= {name: f"Set {name} instead of extra" for name in ("model", "temperature")}
# The most tokens of one image ("Images and vision", OpenAI's guide): 8 tiles of 5,667 and 2,833 at gpt-4o-mini; 1,536
# patches, times 1.62 for mini and 2.46 for nano, at later small models. Large ones stay below 2,000.
_IMAGE_TOKENS = {"gpt-4o-mini": 48_169, "-nano": 3_800, "-mini": 2_700}
_OTHER_IMAGE_TOKENS = 2_000
PATIENCE = RetryPolicy(attempts=8, base_s=0.5, cap_s=30.0, jitter=0.5)
"""About 45 s of patience with a server that is away, and far more with one that names its own waiting time."""


class EndpointConfig(Config):
    """An OpenAI-compatible endpoint, how to ask it, and what it may cost.

    Everything marked Runtime may change without changing an answer's identity: the address is not part of it, the
    `provider` is. So give servers that answer differently different providers or models.
    """

    model: str = Field(min_length=1)
    """The model, as the server names it."""
    provider: str = "openai"
    """The provider's name; part of the cache key."""
    base_url: Annotated[str | None, Runtime()] = None
    """None is the provider's default URL in the openai client."""
    api_key_env: Annotated[str, Runtime()] = "OPENAI_API_KEY"
    """The environment variable with the API key. May be unset for your own server."""

    temperature: float | None = Field(default=0.7, ge=0, le=2)
    """null omits it from the request: reasoning models reject any value."""
    max_output_tokens: int = Field(default=1024, ge=1)
    """Maximum tokens of one answer."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Additional request fields, as the server names them (top_p, reasoning_effort, ...)."""
    structured: Literal["auto", "json_schema", "json_object", "prompt"] = "auto"
    """How structured answers are requested: auto is json_schema, or a prompt instruction if the server refuses that."""
    output_limit_field: Annotated[Literal["max_tokens", "max_completion_tokens"] | None, Runtime()] = None
    """What the server calls the output limit; by default max_completion_tokens for openai, else max_tokens."""

    concurrency: Annotated[int, Runtime()] = Field(default=64, ge=1)
    """Maximum requests in flight, over all workers."""
    requests_per_minute: Annotated[float | None, Runtime()] = Field(default=None, gt=0)
    """Maximum requests per minute, over all workers."""
    tokens_per_minute: Annotated[float | None, Runtime()] = Field(default=None, gt=0)
    """Maximum tokens per minute, over all workers."""
    timeout_s: Annotated[float, Runtime()] = Field(default=120.0, gt=0)
    """Seconds for a whole request, until the last byte of the reply."""
    max_reply_bytes: Annotated[int, Runtime()] = Field(default=4 * 2**20, ge=1)
    """A longer reply, compressed or decompressed, is `malformed`. 4 MiB is far more than any answer."""
    patience: Annotated[RetryPolicy, Runtime()] = PATIENCE
    """Retry policy for failed requests."""

    max_cost: Annotated[float | None, Runtime()] = Field(default=None, ge=0)
    """Maximum USD for this dataset over all runs: a hard limit. So are the next two."""
    max_tokens: Annotated[int | None, Runtime()] = Field(default=None, ge=0)
    """Maximum tokens, input and output."""
    max_requests: Annotated[int | None, Runtime()] = Field(default=None, ge=0)
    """Maximum requests, including failed ones that may be billed."""
    price: Annotated[Price | None, Runtime()] = None
    """USD per million tokens, `{input: 0.15, output: 0.6, cached_input: 0.075}` (cached_input is optional; 0 for your
    own model); by default from genai-prices."""
    tokens_per_image: Annotated[int | None, Runtime()] = Field(default=None, ge=0)
    """Input tokens reserved for each image: the most that the model counts for one. By default what OpenAI documents
    for its small models (48,169 for gpt-4o-mini), and 2,000 for others."""

    cache: Annotated[str, Runtime()] = DEFAULT_CACHE
    """Location of cached responses and spend: a folder on a local disk, or postgresql://HOST/DATABASE, which several
    machines share (docs/generate.md)."""
    mode: Annotated[Literal["online", "batch"], Runtime()] = "online"
    """batch: OpenAI's Batch API, half the price, within a day."""
    batch_poll_s: Annotated[float, Runtime()] = Field(default=30.0, gt=0)
    """Polling interval for a batch, in seconds."""

    @model_validator(mode="after")
    def _names_its_server(self) -> EndpointConfig:
        if self.base_url is not None and "provider" not in self.model_fields_set:
            raise ValueError(
                "base_url is given without provider: name the server (provider: my-vllm), "
                "because answers are cached under provider and model, not under the address"
            )
        return self

    @field_validator("base_url")
    @classmethod
    def _has_no_secret(cls, value: str | None) -> str | None:
        return None if value is None else check_base_url(value)

    @field_validator("cache")
    @classmethod
    def _holds_no_password(cls, value: str) -> str:
        return check_database(value) if is_database(value) else value

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, value: str) -> str:
        """Raises InputError, which unlike pydantic's own does not repeat a key that was given here by mistake."""
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) or looks_like_key(value):
            raise InputError(
                "api_key_env is not the name of an environment variable. Give the name of the variable that holds the "
                "key, such as OPENAI_API_KEY; manifests store it, so it must not be the key itself."
            )
        return value

    @field_validator("extra")
    @classmethod
    def _leaves_ours(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in _OURS:
                raise ValueError(f"{name!r} is set by LavaBeam, because caps and parsers depend on it. {_OURS[name]}")
        return value

    @model_validator(mode="after")
    def _freezes_price(self) -> EndpointConfig:
        """The listed price becomes part of the configuration, so the manifest keeps what was counted with."""
        if self.price is None:
            object.__setattr__(self, "price", find_price(self.provider, self.model))
        return self

    @property
    def one_machine(self) -> str:
        """Why its requests must come from one machine (`Needs.one_machine`); empty where machines share the cache."""
        if is_database(self.cache):
            return ""
        return (
            f"The answer cache and the spend ledger are a file on one machine's disk (cache: {self.cache}): each "
            "machine would pay again for responses that another has, and spend up to the cap on its own. Run this "
            "step with --runner local, which reads and writes the same dataset: it is bound by the server, not by "
            "cores. Or use a shared cache (--cache postgresql://HOST/DATABASE)."
        )

    @property
    def caps(self) -> Caps:
        return Caps(self.max_requests, self.max_tokens, self.max_cost)

    @property
    def image_tokens(self) -> int:
        """`tokens_per_image`, or its default for the model."""
        if self.tokens_per_image is not None:
            return self.tokens_per_image
        return next((most for sign, most in _IMAGE_TOKENS.items() if sign in self.model), _OTHER_IMAGE_TOKENS)

    @property
    def limit_field(self) -> str:
        own = "max_completion_tokens" if self.provider == "openai" else "max_tokens"
        return self.output_limit_field or own

    def request_parameters(self) -> dict[str, Any]:
        """The sampling fields of every request."""
        own = {} if self.temperature is None else {"temperature": self.temperature}
        return {**own, **self.extra}
