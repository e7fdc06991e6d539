"""Strips what models add around their answers: greetings, fences, titles, labels, numbers, bold."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^\s*```[\w-]*\s*\n(?P<inner>.*?)\n?\s*```\s*$", re.DOTALL)
# "Sure! Here is the description:" before the answer itself; on the answer's own line only after a clear greeting.
_PREFACE = re.compile(
    r"^\s*(?:(?:sure|certainly|of course|absolutely)\b[^\n:]{0,120}:\s+"
    r"|(?:okay|ok|here(?:'s|’s| is| are))\b[^\n]{0,120}:[ \t]*\n+)",
    re.IGNORECASE,
)
_BLANK_LINES = re.compile(r"\n\s*\n")
# A last paragraph that addresses the user.
_FAREWELL = re.compile(
    r"\n\n\W{0,3}(?:i hope (?:this|that|these)|(?:please )?(?:let me know|feel free to)|would you like me to"
    r"|is there anything else|if you (?:need|want|would like|have)\b[^\n]*\b(?:let me know|ask))[^\n]{0,200}$",
    re.IGNORECASE,
)
_TITLE = re.compile(
    r"^[\s#*_]*(?:answer|caption|(?:(?:detailed|full|image|picture|scene) )*description)[*_\s]*"
    r"(?:[:：][*_]*\s*|(?<=[\n*_])\s*(?=\S))",
    re.IGNORECASE,
)
_RULE = re.compile(r"^\s*(?:[=\-*_~#]\s*){3,}$")
_EXCHANGE = re.compile(
    r"^[\s#*_]*(?:exchange|turn|pair|round|dialogue|conversation|q\s*&\s*a)\s*\d*[\s*_:.]*$", re.IGNORECASE
)
_NUMBER = re.compile(r"^\(?\d{1,2}[.)]\s+|^[-*•]\s+(?=\S)")
_QUOTES = (("**", "**"), ("*", "*"), ('"', '"'), ("“", "”"), ("__", "__"))


def unwrapped(text: str) -> str:
    """The text without a code fence, a greeting before it and a farewell after it."""
    fenced = _FENCE.match(text)
    text = (fenced["inner"] if fenced else text).replace("\r\n", "\n").strip()
    text = _BLANK_LINES.sub("\n\n", text)
    text = _FAREWELL.sub("", _PREFACE.sub("", text, count=1)).strip()
    fenced = _FENCE.match(text)
    return fenced["inner"].strip() if fenced else text


def untitled(text: str) -> str:
    """`**Description:** A cat.` -> `A cat.`"""
    return _TITLE.sub("", text, count=1).strip()


def bare(text: str) -> str:
    """`**What is it?**` and `"What is it?"` -> `What is it?`: marks around all of it, or left over at its end."""
    text = text.strip()
    for opening, closing in _QUOTES:
        inner = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inner and not re.search(r'[*"“”]|__', inner):
            return inner.strip()
    return text[:-2].rstrip() if text.endswith("**") and text.count("**") % 2 else text


def unnumbered(text: str) -> str:
    """`1. What is it?` and `- What is it?` -> `What is it?`"""
    return _NUMBER.sub("", text, count=1)


def is_ornament(line: str) -> bool:
    """A line that only divides: `---`, `===`, `**Exchange 2**`."""
    return bool(_RULE.match(line) or _EXCHANGE.match(line))


def joined(lines: list[str]) -> str:
    """Lines as one text, blank lines at most one in a row."""
    text = "\n".join(line.strip() for line in lines).strip()
    return re.sub(r"\n{3,}", "\n\n", text)
