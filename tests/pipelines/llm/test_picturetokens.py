"""Tokens of pictures, at the sizes that the providers' own pages work through."""

import io

import pytest
from PIL import Image

from pipelines.llm.estimate import estimate_requests
from pipelines.llm.picturetokens import rule_for
from pipelines.llm.request import ChatRequest, Message
from pipelines.llm.settings import EndpointConfig


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("gpt-4o", (1024, 1024), 765),
        ("gpt-4o-2024-11-20", (2048, 4096), 1105),
        ("openai/gpt-4o", (512, 512), 255),
        ("gpt-4o-mini", (1024, 1024), 25_501),
        ("gpt-4.1", (1024, 1024), 765),
        ("gpt-4.1-mini", (1024, 1024), 1659),
        ("gpt-4.1-mini", (1800, 2400), 2353),
        ("gpt-5-nano", (32, 32), 3),
        ("claude-sonnet-4", (200, 200), 54),
        ("claude-sonnet-4", (1000, 1000), 1334),
        ("claude-sonnet-4", (8000, 6000), 1600),
        ("gemini-2.5-flash", (300, 384), 258),
        ("gemini-2.5-flash", (960, 540), 1548),
        ("qwen2.5-vl-7b-instruct", (336, 336), 146),
        ("llava-1.5-7b", (336, 336), 576),
    ],
)
def test_a_picture_costs_what_the_provider_says(model, size, tokens):
    assert rule_for(model)(*size) == tokens


def test_a_model_that_nobody_documents_has_no_rule():
    assert rule_for("my-model") is None


@pytest.mark.parametrize(
    ("model", "given", "tokens"), [("gpt-4o-mini", None, 8500), ("my-model", None, 2000), ("my-model", 600, 600)]
)
def test_an_estimate_expects_them_and_reserves_more(model, given, tokens, tmp_path):
    """gpt-4o-mini's picture of 300 x 200: 2,833 and one tile of 5,667; its cap reserves 48,169."""
    file = io.BytesIO()
    Image.new("RGB", (300, 200)).save(file, "PNG")
    settings = EndpointConfig(model=model, provider="p", cache=str(tmp_path), tokens_per_image=given)
    request = ChatRequest("p", model, (Message("user", "x" * 40, (file.getvalue(),)),), 100, prompt="caption/1")
    found = estimate_requests(settings, [(request, 25)])
    assert found["input_tokens"] == 10 + tokens
    assert found["most_tokens"] > found["input_tokens"]
