"""The page itself: what is where, and which function an event calls.

One event streams all columns of a browser together, so that a browser needs one stream however many models it
compares. Browsers hold at most six connections to one address, and Gradio runs one event of a kind at a time unless
otherwise configured.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from lavabeam.serving.page.asking import REFRESH_S, Asking
from lavabeam.serving.page.handlers import Handlers
from lavabeam.serving.page.session import COLUMNS, Session

if TYPE_CHECKING:
    from lavabeam.serving.page.record import Recorder

STYLE = Path(__file__).parent / "page.css"
STREAMS = 64
"""Browsers whose answers stream at the same time; others wait. The gateway has limits of its own."""
KEPT_S = 86400
"""Seconds after which an idle browser's conversation and uploaded pictures are forgotten."""
RECORDED = "Recording: questions, pictures, answers and votes on this page are kept as training data."


def build(asking: Asking, recorder: Recorder | None = None) -> gr.Blocks:
    """The page for one gateway, not yet served."""
    on_page = Handlers(asking, recorder)
    with gr.Blocks(title="LavaBeam", analytics_enabled=False, delete_cache=(3600, KEPT_S), fill_width=True) as page:
        session = gr.State(Session(), time_to_live=KEPT_S)
        with gr.Row(elem_classes="heading"):
            gr.HTML("<h1>LavaBeam</h1>")
            status = gr.HTML(elem_id="status")
        if recorder is not None:
            gr.HTML(f'<p class="recorded">{RECORDED}</p>')
        models = gr.Dropdown([], multiselect=True, max_choices=COLUMNS, label="Models", elem_id="models")
        with gr.Row(equal_height=True):
            chats = [_chat(number) for number in range(COLUMNS)]
        question = _question()
        with gr.Row():
            address = gr.Textbox(
                placeholder="Address of a picture: https://...",
                show_label=False,
                container=False,
                scale=4,
                elem_id="address",
            )
            again, stop, clear = (_button(name) for name in ("Regenerate", "Stop", "Clear"))
        settings = _parameters()

        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        streams = {**quiet, "concurrency_limit": STREAMS, "concurrency_id": "answers"}
        at_once = {**quiet, "concurrency_limit": None, "queue": False}
        question.submit(on_page.send, [session, question, address, *settings], [*chats, question, address], **streams)
        again.click(on_page.again, [session, *settings], chats, **streams)
        stop.click(on_page.stop, session, None, **at_once)
        clear.click(on_page.clear, session, [*chats, question, address], **at_once)
        models.input(on_page.choose, [session, models], chats, **at_once)
        for number, chat in enumerate(chats):
            chat.like(_voting(on_page, number), session, None, **at_once)
        page.load(on_page.begin, session, [session, models, status, *chats], **at_once)
        gr.Timer(REFRESH_S).tick(on_page.refresh, session, [models, status, *chats], **at_once)
    return page


def _chat(number: int) -> gr.Chatbot:
    """One column. Answers are shown as they are: as Markdown they could make a browser fetch what they name."""
    return gr.Chatbot(
        visible=number == 0,
        label="No model",
        render_markdown=False,
        height="44vh",
        min_width=280,
        buttons=["copy"],
        feedback_options=("Like", "Dislike"),
        group_consecutive_messages=False,
        elem_id=f"answers-{number}",
    )


def _question() -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(
        placeholder="Ask about a picture: attach it or paste it here, or give its address below.",
        sources=["upload"],
        file_types=["image"],
        file_count="multiple",
        max_plain_text_length=100_000,  # longer text that is pasted becomes a file
        show_label=False,
        autofocus=True,
        elem_id="question",
    )


def _button(name: str) -> gr.Button:
    return gr.Button(name, size="md", min_width=110, scale=1, elem_id=name.lower())


def _parameters() -> list[gr.Slider]:
    """They begin as on LLaVA's own page (llava/serve/gradio_web_server.py)."""
    with gr.Accordion("Parameters", open=False, elem_id="parameters"), gr.Row():
        return [
            gr.Slider(0, 2, 0.2, step=0.1, label="Temperature", info="0: always the likeliest token"),
            gr.Slider(0.05, 1, 0.7, step=0.05, label="Top p", info="the share of likely tokens to draw from"),
            gr.Slider(1, 2048, 512, step=1, label="Max tokens", info="the longest answer"),
        ]


def _voting(on_page: Handlers, number: int) -> Any:
    """An event does not say which column it is of."""

    async def vote(session: Session, event: gr.LikeData) -> None:
        await on_page.vote(session, number, event)

    return vote
