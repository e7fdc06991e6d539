"""Token prices: from the `genai-prices` tables, or given by the user for unlisted models."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from pydantic import Field

from pipelines.llm.answer import Usage
from schemas.config import StrictModel

_MILLION = 1_000_000


class Price(StrictModel):
    """USD per million tokens."""

    input: float = Field(ge=0)
    """For input tokens."""
    output: float = Field(ge=0)
    """For output tokens."""
    cached_input: float | None = Field(
        default=None, ge=0, description="for input tokens served from the provider's cache"
    )

    def cost(self, usage: Usage) -> float:
        """USD for what the server counted."""
        cached_rate = self.input if self.cached_input is None else self.cached_input
        fresh = usage.input - usage.cached_input
        total = fresh * self.input + usage.cached_input * cached_rate + usage.output * self.output
        return total / _MILLION

    def scaled(self, factor: float) -> Price:
        """The same price with a discount: 0.5 for half."""
        cached = None if self.cached_input is None else self.cached_input * factor
        return Price(input=self.input * factor, output=self.output * factor, cached_input=cached)


def find_price(provider: str, model: str) -> Price | None:
    """The listed price, or None for a model that the tables do not have.

    Where a price has tiers by length the dearest tier counts: a bound, so that a cap holds.
    """
    from genai_prices import Usage as PricedUsage
    from genai_prices import calc_price

    try:
        priced = calc_price(PricedUsage(input_tokens=1, output_tokens=1), model_ref=model, provider_id=provider)
    except LookupError:
        return None
    found = priced.model_price
    if found.input_mtok is None or found.output_mtok is None:
        return None
    cached = None if found.cache_read_mtok is None else _dearest(found.cache_read_mtok)
    return Price(input=_dearest(found.input_mtok), output=_dearest(found.output_mtok), cached_input=cached)


def _dearest(price: Any) -> float:
    if isinstance(price, Decimal):
        return float(price)
    return float(max([price.base, *(tier.price for tier in price.tiers)]))
