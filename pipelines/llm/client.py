"""The client: a request in, an answer or a status out, never an exception."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from dataclasses import replace

import httpx2
import openai

from pipelines.engine.counting import Done, report
from pipelines.llm.address import address_of, proxy_of, route_of
from pipelines.llm.answer import Answer, AnswerStatus, Usage, as_response, read_response
from pipelines.llm.cache import AnswerCache
from pipelines.llm.failures import EXPECTED, Failure, explain
from pipelines.llm.ledger import Ledger, Spend
from pipelines.llm.masking import Secrets
from pipelines.llm.pacing import TokenBucket, Window
from pipelines.llm.prices import Price
from pipelines.llm.request import ChatRequest
from pipelines.llm.settings import EndpointConfig
from pipelines.llm.stores import Connection, open_store
from pipelines.llm.transport import Limits, ReplyTransport
from schemas.errors import InputError

# So many requests in a row that used up all their tries, without one that was answered: the server is away.
_GIVEN_UP_IN_A_ROW = 16


class LlmClient:
    """Asks one endpoint. Lives on one event loop; `ask` may be called any number of times at once.

    `budget` names the spend that the caps count (the dataset that is made); `workers` processes share the rate.
    `counts` tells what happened: requests sent, cached answers, tries by reason.
    """

    claim_poll_s = 0.05
    """How often a request looks again that waits for another one's claim or reservation to end."""

    def __init__(self, settings: EndpointConfig, budget: str, workers: int = 1):
        self.settings, self.counts = settings, Counter[str]()
        self._price = _price(settings)
        self.store = open_store(settings.cache)
        self.cache = AnswerCache(self.store)
        self.ledger = Ledger(self.store, budget, settings.caps)
        self._window = Window(max(1, settings.concurrency // workers))
        self._requests = TokenBucket(_share(settings.requests_per_minute, workers))
        self._tokens = TokenBucket(_share(settings.tokens_per_minute, workers))
        self.secrets = Secrets.of_environment(settings.api_key_env)
        self.http = open_http(settings, self.secrets)
        self.route = route_of(address_of(settings.base_url))
        """For people: the proxy on the way, if there is one."""
        self._asking: dict[str, asyncio.Task[Answer]] = {}
        self._staying = None if self.store.of_this_machine else asyncio.ensure_future(self.store.stay())
        self._stopped: Failure | None = None
        self._given_up = 0
        self._understated = 1.0
        self.structured = "json_schema" if settings.structured == "auto" else settings.structured

    async def ask(self, request: ChatRequest) -> Answer:
        """The answer to `request`: from the cache, or sent, or a status that says why there is none.

        The same request asked twice at once is sent once; the second asker's answer is marked as cached.
        """
        answer = await self._shared(self.cache.next_sample(request))
        if answer.received:
            report(Done(answers=1))
        return answer

    async def _shared(self, request: ChatRequest) -> Answer:
        key = request.key()
        running = self._asking.get(key)
        if running is not None:
            answer = await asyncio.shield(running)
            self.cache.count_hit(key)  # of no effect when there was no answer to keep
            return replace(answer, cached=True)
        task = asyncio.ensure_future(self._ask(key, request))
        self._asking[key] = task
        task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await task

    async def close(self) -> None:
        """Close connections and files; requests in flight are given up."""
        for task in list(self._asking.values()):
            task.cancel()
        if self._staying is not None:
            self._staying.cancel()
        self.cache.write_hits()
        await self.http.close()
        self.store.close()

    async def _ask(self, key: str, request: ChatRequest) -> Answer:
        most, tries = self._most(request), 0
        while True:
            known = self.cache.get(key)
            if known is not None:
                self.counts["cached"] += 1
                return known
            if self._stopped is not None:
                return Answer(self._stopped.status, detail=self._stopped.detail)
            reached = self.ledger.reached(self.reserved(most))
            if reached is not None:
                return Answer(AnswerStatus.budget_exhausted, detail=reached)
            outcome = await self.turn(key, request, most)
            if outcome is None:
                await asyncio.sleep(self.claim_poll_s)
                continue
            if isinstance(outcome, Answer):
                self._given_up = 0
                return outcome
            if outcome.schema_unsupported and self._falls_back(request):
                continue
            tries += 1
            self.counts[f"failed: {outcome.status}"] += 1
            wait = self.settings.patience.delay(tries, outcome.retry_after) if outcome.retry else None
            if wait is None:
                self._count_given_up(outcome)
                return Answer(outcome.status, detail=outcome.detail)
            await asyncio.sleep(wait)

    async def turn(self, key: str, request: ChatRequest, most: Spend) -> Answer | Failure | None:
        """Wait for a place, claim the request and send it; None when there was nothing to send after all."""
        await self._requests.take(1)
        await self._tokens.take(most.tokens)
        await self._window.enter()
        overload: bool | None = None
        try:
            if self._stopped is not None or not self.ledger.claim(key, self.reserved(most), request.prompt):
                self._requests.give_back(1)
                self._tokens.give_back(most.tokens)
                return self._stopped
            overload = True
            raw, answer = self.read(await self._send(request))
            overload = False
        except EXPECTED as error:
            failure = explain(error)
            overload = failure.overload
            self.end_failed(key, failure)
            return failure
        finally:
            self._window.leave(overload)
        return self.end_answered(key, request, raw, answer, most)

    async def _send(self, request: ChatRequest) -> str:
        body = request.body(self.settings.limit_field, self.structured)
        self.counts["sent"] += 1
        async with asyncio.timeout(self.settings.timeout_s):
            # `chat.completions.create` would walk through every part of the body: a third of a request's CPU time.
            response = await self.http.post("/chat/completions", body=body, cast_to=httpx2.Response)
            return response.text

    def read(self, raw: str) -> tuple[str, Answer]:
        """A reply as it may be kept, and as an Answer: the key does not occur in it, not even in parts."""
        answer = read_response(raw)
        hidden = self.secrets.hide(answer.text)
        if hidden == answer.text:
            return raw, answer
        answer = replace(answer, text=hidden)
        return as_response(answer), answer

    def end_answered(
        self, key: str, request: ChatRequest, raw: str, answer: Answer, most: Spend, owner: str | None = None
    ) -> Answer:
        """Store the answer, what it cost, and the end of its claim, all at once.

        `owner` is whose claim it is, where that is not this process.
        """
        cost = self._price.cost(answer.usage) if self._price and answer.usage else None
        answer = replace(answer, cost=cost)
        paid = self.reserved(most)
        if answer.usage is not None:
            used = answer.usage.input + answer.usage.output
            self._tokens.give_back(most.tokens - used)
            paid = Spend(1, used, cost or 0.0)
            shares = (used / most.tokens, paid.cost / most.cost if most.cost else 0.0)
            # A model whose pictures cost many tokens, or a server that ignores the output limit.
            self._understated = max(self._understated, *shares)
        names = (request.provider, request.model, request.prompt)

        def keep(connection: Connection) -> None:
            self.ledger.settle(connection, key, paid, owner)
            self.cache.put(connection, key, names, raw, answer)

        self.store.atomically(keep)
        return answer

    def end_failed(self, key: str, failure: Failure, owner: str | None = None) -> None:
        """End the claim of a request that brought no answer, and stop the others if it says so."""
        if failure.usage is not None:
            used = failure.usage.input + failure.usage.output
            cost = self._price.cost(failure.usage) if self._price else 0.0
            self.ledger.settle_unanswered(key, Spend(1, used, cost), owner)
        elif failure.may_be_billed:
            self.ledger.lose(key, owner)
        else:
            self.ledger.release(key, owner)
        if failure.stops_run:
            self._stopped = failure

    def reserved(self, most: Spend) -> Spend:
        """What a request that should cost at most `most` reserves: more, once the server has counted more than that."""
        return Spend(most.requests, round(most.tokens * self._understated), most.cost * self._understated)

    def _count_given_up(self, failure: Failure) -> None:
        """After many requests that no patience helped, the next ones are not sent: hours would pass for nothing."""
        self._given_up = self._given_up + 1 if failure.retry else 0
        if self._given_up == _GIVEN_UP_IN_A_ROW:
            detail = f"not sent, {self._given_up} consecutive requests got no answer; the last one: {failure.detail}"
            self._stopped = replace(failure, detail=detail)

    def _falls_back(self, request: ChatRequest) -> bool:
        """After a server refused a schema field: ask for the schema in words from now on, if that is allowed."""
        if request.schema is None or self.settings.structured != "auto":
            return False
        self.structured = "prompt"
        return True

    def _most(self, request: ChatRequest) -> Spend:
        """The most that the request can take: an upper bound of its input, and its whole output limit."""
        usage = Usage(request.most_input_tokens(self.settings.image_tokens), request.max_output_tokens)
        cost = self._price.cost(usage) if self._price else 0.0
        return Spend(1, usage.input + usage.output, cost)


def open_http(settings: EndpointConfig, secrets: Secrets) -> openai.AsyncOpenAI:
    """The official client over a transport of our own, which bounds and cleans what comes back."""
    key = os.environ.get(settings.api_key_env)
    if not key and settings.base_url is None:
        raise InputError(
            f"the environment variable {settings.api_key_env} is not set: it holds the key for {settings.provider}. "
            "Set it, or give the base_url of a server that needs none."
        )
    address = address_of(settings.base_url)
    limits = Limits(settings.max_reply_bytes, settings.timeout_s, settings.concurrency)
    # trust_env: the proxy is chosen by address.py, and no netrc is read.
    http = httpx2.AsyncClient(transport=ReplyTransport(limits, secrets, proxy_of(address)), trust_env=False)
    return openai.AsyncOpenAI(api_key=key or "none", base_url=address, max_retries=0, http_client=http)


def _price(settings: EndpointConfig) -> Price | None:
    if settings.max_cost is not None and settings.price is None:
        raise InputError(
            f"max_cost needs a price, and none is listed for model {settings.model!r} of provider "
            f"{settings.provider!r}. Give `price: {{input: ..., output: ...}}` in USD per million tokens "
            "(0 for your own model)."
        )
    return settings.price.scaled(0.5) if settings.price and settings.mode == "batch" else settings.price


def _share(rate: float | None, workers: int) -> float | None:
    return None if rate is None else rate / workers
