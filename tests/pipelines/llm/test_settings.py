import pytest

from pipelines.llm.answer import Usage
from pipelines.llm.client import LlmClient, open_http
from pipelines.llm.masking import Secrets
from pipelines.llm.prices import Price, find_price
from pipelines.llm.settings import EndpointConfig
from schemas.config import parse
from schemas.errors import InputError


def test_where_and_how_fast_is_no_part_of_the_identity():
    slow = EndpointConfig(model="m", provider="p", base_url="http://localhost:1/v1", concurrency=1, max_cost=1.0)
    fast = EndpointConfig(model="m", provider="p", base_url="http://localhost:2/v1", concurrency=64)
    assert slow.identity() == fast.identity()
    assert slow.identity() != EndpointConfig(model="m", provider="p", temperature=0.1).identity()


def test_an_address_needs_a_name():
    with pytest.raises(InputError, match="base_url is given without provider"):
        parse({"model": "m", "base_url": "http://localhost/v1"}, EndpointConfig, where="recipe.yaml")


def test_the_output_limit_has_the_name_that_the_server_knows():
    assert EndpointConfig(model="gpt-4o-mini").limit_field == "max_completion_tokens"
    assert EndpointConfig(model="m", provider="vllm").limit_field == "max_tokens"
    assert EndpointConfig(model="m", provider="vllm", output_limit_field="max_completion_tokens").limit_field == (
        "max_completion_tokens"
    )


def test_a_listed_price_is_frozen_into_the_configuration():
    # genai-prices: 0.15, 0.075 (cached) and 0.60 USD per million tokens.
    assert EndpointConfig(model="gpt-4o-mini").price == Price(input=0.15, output=0.6, cached_input=0.075)
    assert EndpointConfig(model="my-own", provider="vllm").price is None
    own = Price(input=0, output=0)
    assert EndpointConfig(model="gpt-4o-mini", price=own).price == own


def test_of_a_price_in_tiers_the_dearest_counts():
    # genai-prices: gemini-2.5-pro costs 1.25 / 10 below 200k tokens and 2.50 / 15 above.
    price = find_price("google", "gemini-2.5-pro")
    assert (price.input, price.output) == (2.5, 15.0)


def test_cached_input_is_cheaper():
    price = Price(input=2.0, output=10.0, cached_input=0.5)
    assert price.cost(Usage(1_000_000, 100_000, cached_input=400_000)) == pytest.approx(1.2 + 0.2 + 1.0)
    assert price.scaled(0.5) == Price(input=1.0, output=5.0, cached_input=0.25)


def test_no_key_for_a_paid_provider_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        LlmClient(EndpointConfig(model="gpt-4o-mini", cache=str(tmp_path)), "b")


@pytest.mark.parametrize(
    ("extra", "remedy"),
    [
        ({"n": 4}, "Leave it out"),
        ({"stream": True}, "Leave it out"),
        ({"max_tokens": 9999}, "Set max_output_tokens instead"),
        ({"temperature": 1}, "Set temperature instead of extra"),
    ],
)
def test_extra_cannot_escape_the_caps(extra, remedy):
    with pytest.raises(InputError, match=remedy):
        parse({"model": "m", "extra": extra}, EndpointConfig, where="recipe.yaml")


def test_no_temperature_is_not_sent():
    assert "temperature" not in EndpointConfig(model="m", temperature=None).request_parameters()
    assert EndpointConfig(model="m", extra={"top_p": 0.5}).request_parameters() == {"temperature": 0.7, "top_p": 0.5}


def test_an_empty_key_is_no_key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "")
    with pytest.raises(InputError, match="OPENAI_API_KEY is not set"):
        open_http(EndpointConfig(model="gpt-4o-mini"), Secrets(()))
