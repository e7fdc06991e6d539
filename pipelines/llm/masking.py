"""Masks secrets in everything that is kept: answers, details, run logs, the cache, the terminal.

Two nets. `Secrets` knows the values that this process holds (the endpoint's key, key variables of the environment) and
replaces them in every reply. `shown` knows what credentials look like, and is for details, which are words about an
error: a text that a model wrote is left alone, where "Bearer" may be a word.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote

MASK = "***"
SHORTEST = 8
"""Shorter values ("none", "EMPTY") are placeholders: masking them would damage answers."""
_SHORTEST_OTHER = 16
_KEY_VARIABLE = re.compile(r"(^|_)(API_?KEY|ACCESS_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$")
_QUERY_SECRET = (
    r"(?:api[-_]?key|key|(?:access|auth|id|refresh|security)?[-_]?token|sig|signature|secret|password|passwd|pwd"
    r"|credential|x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature)"
)
_END = r"[^\s\"',;<>}\\]"
_PATTERNS = (
    # Authorization: Bearer abc, "api-key": "abc"
    (
        re.compile(rf"(?i)\b((?:proxy-)?authorization|x?-?api-?key)(\\?[\"']?\s*[:=]\s*\\?[\"']?)(?:\w+ +)?{_END}+"),
        rf"\1\2{MASK}",
    ),
    (re.compile(rf"(?i)\b(bearer|basic)(\s+){_END}{{6,}}"), rf"\1\2{MASK}"),
    # ?token=abc
    (re.compile(rf"(?i)([?&;]{_QUERY_SECRET}=)[^&\s\"'<>#]+"), rf"\1{MASK}"),
    # https://user:password@host
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]{0,20}://)[^\s/@\"'<>]+@"), rf"\1{MASK}@"),
    # Keys by their well-known beginnings: OpenAI and its likes, Hugging Face, GitHub, Google, AWS.
    (re.compile(r"\b(sk|pk|rk|gsk|xai|hf|ghp|gho|github_pat|glpat)([-_])[A-Za-z0-9_\-]{12,}"), rf"\1\2{MASK}"),
    (re.compile(r"\b(AIza|AKIA|ASIA)[A-Za-z0-9_\-]{12,}"), rf"\1{MASK}"),
)
# Control characters, escapes of terminals, and marks that turn the direction of what follows.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


class Secrets:
    """Values that must not be kept. `hide` replaces them, however JSON or a URL spells them."""

    def __init__(self, values: Iterable[str]):
        longest_first = sorted({value for value in values if value}, key=len, reverse=True)
        plain = [form for value in longest_first for form in (value, quote(value, safe=""))]
        self._plain = tuple(dict.fromkeys(form.lower() for form in plain))
        spelled = [*(re.escape(form) for form in plain), *map(_escaped, longest_first)]
        self._pattern = re.compile("|".join(dict.fromkeys(spelled)), re.IGNORECASE) if spelled else None

    @classmethod
    def of_environment(cls, key_variable: str, environment: Mapping[str, str] = os.environ) -> Secrets:
        """The value of `key_variable`, and those of all variables whose names say that they hold a key."""
        own = environment.get(key_variable, "")
        others = [value for name, value in environment.items() if _KEY_VARIABLE.search(name.upper()) and _is_key(value)]
        return cls([own, *others] if len(own) >= SHORTEST else others)

    def hide(self, text: str) -> str:
        """`text` with `***` in place of each secret."""
        if self._pattern is None:
            return text
        lowered = text.lower()
        # The pattern is slow; a reply without an escape or the value itself, which is nearly every one, does without.
        if "\\u00" not in lowered and "\\/" not in lowered and not any(form in lowered for form in self._plain):
            return text
        return self._pattern.sub(MASK, text)


def shown(text: str) -> str:
    """Words from outside as a detail or an error may repeat them: no credentials, nothing that a terminal obeys."""
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _UNPRINTABLE.sub("\ufffd", text)


def looks_like_key(text: str) -> bool:
    """Whether `shown` would mask all or part of `text`."""
    return MASK in shown(text)


def _is_key(value: str) -> bool:
    """Long, one word, and no path: `SECRET_NAME=production` is a word that answers may hold."""
    return len(value) >= _SHORTEST_OTHER and not re.search(r"[\s/\\]", value) and any(map(str.isdigit, value))


def _escaped(value: str) -> str:
    """A pattern for `value` in a JSON string, where any character may be written as an escape."""
    return "".join(rf"(?:{re.escape(one)}|\\u{ord(one):04x}|\\{re.escape(one)})" for one in value)
