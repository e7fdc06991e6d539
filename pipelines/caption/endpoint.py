"""The `endpoint` engine: any OpenAI-compatible vision model writes the captions, through the shared request layer.

Answers are cached by content and capped like those of `generate`: the same picture is never paid for twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from pipelines.caption.engine import Caption, CaptionStatus, Identity, Picture
from pipelines.engine.step import Needs
from pipelines.llm.answer import Answer, AnswerStatus
from pipelines.llm.pictures import in_thread_if_redrawn, sendable
from pipelines.llm.pool import Lease
from pipelines.llm.prompts import Prompt, load_prompt
from pipelines.llm.reading.parsers import parse_text
from pipelines.llm.reading.refusal import check_refusal
from pipelines.llm.reading.rejected import Rejected
from pipelines.llm.request import ChatRequest
from pipelines.llm.settings import EndpointConfig
from schemas.pictures import PictureError


class EndpointCaptionConfig(EndpointConfig):
    """The endpoint, and the prompt that is sent with every picture."""

    name: Literal["endpoint"] = "endpoint"
    """The captioning engine."""
    prompt: str = Field(
        "caption", description="caption, recaption (shown the alt text too), or the path of your own prompt file"
    )
    temperature: float | None = Field(0.0, ge=0, le=2)
    """null omits it from the request."""
    max_output_tokens: int = Field(128, ge=1)
    """Maximum tokens of one caption."""
    _loaded: Prompt = PrivateAttr()

    @model_validator(mode="after")
    def _reads_prompt(self) -> EndpointCaptionConfig:
        self._loaded = load_prompt(self.prompt)
        return self

    @property
    def loaded_prompt(self) -> Prompt:
        """As its file was when the configuration was made: workers get it with the configuration."""
        return self._loaded

    @property
    def needs(self) -> Needs:
        return Needs(threads=True, divides_rates=True, one_machine=self.one_machine)


class Endpoint:
    """Captions by a vision model behind an address. Several hundred pictures may be asked about at once."""

    def __init__(self, config: EndpointCaptionConfig):
        self.config = config
        self._prompt = config.loaded_prompt

    def setup(self, context: Any) -> None:
        """Open the client, or share the one that this process has; raises InputError without a key."""
        self._lease = Lease(self.config, context.dataset, context.workers)

    @property
    def identity(self) -> Identity:
        version = f"{self._prompt.id}/{self._prompt.version}@{self._prompt.hash[:12]}"
        return Identity("endpoint", f"{self.config.provider}/{self.config.model}", version)

    @property
    def source_version(self) -> str:
        """The prompt's hash: a changed prompt captions again."""
        return self._prompt.hash

    def captions(self, pictures: Iterator[Picture]) -> Iterator[Caption]:
        return self._lease.in_order(pictures, self._caption)

    def requests(self, pictures: Iterator[Picture]) -> Iterator[tuple[ChatRequest, int]]:
        """What `captions` sends about `pictures`, and the output tokens to expect; undecodable ones are left out."""
        for picture in pictures:
            with suppress(PictureError):
                yield self._request(picture), self._prompt.expected_output_tokens

    def close(self) -> None:
        self._lease.close()

    async def _caption(self, picture: Picture) -> Caption:
        try:
            request = await in_thread_if_redrawn(picture.data, lambda: self._request(picture))
        except PictureError as error:
            return Caption(CaptionStatus.undecodable, detail=str(error))
        answer = await self._lease.client.ask(request)
        if not answer.ok:
            return _without_text(answer)
        try:
            check_refusal(answer.text)
            return Caption(AnswerStatus.ok, " ".join(parse_text(answer.text).split()), answer=answer)
        except Rejected as rejected:
            refused = rejected.status == AnswerStatus.refused
            status = AnswerStatus.refused if refused else CaptionStatus.empty
            return Caption(status, detail=rejected.detail, answer=answer)

    def _request(self, picture: Picture) -> ChatRequest:
        """The question about one picture; raises PictureError for one that cannot be sent."""
        known = {"captions": [picture.alt_text] if picture.alt_text else []}
        return ChatRequest(
            provider=self.config.provider,
            model=self.config.model,
            messages=self._prompt.messages(known, (sendable(picture.data),)),
            max_output_tokens=self.config.max_output_tokens,
            parameters=self.config.request_parameters(),
            prompt=f"{self._prompt.id}/{self._prompt.version}",
            after=picture.after,
        )


def _without_text(answer: Answer) -> Caption:
    return Caption(answer.status, detail=answer.detail, answer=answer)
