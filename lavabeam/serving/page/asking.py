"""The page's side of the gateway: what is served, and several models asked at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from lavabeam.serving.client import GatewayClient, Served
from lavabeam.serving.page.session import Column, Session, Turn
from schemas.errors import InputError

REFRESH_S = 2.0
"""Age at which the list of models is asked for again; all browsers share one."""
FRAME_S = 0.1
"""Seconds between two pictures of the columns while answers come."""
STOPPED = "Stopped."


@dataclass(frozen=True)
class Settings:
    """The parameters of an answer, as the sliders give them."""

    temperature: float
    top_p: float
    max_tokens: int

    @classmethod
    def of(cls, temperature: float, top_p: float, max_tokens: float) -> Settings:
        return cls(float(temperature), float(top_p), int(max_tokens))

    def as_request(self) -> dict[str, Any]:
        return {"temperature": self.temperature, "top_p": self.top_p, "max_tokens": self.max_tokens}


class Asking:
    """One gateway, asked for all browsers of a page."""

    def __init__(self, client: GatewayClient):
        self.client = client
        self.problem = ""
        """Why the list of models could not be read, in the gateway's words; empty when it was."""
        self._served: list[Served] = []
        self._asked_at = float("-inf")
        self._one_at_a_time = asyncio.Lock()

    async def models(self) -> list[Served]:
        """What the gateway serves, at most `REFRESH_S` old; the last list, and a `problem`, when it does not answer."""
        async with self._one_at_a_time:
            if time.monotonic() - self._asked_at >= REFRESH_S:
                try:
                    self._served, self.problem = await self.client.models(), ""
                except InputError as error:
                    self.problem = str(error)
                self._asked_at = time.monotonic()
        return self._served

    async def ask_all(
        self, session: Session, turns: Sequence[tuple[Column, Turn]], settings: Settings
    ) -> AsyncIterator[None]:
        """Fill all `turns` at the same time; yields when there is something new to show.

        Every turn ends with a whole answer or an error. Ends early when `session.stop` is called; whoever leaves the
        iterator early ends the requests too.
        """
        tasks = [asyncio.create_task(self._ask(column, turn, settings)) for column, turn in turns]
        session.tasks = tasks
        try:
            while True:
                done, waiting = await asyncio.wait(tasks, timeout=FRAME_S)
                yield
                if not waiting:
                    for task in done:
                        if not task.cancelled():
                            task.result()
                    return
        finally:
            for task in tasks:
                task.cancel()
            session.tasks = []

    async def _ask(self, column: Column, turn: Turn, settings: Settings) -> None:
        try:
            messages = await asyncio.to_thread(column.messages, turn)
            async with aclosing(
                self.client.stream(column.model, messages, settings.as_request(), turn.answer)
            ) as pieces:
                async for _ in pieces:
                    pass
            if not turn.answer.text:
                turn.error = f"{column.model} answered nothing."
        except InputError as error:
            turn.error = str(error)
        except OSError as error:  # an uploaded file that was cleared away
            turn.error = f"A picture is gone ({error.strerror}). Clear, and upload it again."
        except asyncio.CancelledError:
            turn.error = STOPPED
            raise
