"""Opt-out signals of sites: X-Robots-Tag, TDM reservation, robots.txt. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.download.statuses import DownloadStatus, Failure

MAX_ROBOTS_BYTES = 512_000
"""RFC 9309 section 2.5: a parser reads at least 500 KiB; what lies beyond is not read."""

MAX_CRAWL_DELAY_S = 10.0
"""The longest Crawl-delay (not in RFC 9309) that is honoured; a host that asks for more gets this."""

# X-Robots-Tag directives that carry a value of their own after a colon, so their name is no bot's.
# https://developers.google.com/search/docs/crawling-indexing/robots-meta-tag
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
# As generous as Protego in what names a robot: "User agent foo" counts.
_USER_AGENT = re.compile(r"\s*user[- ]?agent\s*[:\s]\s*(?P<name>[^#]*)", re.IGNORECASE)
_ALL_OF = {"none": ("noindex", "nofollow")}


def check_headers(headers: Any, token: str, directives: Iterable[str], respect_tdm: bool = True) -> None:
    """Raise Failure when a response's headers opt out; `headers` is a multi-dictionary with `getall`."""
    tags = headers.getall("X-Robots-Tag", ())
    if tags:
        found = opt_out_directive(tags, token, directives)
        if found:
            raise Failure(DownloadStatus.opt_out_header, f"X-Robots-Tag: {found}")
    if respect_tdm and any(value.strip() == "1" for value in headers.getall("TDM-Reservation", ())):
        # W3C community group report "TDM Reservation Protocol", section 4: 1 means that the rights are reserved.
        raise Failure(DownloadStatus.opt_out_tdm, "TDM-Reservation: 1")


def opt_out_directive(tags: Iterable[str], token: str, directives: Iterable[str]) -> str | None:
    """The first disallowed directive of X-Robots-Tag values that speaks to everyone or to `token`.

    "noai" speaks to everyone; "somebot: noai, noindex" to that bot alone, until another name follows.
    """
    unwanted = {directive.lower() for directive in directives}
    for tag in tags:
        addressed = True
        for part in tag.split(","):
            name, colon, rest = (piece.strip() for piece in part.lower().partition(":"))
            directive = name
            # What has a space in it is no bot's name but the rest of a date: unavailable_after: Fri, 25 Jun 2027 15:00.
            if colon and name not in _VALUED and " " not in name:
                addressed, directive = name in (token.lower(), "*"), rest
            for single in _ALL_OF.get(directive, (directive,)):
                if addressed and single in unwanted:
                    return single
    return None


@dataclass(frozen=True)
class RobotsRules:
    """What one origin's robots.txt says to us. `failure` stands for "disallow all, it could not be read"."""

    parser: Any = None
    failure: Failure | None = None
    crawl_delay: float = 0.0

    def check(self, url: str, token: str) -> None:
        """Raise Failure when `url` must not be fetched."""
        if self.failure is not None:
            raise Failure(self.failure.status, self.failure.detail)
        if self.parser is not None and not self.parser.can_fetch(url, token):
            raise Failure(DownloadStatus.robots_disallowed, "robots.txt disallows this path")


ALLOW_ALL = RobotsRules()


def robots_rules(text: str, token: str) -> RobotsRules:
    """The rules of a robots.txt that could be read."""
    from protego import Protego

    parser = Protego.parse(_without_other_robots(text, token))
    delay = parser.crawl_delay(token)
    return RobotsRules(parser, None, min(float(delay or 0), MAX_CRAWL_DELAY_S))


def _without_other_robots(text: str, token: str) -> str:
    """`text` with every robot but `token` and `*` under one name.

    The parser keeps the rules of a group once for each robot that the group names: a file of 12,000 robots and 12,000
    rules would take minutes and gigabytes. And it takes `lava` for `lavabeam`, but not `lavabeam/1.0`.
    """

    def renamed(line: str) -> str:
        found = _USER_AGENT.match(line)
        if not found:
            return line
        # RFC 9309 section 2.2.1: the product token alone counts, without regard to case.
        product = found["name"].partition("/")[0].strip()
        if product.strip("*").lower() == token.lower():
            return f"User-agent: {token}"
        return line if product in ("", "*") else "User-agent: (another)"

    return "\n".join(map(renamed, text.splitlines()))


def robots_rules_without(failure: Failure) -> RobotsRules:
    """The rules of an origin whose robots.txt could not be had (RFC 9309 section 2.3.1).

    4xx: there are none, everything is allowed (2.3.1.3). 5xx, 429 and an unreachable server: everything is disallowed
    for now (2.3.1.4). A host that cannot be reached at all, or must not be, fails the row with that very reason.
    """
    if failure.status in _NO_ROBOTS:
        return ALLOW_ALL
    if failure.status in _SAME_FOR_THE_ROW:
        return RobotsRules(failure=failure)
    return RobotsRules(failure=Failure(DownloadStatus.robots_unreachable, f"robots.txt: {failure.detail}"))


_NO_ROBOTS = frozenset(
    {
        DownloadStatus.not_found,
        DownloadStatus.gone,
        DownloadStatus.forbidden,
        DownloadStatus.client_error,
        DownloadStatus.too_many_redirects,  # 2.3.1.2: after five redirects it may be treated as unavailable
        DownloadStatus.empty,
    }
)
_SAME_FOR_THE_ROW = frozenset(
    {DownloadStatus.dns, DownloadStatus.connection, DownloadStatus.tls, DownloadStatus.private_address}
)
