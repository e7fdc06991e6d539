"""Ids and labels exactly as the original LLaVA code made them, including what it loses.

`llava` is haotian-liu/LLaVA at c121f04, `llava_next` LLaVA-VL/LLaVA-NeXT at df17966 (llava/train/train.py of each). The
original tokenises the text between pictures piece by piece, finds the answers by splitting the prompt at its own
separators, and masks a whole row when its token counts do not match. Use it to reproduce published runs; the default
mode trains on what this one loses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.chat.encoded import IGNORE, ORIGINAL_IMAGE, Encoded
from schemas.chat.original_prompts import Turn, original_prompt, original_turns, pictures_first, signalled, with_system
from schemas.chat.original_tokens import IMAGE_TOKEN, OriginalTokens
from schemas.chat.prompts import HEAD, HEADED, TURN_END
from schemas.chat.templates import Message, Template, content_parts
from schemas.chat.tokenizer import Tokenizer
from schemas.errors import InputError

MODES = ("llava", "llava_next")
NEXT_ONLY = ("qwen", "llama_3", "mistral_direct")
"""Templates that only LLaVA-NeXT can train with; 'llava' means that code for them."""

QWEN_NEWLINE = 198
"""The newline of Qwen's vocabulary: the original unmasks this id everywhere, in questions too."""

Result = tuple[np.ndarray, np.ndarray, str | None]


@dataclass(frozen=True)
class Job:
    """One row in progress."""

    turns: list[Turn]
    has_image: bool
    template: Template
    tokens: OriginalTokens
    is_next: bool
    max_length: int | None

    @property
    def prompt(self) -> str:
        """The text that is tokenised."""
        if self.template.family in BLOCKS:
            return "".join(text for _, text in self.blocks)
        return original_prompt(self.turns, self.template)

    @property
    def blocks(self) -> list[Turn]:
        """(role, text with its control tokens) of each turn, which some templates tokenise one by one."""
        turns = with_system(self.turns, self.template)
        return [(role, BLOCKS[self.template.family](role, text, self.tokens)) for role, text in turns]

    def ids(self, text: str) -> list[int]:
        """Tokenise as the original does, with or without pictures in the row."""
        return self.tokens.with_images(text) if self.has_image else self.tokens.ids(text)

    def full_length(self, ids: np.ndarray) -> int:
        """Tokens before any cut."""
        return len(ids) if self.has_image or len(ids) != self.max_length else len(self.ids(self.prompt))

    def row(self, text: str) -> np.ndarray:
        """Ids of the prompt; rows without pictures are truncated here, others only when they are collated."""
        ids = self.ids(text)
        return np.asarray(ids if self.has_image else ids[: self.max_length], np.int32)


def encode_like_original(
    messages: Sequence[Message],
    template: Template,
    tokenizer: Tokenizer,
    compat: str,
    max_length: int | None = None,
    has_image: bool | None = None,
) -> Encoded:
    """The row that the original's `preprocess` returns, one ORIGINAL_IMAGE per picture, before its collator cuts it.

    has_image: whether the row names a picture, which decides how it is tokenised; by default, whether the messages show
    one. Raises InputError where the original raises (turns that do not alternate, `plain` without a picture).
    """
    job = original_job(messages, template, tokenizer, compat, max_length, has_image)
    ids, labels, warning = PROCEDURES[template.family](job)
    pictures = int(np.count_nonzero(ids == ORIGINAL_IMAGE))
    return Encoded(
        ids=ids,
        labels=labels,
        tokens=len(ids),
        image_tokens=pictures,
        supervised=int(np.count_nonzero(labels != IGNORE)),
        images=pictures,
        truncated=max_length is not None and job.full_length(ids) > max_length,
        warning=warning,
    )


def original_job(
    messages: Sequence[Message],
    template: Template,
    tokenizer: Tokenizer,
    compat: str,
    max_length: int | None = None,
    has_image: bool | None = None,
) -> Job:
    """The row as the original prepares it; `prompt` is the text that is tokenised."""
    if compat not in MODES:
        raise InputError(f"compat {compat!r}: expected one of {', '.join(MODES)}.")
    turns = original_turns(messages, template)
    if has_image is None:
        has_image = any(part["type"] == "image" for message in messages for part in content_parts(message))
    is_next = compat == "llava_next" or template.name in NEXT_ONLY
    if has_image:
        turns = [(role, pictures_first(text, template, is_next)) for role, text in turns]
    return Job(turns, has_image, template, OriginalTokens.of(tokenizer), is_next, max_length)


def _two(job: Job) -> Result:
    """Vicuna v1: rounds end with `</s>`; without the old tokenizer's blank, later rounds are one token shorter."""
    prompt = job.prompt
    rounds = prompt.split("</s>")
    shift = 0 if job.tokens.legacy else -1
    return _mask_rounds(job, prompt, rounds, " ASSISTANT: ", start=1, less=2, later=shift)


def _inst(job: Job) -> Result:
    prompt = job.prompt
    return _mask_rounds(job, prompt, prompt.split("</s>"), "[/INST] ", start=1, less=2, later=0)


