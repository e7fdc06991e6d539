"""robots.txt: fetched once per origin, cached for a day."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from yarl import URL

from pipelines.download.optout import MAX_ROBOTS_BYTES, RobotsRules, robots_rules, robots_rules_without
from pipelines.download.statuses import Failure

KEPT_ORIGINS = 20_000
"""Origins whose rules are remembered; the least recently used is asked again."""

KEPT_S = 24 * 3600.0
"""RFC 9309 section 2.4: a robots.txt should not be used for more than 24 hours."""
FAILURE_KEPT_S = 600.0
"""What could not be had is asked for again soon: an outage shall not cost a long run all of a host's rows."""

GetText = Callable[[URL], Awaitable[bytes]]


class RobotsCache:
    """Rules per origin. Rows that need the same ones wait for one request."""

    def __init__(self, get: GetText, token: str):
        self._get, self._token = get, token
        self._entries: OrderedDict[URL, _Entry] = OrderedDict()

    async def rules(self, url: URL) -> RobotsRules:
        """The rules for the origin (scheme, host, port) of `url`; never raises Failure."""
        origin = url.origin()
        entry = self._entries.get(origin)
        if entry is None or entry.until < asyncio.get_running_loop().time():
            entry = self._entries[origin] = _Entry(asyncio.ensure_future(self._fetch(origin)))
        self._entries.move_to_end(origin)
        if len(self._entries) > KEPT_ORIGINS:
            self._entries.popitem(last=False)
        if not entry.rules.done():
            # Shielded: a row that gives up must not take the answer from the others.
            await asyncio.shield(entry.rules)
        rules = entry.rules.result()
        if entry.until == math.inf:
            entry.until = asyncio.get_running_loop().time() + (FAILURE_KEPT_S if rules.failure else KEPT_S)
        return rules

    async def _fetch(self, origin: URL) -> RobotsRules:
        try:
            content = await self._get(origin.with_path("/robots.txt"))
        except Failure as failure:
            return robots_rules_without(failure)
        # In a thread: half a megabyte of rules takes a second, and others' bytes arrive meanwhile.
        text = content[:MAX_ROBOTS_BYTES].decode("utf-8-sig", "replace")
        return await asyncio.to_thread(robots_rules, text, self._token)


@dataclass
class _Entry:
    rules: asyncio.Future[RobotsRules]
    until: float = math.inf
    """When to ask again; known as soon as the rules are."""
