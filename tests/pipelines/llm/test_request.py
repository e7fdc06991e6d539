import base64
import dataclasses

from pipelines.llm.request import AnswerSchema, ChatRequest, Message

PNG = b"\x89PNG\r\n\x1a\n rest"
JPEG = b"\xff\xd8\xff rest"
WEBP = b"RIFF1234WEBPVP8 "
SCHEMA = AnswerSchema("pairs", {"type": "object"})
BASE = ChatRequest("p", "m", (Message("system", "s"), Message("user", "u", (PNG,))), 100, {"temperature": 0.5})


def test_the_key_is_the_content_and_stays_the_same_for_ever():
    assert BASE.key() == dataclasses.replace(BASE).key()
    assert BASE.key() == "bcb37daba18f08fc7cdfe84312bbd3dc1e1b5b4a773a35fabba7dbe1b66036dc"


def test_everything_that_can_change_the_answer_changes_the_key():
    changes = [
        {"provider": "q"},
        {"model": "n"},
        {"messages": (Message("system", "s"), Message("user", "v", (PNG,)))},
        {"messages": (Message("system", "s"), Message("user", "u", (JPEG,)))},
        {"messages": (Message("system", "s"), Message("user", "u"))},
        {"max_output_tokens": 101},
        {"parameters": {"temperature": 0.6}},
        {"parameters": {"temperature": 0.5, "top_p": 0.9}},
        {"schema": SCHEMA},
        {"sample": 1},
    ]
    keys = {dataclasses.replace(BASE, **change).key() for change in changes}
    assert len(keys | {BASE.key()}) == len(changes) + 1


def test_the_prompts_name_is_no_content():
    assert dataclasses.replace(BASE, prompt="detail/1").key() == BASE.key()


def test_the_body_is_what_the_api_reference_says():
    assert BASE.body("max_completion_tokens") == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {
                        "type": "image_url",
                        "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PNG).decode()}"},
                    },
                    {"type": "text", "text": "u"},
                ],
            },
        ],
        "max_completion_tokens": 100,
        "temperature": 0.5,
    }


def test_media_types_by_the_first_bytes():
    for image, kind in [(PNG, "png"), (JPEG, "jpeg"), (WEBP, "webp"), (b"GIF89a..", "gif")]:
        body = ChatRequest("p", "m", (Message("user", "u", (image,)),), 5).body()
        assert body["messages"][0]["content"][0]["image_url"]["url"].startswith(f"data:image/{kind};base64,")


def test_a_schema_is_a_response_format_or_words():
    asked = dataclasses.replace(BASE, schema=SCHEMA)
    strict = asked.body(structured="json_schema")["response_format"]
    assert strict == {
        "type": "json_schema",
        "json_schema": {"name": "pairs", "schema": {"type": "object"}, "strict": True},
    }
    assert asked.body(structured="json_object")["response_format"] == {"type": "json_object"}
    in_words = asked.body(structured="prompt")
    assert "response_format" not in in_words
    assert in_words["messages"][-1]["content"][-1]["text"].endswith('{"type": "object"}')


def test_another_sample_asks_with_another_seed():
    assert "seed" not in BASE.body()
    assert dataclasses.replace(BASE, sample=2).body()["seed"] == 2


def test_the_input_bound_covers_bytes_images_and_overhead():
    # 1 + 1 bytes of text, one image of 1000, two messages of 16, one request of 64.
    assert BASE.most_input_tokens(1000) == 2 + 1000 + 32 + 64
