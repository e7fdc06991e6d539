"""A model's chat template, rendered in a bounded sandbox before transformers renders it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from schemas.errors import InputError
from schemas.sandbox import Sandbox, TemplateFault


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`, by which transformers finds answers: here only its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def check_chat_template(template: Any, messages: list[dict[str, Any]], tokens: Mapping[str, Any], where: str) -> None:
    """Raise InputError where `template` cannot be rendered for `messages` within the sandbox's bounds.

    `template` is a text or a mapping of names to texts, as a processor holds it; `tokens` are the special tokens by
    their names. transformers' own sandbox keeps a template from Python, but not from running for hours.
    """
    texts = list(template.values()) if isinstance(template, Mapping) else [template]
    sandbox = Sandbox(strict=False, extensions=("jinja2.ext.loopcontrols", _Generation))
    sandbox.globals |= {"raise_exception": _raise, "strftime_now": _now}
    values = {"messages": messages, "add_generation_prompt": True, "tools": None, "documents": None, **tokens}
    for text in texts:
        try:
            if not isinstance(text, str):
                raise TemplateFault(f"it is a {type(text).__name__}, not a text")
            sandbox.program(text).render(values)
        except TemplateFault as fault:
            raise InputError(
                f"{where}: the chat template is refused: {fault}. Templates are data: correct it "
                "(chat_template.jinja, or `chat_template` in tokenizer_config.json)."
            ) from fault


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _now(pattern: str) -> str:
    """A date of the right length: what the template does with it is checked, not what day it is."""
    return pattern[:100]
