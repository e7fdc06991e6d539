"""What happens on the page: a method per event. The session belongs to the browser, all else to the page."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from lavabeam.serving.page.asking import Asking, Settings
from lavabeam.serving.page.session import COLUMNS, Column, Picture, Session, Turn, shown
from schemas.errors import LavaBeamError

if TYPE_CHECKING:
    from lavabeam.serving.client import Served
    from lavabeam.serving.page.record import Recorder

UNTOUCHED = 2
"""Models that are shown before anybody has chosen any."""


class Handlers:
    """The page's events. `outputs` of most are the columns, as updates of `COLUMNS` chatbots."""

    def __init__(self, asking: Asking, recorder: Recorder | None):
        self._asking, self._recorder = asking, recorder

    async def begin(self, session: Session) -> list[Any]:
        """[session, models, status, *columns]: a browser has come. The session is returned so that Gradio ages it."""
        return [session, *await self.refresh(session)]

    async def refresh(self, session: Session) -> list[Any]:
        """[models, status, *columns]: the list follows the gateway. A model that was chosen or asked stays until it is
        unchosen, also when it is no longer served: its conversation is still there to be read."""
        served = await self._asking.models()
        names = [model.name for model in served]
        if not session.touched and names:
            asked = [column.model for column in session.columns if column.turns]
            session.choose([*asked, *(name for name in names if name not in asked)][:UNTOUCHED])
        view = (tuple(served), self._asking.problem, tuple(session.chosen))
        if view == session.view:
            return [gr.skip()] * (2 + COLUMNS)
        session.view = view
        choices = [(_label(one), one.name) for one in served]
        choices += [(f"{name} (not served)", name) for name in session.chosen if name not in names]
        return [gr.update(choices=choices, value=session.chosen), self._status(served), *self._columns(session, names)]

    async def choose(self, session: Session, chosen: list[str]) -> list[Any]:
        """[*columns] of the models that somebody chose."""
        session.stop()
        session.touched = True
        session.choose(chosen or [])
        return self._columns(session, [model.name for model in await self._asking.models()])

    async def send(
        self, session: Session, asked: dict[str, Any] | None, address: str, *settings: float
    ) -> AsyncIterator[list[Any]]:
        """[*columns, question, address]: a question to all columns."""
        question, address = ((asked or {}).get("text") or "").strip(), (address or "").strip()
        self._check(session, bool(question), "Write a question first.")
        pictures = [Picture(path=path) for path in (asked or {}).get("files") or ()]
        pictures += [Picture(url=address)] if address else []
        turns = session.ask(question, tuple(pictures))
        entered: list[Any] = [None, ""]
        async for columns in self._answers(session, turns, settings):
            yield [*columns, *entered]
            entered = [gr.skip(), gr.skip()]  # somebody may be writing the next question

    async def again(self, session: Session, *settings: float) -> AsyncIterator[list[Any]]:
        """[*columns]: the last question of every column once more."""
        self._check(session, any(column.turns for column in session.columns), "There is no question to ask again yet.")
        replaced = session.again()
        async for columns in self._answers(session, [(column, turn) for column, turn, _ in replaced], settings):
            yield columns
        if self._recorder is not None:
            for _, turn, old in replaced:
                if turn.is_answered:
                    await self._record(self._recorder.replaced, old)

    async def stop(self, session: Session) -> None:
        session.stop()

    async def clear(self, session: Session) -> list[Any]:
        """[*columns, question, address]: nothing was asked."""
        session.clear()
        return [*self._columns(session), None, ""]

    async def vote(self, session: Session, number: int, event: gr.LikeData) -> None:
        """Someone liked or disliked an answer of column `number`, or took that back."""
        turns = session.columns[number].turns if number < len(session.columns) else []
        place = _index(event) // 2
        if not 0 <= place < len(turns):  # of an answer that was cleared meanwhile
            return
        turn = turns[place]
        turn.vote = {True: 1, "Like": 1, False: -1, "Dislike": -1}.get(event.liked, 0)
        if self._recorder is not None:
            await self._record(self._recorder.voted, turn)

    async def _answers(
        self, session: Session, turns: Sequence[tuple[Column, Turn]], settings: Sequence[float]
    ) -> AsyncIterator[list[Any]]:
        yield self._columns(session)
        chosen = Settings.of(*settings)
        async for _ in self._asking.ask_all(session, turns, chosen):
            yield self._columns(session)
        if self._recorder is not None:
            # As the conversations are now: they may go on while this is recorded.
            ended = [(Column(column.model, list(column.turns)), turn) for column, turn in turns if turn.is_answered]
            for column, turn in ended:
                await self._record(self._recorder.keep, column, turn, chosen.as_request())

    async def _record(self, action: Any, *values: Any) -> None:
        """A record that fails is said on the page, at once: it is the reason why the page runs."""
        try:
            await asyncio.to_thread(action, *values)
        except (LavaBeamError, OSError) as error:
            gr.Warning(f"This is not recorded: {html.escape(str(error))}")

    def _check(self, session: Session, condition: bool, words: str) -> None:
        if not session.columns:
            words, condition = "Choose a model first.", False
        elif session.tasks:
            words, condition = "Answers are still coming: wait, or press Stop.", False
        if not condition:
            raise gr.Error(words, print_exception=False, title="")

    def _columns(self, session: Session, served: Sequence[str] | None = None) -> list[Any]:
        """An update for every chatbot. `served` renews their labels, and which of them are seen, too."""
        updates: list[Any] = []
        for number in range(COLUMNS):
            column = session.columns[number] if number < len(session.columns) else None
            words: dict[str, Any] = {"value": shown(column) if column else []}
            if served is not None:
                words["visible"] = column is not None or number == 0
                words["label"] = _title(column.model, served) if column else "No model"
            updates.append(gr.update(**words))
        return updates

    def _status(self, served: Sequence[Served]) -> str:
        if self._asking.problem:
            return f'<p class="problem">{html.escape(self._asking.problem)}</p>'
        count = "1 model" if len(served) == 1 else f"{len(served)} models"
        return f"<p>{count} at {html.escape(self._asking.client.address)}</p>"


def _label(model: Served) -> str:
    return model.name if model.state in ("", "ready") else f"{model.name} ({model.state})"


def _title(name: str, served: Sequence[str]) -> str:
    return name if name in served else f"{name} (not served)"


def _index(event: gr.LikeData) -> int:
    """The number of the message. Gradio counts messages, and in groups gives (message, part)."""
    return event.index[0] if isinstance(event.index, tuple | list) else int(event.index)