def _mpt(job: Job) -> Result:
    prompt = job.prompt
    end, opening = job.template.system[1], job.template.assistant[0]
    pieces = prompt.split(end)
    rounds = [end.join(pieces[:3])] + [end.join(pieces[at : at + 2]) for at in range(3, len(pieces), 2)]
    later = 1 if job.tokens.is_slow and job.tokens.legacy else 0
    return _mask_rounds(job, prompt, rounds, end + opening, start=int(job.is_next), less=1, later=later)


def _mask_rounds(job: Job, prompt: str, rounds: list[str], sep: str, start: int, less: int, later: int) -> Result:
    """Mask everything but what follows `sep` in each round. `less` and `later` are the original's token corrections."""
    ids = job.row(prompt)
    labels = ids.copy()
    total = int(np.count_nonzero(ids != job.tokens.pad_id))
    position = start
    labels[:position] = IGNORE
    for number, text in enumerate(rounds):
        parts = text.split(sep)
        if text == "" or len(parts) != 2:
            break
        correction = later if number else 0
        length = len(job.ids(text)) + correction
        instruction = len(job.ids(parts[0] + sep)) - less + correction
        labels[position : position + instruction] = IGNORE
        position += length
    labels[position:] = IGNORE
    if (job.max_length is None or position < job.max_length) and position != total:
        labels[:] = IGNORE
        turns = f"(#turns={len(rounds)} ignored)" if job.is_next and job.template.family == "mpt" else " (ignored)"
        return ids, labels, f"WARNING: tokenization mismatch: {position} vs. {total}.{turns}"
    return ids, labels, None


def _signal(job: Job) -> Result:
    """Version 0: every turn starts with `### `; lengths are counted turn by turn, each with its own first token."""
    header = f"{job.template.default_system}\n\n"
    ids = job.row(job.prompt)
    labels = ids.copy()
    lengths = [_length(job, text) for text in (header, *map(signalled, job.turns))]
    position = lengths[0]
    labels[:position] = IGNORE
    for length, (role, _) in zip(lengths[1:], job.turns, strict=True):
        if role == "user":
            labels[position + 2 : position + length] = IGNORE
        position += length
    return ids, labels, None


def _length(job: Job, text: str) -> int:
    if job.has_image:
        return len(job.ids(text))
    return sum(token != job.tokens.pad_id for token in job.ids(text)[: job.max_length])


def _plain(job: Job) -> Result:
    prompt = job.prompt
    ids = np.asarray(job.tokens.with_images(prompt), np.int32)
    labels = ids.copy()
    labels[: len(job.tokens.with_images(IMAGE_TOKEN))] = IGNORE
    return ids, labels, None


def _qwen(job: Job) -> Result:
    shown = {QWEN_NEWLINE, job.tokens.token("<|im_start|>"), job.tokens.token("<|im_end|>")}
    return _by_block(job, [(role, job.tokens.parsed(text, job.has_image)) for role, text in job.blocks], shown)


def _llama_3(job: Job) -> Result:
    """Every block starts with the tokenizer's first token, which is then dropped from all but the first block."""
    blocks = [(role, job.tokens.parsed(text, job.has_image)) for role, text in job.blocks]
    shown = {job.tokens.token(name) for name in ("<|begin_of_text|>", HEAD, HEADED, TURN_END)}
    return _by_block(job, blocks[:1] + [(role, ids[1:]) for role, ids in blocks[1:]], shown)


def _by_block(job: Job, blocks: list[tuple[str, list[int]]], shown: set[int]) -> Result:
    """Supervise everything outside user and system turns, and tokens in `shown` anywhere; then pictures get their
    placeholder."""
    masked = ("user", "system")
    ids = np.asarray([token for _, block in blocks for token in block], np.int32)
    labels = np.asarray(
        [token if role not in masked or token in shown else IGNORE for role, block in blocks for token in block],
        np.int32,
    )
    return np.where(ids == job.tokens.image_id, ORIGINAL_IMAGE, ids).astype(np.int32), labels, None


def _qwen_block(role: str, text: str, tokens: OriginalTokens) -> str:
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


def _llama_3_block(role: str, text: str, tokens: OriginalTokens) -> str:
    """One message in the tokenizer's own chat template; the first published version opens an answer after each."""
    opened = f"{HEAD}assistant{HEADED}\n\n" if tokens.always_opens_answer else ""
    return f"<|begin_of_text|>{HEAD}{role}{HEADED}\n\n{text.strip()}{TURN_END}{opened}"


BLOCKS: dict[str, Callable[[str, str, OriginalTokens], str]] = {"qwen": _qwen_block, "llama_3": _llama_3_block}
PROCEDURES: dict[str, Callable[[Job], Result]] = {
    "two": _two,
    "inst": _inst,
    "mpt": _mpt,
    "signal": _signal,
    "plain": _plain,
    "qwen": _qwen,
    "llama_3": _llama_3,
}
