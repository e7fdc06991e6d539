"""`lavabeam chat`: a conversation in the terminal; an error is one line and does not end the session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from lavabeam.cli.output import say
from lavabeam.cli.serving import DEVICE, LOAD

HELP = "/image PATH-OR-URL adds an image, /new starts over, /quit (or Ctrl-D) ends."


@click.command()
@click.argument("checkpoint", metavar="CHECKPOINT|ADDRESS")
@click.argument("picture", required=False)
@click.argument("question", required=False)
@click.option(
    "--max-tokens", type=click.IntRange(min=1), default=512, help="Maximum tokens per answer.", show_default=True
)
@click.option("--template", help="The chat template, if the checkpoint does not name the one it was trained with.")
@LOAD
@DEVICE
@click.option("--model", help="The model to use at ADDRESS, if it serves several.")
@click.option("--allow-private-hosts", multiple=True, help="A private host, address or network to allow.")
def chat(
    checkpoint: str,
    picture: str | None,
    question: str | None,
    max_tokens: int,
    allow_private_hosts: tuple[str, ...],
    **given: str | None,
) -> None:
    """Chat with the LLaVA in folder CHECKPOINT, or with one served at ADDRESS (http://127.0.0.1:8000).

    Asks one QUESTION about a PICTURE (a path or a URL), or starts a conversation.

    In the conversation, /image PATH-OR-URL adds another image, /new starts over, /quit ends.
    """
    from schemas.errors import InputError

    conversation = _conversation(checkpoint, **given)
    if question is not None:
        if picture is not None:
            _show(conversation, picture, allow_private_hosts)
        return say(conversation.ask(question, max_tokens))
    say(HELP, err=True)
    for line in _lines(picture):
        try:
            _answer(conversation, line, max_tokens, allow_private_hosts)
        except InputError as error:
            say(str(error), err=True)
    return None


def _conversation(
    checkpoint: str, template: str | None, load: str | None, device: str | None, model: str | None
) -> Any:
    """With a folder here, or with a served model (its key: the variable LAVABEAM_API_KEY)."""
    if checkpoint.startswith(("http://", "https://")):
        for name, value in (("template", template), ("load", load), ("device", device)):
            if value is not None:
                raise click.UsageError(f"--{name} is chosen by the server. Leave it out.")
        from lavabeam.serving.conversation import ServedConversation

        return ServedConversation(checkpoint, model)
    if model is not None:
        raise click.UsageError("--model names a model at an ADDRESS; a folder holds one. Leave it out.")
    from trainer.inference.chat import Conversation

    return Conversation(Path(checkpoint), template, device, load)


def _lines(picture: str | None) -> Iterator[str]:
    """The command that shows the first picture, then what is typed until the end."""
    if picture is not None:
        yield f"/image {picture}"
    while True:
        try:
            line = click.prompt("you", prompt_suffix="> ").strip()
        except click.Abort:
            return
        if line == "/quit":
            return
        yield line


def _answer(conversation: Any, line: str, max_tokens: int, allow_private_hosts: tuple[str, ...]) -> None:
    command, _, rest = line.partition(" ")
    if command == "/new":
        conversation.forget()
    elif command == "/image":
        _show(conversation, rest.strip(), allow_private_hosts)
    elif command.startswith("/"):
        say(f"{command}: no such command. {HELP}", err=True)
    else:
        say(conversation.ask(line, max_tokens))


def _show(conversation: Any, picture: str, allow_private_hosts: tuple[str, ...]) -> None:
    """Show a file or a URL, which goes through the download step's guard."""
    if "://" not in picture:
        return conversation.show(Path(picture))
    from pipelines.download.single import fetch_picture

    return conversation.show(fetch_picture(picture, allow_private_hosts), picture)
