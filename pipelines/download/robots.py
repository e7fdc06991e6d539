"""robots.txt: asked for once per origin, remembered while the worker lives."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from yarl import URL

from pipelines.download.optout import MAX_ROBOTS_BYTES, RobotsRules, robots_rules, robots_rules_without
from pipelines.download.statuses import Failure

KEPT_ORIGINS = 20_000
"""Origins whose rules are remembered; the least recently used is asked again."""

GetText = Callable[[URL], Awaitable[bytes]]


class RobotsCache:
    """Rules per origin. Rows that need the same ones wait for one request."""

    def __init__(self, get: GetText, token: str):
        self._get, self._token = get, token
        self._rules: OrderedDict[URL, asyncio.Future[RobotsRules]] = OrderedDict()

    async def rules(self, url: URL) -> RobotsRules:
        """The rules for the origin (scheme, host, port) of `url`; never raises Failure."""
        origin = url.origin()
        pending = self._rules.get(origin)
        if pending is None:
            pending = asyncio.ensure_future(self._fetch(origin))
            self._rules[origin] = pending
            if len(self._rules) > KEPT_ORIGINS:
                self._rules.popitem(last=False)
        else:
            self._rules.move_to_end(origin)
        if pending.done():
            return pending.result()
        # Shielded: a row that gives up must not take the answer from the others.
        return await asyncio.shield(pending)

    async def _fetch(self, origin: URL) -> RobotsRules:
        try:
            content = await self._get(origin.with_path("/robots.txt"))
        except Failure as failure:
            return robots_rules_without(failure)
        return robots_rules(content[:MAX_ROBOTS_BYTES].decode("utf-8", "replace"), self._token)
