"""A checkpoint loaded in this process, for use from Python: single questions, streams, or batches."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from schemas.errors import InputError, LavaBeamError

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

    from trainer.inference.answer import Answerer
    from trainer.inference.prompts import Prompt

Image: TypeAlias = "str | Path | bytes | PillowImage"
"""A file, an http(s) address, encoded bytes, or one of Pillow's."""

TOKENS = 512


def load(
    checkpoint: str | Path, *, load: str | None = None, device: str | None = None, template: str | None = None
) -> Model:
    """Load the LLaVA in a folder, a run folder, or a LoRA adapter, which stays unmerged.

    load: `4bit` or `8bit`. device: `cpu`, `mps`, `cuda`, `cuda:0`, or `cuda:0,1` to spread it; by default the first
    GPU, if there is one. Raises InputError for anything that cannot be loaded.
    """
    from trainer.inference.answer import Answerer

    return Model(Answerer(checkpoint, template, device, load))


class Model:
    """A loaded checkpoint. Questions are asked in isolation, and answered greedily unless a temperature is given.

    image: one picture, or several, placed at `<image>` in the question, or before it.
    allow_private_hosts: private hosts from which pictures may be fetched, as in `lavabeam chat`.
    """

    def __init__(self, answerer: Answerer, allow_private_hosts: tuple[str, ...] = ()):
        self._answerer, self.allow_private_hosts = answerer, allow_private_hosts

    def ask(
        self, question: str, image: Image | Sequence[Image] | None = None, *, max_tokens: int = TOKENS, **sampling: Any
    ) -> str:
        """The answer. sampling: temperature, top_p, seed, stop, as for `stream`. Raises InputError if the
        question is too long, or a picture cannot be read."""
        return "".join(self.stream(question, image, max_tokens=max_tokens, **sampling))

    def stream(
        self,
        question: str,
        image: Image | Sequence[Image] | None = None,
        *,
        max_tokens: int = TOKENS,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
    ) -> Iterator[str]:
        """Stream the answer. temperature 0 is greedy. stop: a text that ends the answer, or up to four. Raises like
        `ask`, before the first piece, and for values that `lavabeam serve` refuses."""
        from trainer.inference.engine import Asked, Engine
        from trainer.inference.prompting import Row
        from trainer.inference.sampling import Sampler

        stops = [stop] if isinstance(stop, str) else list(stop)
        _check(max_tokens=max_tokens, temperature=temperature, top_p=top_p, seed=seed, stop=stops)
        prompting, loaded = self._answerer.prompting, self._answerer.loaded
        prompt = self._prompt(question, image)
        row = prompting.row(0, prompt, {})
        if not isinstance(row, Row):
            raise InputError(row.detail)
        row = replace(row, pictures=tuple(prompting.pictures(prompt)))
        engine = Engine(loaded, {self._answerer.name: prompting}, most=1)
        sampler = Sampler(temperature, top_p, seed)
        engine.submit(Asked(0, row, self._answerer.name, max_tokens, sampler, tuple(stops), stream=True))
        while engine.waiting or engine.running:
            for event in engine.step():
                if event.failed:
                    raise InputError(f"{prompt.name}: {event.failed}.")
                if event.text:
                    yield event.text

    def answers(
        self,
        questions: Iterable[tuple[str, Image | Sequence[Image] | None]],
        *,
        max_tokens: int = TOKENS,
        batch: int | None = None,
    ) -> list[str]:
        """Greedy answers to (question, image) pairs, in batches. Raises InputError for the first that fails."""
        _check(max_tokens=max_tokens)
        prompts = [self._prompt(text, image) for text, image in questions]
        found = self._answerer.answer(prompts, max_tokens, batch)
        for answer in found:
            if answer.detail:
                raise InputError(answer.detail)
        return [answer.text for answer in found]

    def _prompt(self, text: str, image: Image | Sequence[Image] | None) -> Prompt:
        from trainer.inference.prompts import question

        if not isinstance(text, str):
            raise InputError(f"question: found {type(text).__name__}; expected text.")
        several: list[Any] = [] if image is None else list(image) if isinstance(image, list | tuple) else [image]
        return question(text, tuple(self._source(one) for one in several), f"question {text[:40]!r}")

    def _source(self, image: Image) -> bytes | Path:
        from PIL.Image import Image as PillowImage

        if isinstance(image, bytes | bytearray | memoryview):
            return bytes(image)
        if isinstance(image, PillowImage):
            return _encoded(image)
        if not isinstance(image, str | Path):
            raise InputError(f"image: found {type(image).__name__}; expected a path, a URL, bytes or a Pillow image.")
        if isinstance(image, str) and "://" in image:
            from pipelines.download.single import fetch_picture

            return fetch_picture(image, self.allow_private_hosts)
        if not Path(image).is_file():
            raise InputError(f"{image}: no such image file. Give the path or the URL of an image.")
        return Path(image)


def _encoded(image: PillowImage) -> bytes:
    """Without loss; a mode that PNG does not have (CMYK, floats) becomes RGB."""
    file = io.BytesIO()
    made = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")
    made.save(file, "PNG")
    return file.getvalue()


def _check(**settings: Any) -> None:
    """Raises InputError for a value that a server would refuse."""
    from lavabeam.serving.requests import FIELDS

    for name, value in settings.items():
        try:
            FIELDS[name](name, value)
        except LavaBeamError as error:
            raise InputError(str(error)) from error
