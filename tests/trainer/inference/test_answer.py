"""Asking a checkpoint: batches do not change answers, conversations, the size of a batch."""

from dataclasses import replace

import pytest
import torch

from schemas.errors import InputError
from tests.trainer.conftest import picture
from trainer.inference import prompting
from trainer.inference.answer import Answerer
from trainer.inference.batches import Batches, cache_bytes
from trainer.inference.chat import Conversation
from trainer.inference.prompts import Answer, Prompt, question


def test_a_batch_padded_on_the_left_answers_like_one_at_a_time(answerer):
    texts = ("what color is it?", "is it red?", "red", "say something about the picture and then some more of it")
    prompts = [question(text, (picture(number),) if number % 2 else ()) for number, text in enumerate(texts)]
    together = answerer.answer(prompts, max_tokens=6)
    assert together == [answerer.answer([prompt], max_tokens=6)[0] for prompt in prompts]


def test_a_short_prompt_beside_a_long_one_has_as_much_room_as_alone(answerer):
    """A batch ends where its longest row reaches the model's last position."""
    short, long = question("red"), question("is it red? " * 18)
    room = answerer.prompting.folder.positions - len(answerer.prompting.row(0, long, {}).ids)
    assert 0 < room < 40
    alone = answerer.answer([short], max_tokens=60)
    assert len(answerer.prompting.tokenizer.encode(alone[0].text, first=False).ids) > room
    assert answerer.answer([long, short], max_tokens=60)[1:] == alone


def test_prepared_pictures_are_kept_within_bounds(answerer, monkeypatch):
    one = answerer.prompting.picture(picture(50), 1)
    monkeypatch.setattr(prompting, "KEPT_BYTES", 3 * (one.pixels.nbytes + len(picture(50))))
    answerer.answer([question("red", (picture(number),)) for number in range(60, 70)], max_tokens=1, batch=4)
    assert 1 <= len(answerer.prompting._seen) <= 3
    assert answerer.prompting._seen_bytes == sum(prompting.held(*kept) for kept in answerer.prompting._seen.items())


def test_an_answer_ends_at_the_stop_token(answerer):
    end = answerer.prompting.tokenizer.eos_id
    word = answerer.prompting.tokenizer.encode(" red", first=False).ids
    assert answerer.prompting.text([*word, end, *word]) == "red"


def test_greedy_answers_are_the_models_likeliest_tokens(answerer):
    prompt = question("is it red?", (picture(3),))
    row = answerer.prompting.row(0, prompt, {})
    shown = replace(row, pictures=tuple(answerer.prompting.pictures(prompt)))
    inputs = {
        "input_ids": torch.tensor(row.ids[None].astype("int64")),
        **answerer.prompting.pixels([shown], torch.float32),
    }
    with torch.no_grad():
        likeliest = int(answerer.loaded.model(**inputs).logits[0, -1].argmax())
    assert answerer.answer([prompt], max_tokens=1) == [Answer(answerer.prompting.text([likeliest]))]


@pytest.fixture
def conversation(tiny):
    return Conversation(tiny / "model")


def test_a_conversation_goes_on_with_its_history_and_its_pictures(conversation, answerer):
    conversation.show(picture(1))
    first = conversation.ask("what color is it?", max_tokens=4)
    assert first == answerer.answer([question("what color is it?", (picture(1),))], max_tokens=4)[0].text
    conversation.show(picture(2))
    second = conversation.ask("is it red?", max_tokens=4)
    asked, again = question("what color is it?", (picture(1),)), question("is it red?", (picture(2),))
    said = {"role": "assistant", "content": [{"type": "text", "text": first}]}
    whole = Prompt([*asked.messages, said, *again.messages], (picture(1), picture(2)))
    assert second == answerer.answer([whole], max_tokens=4)[0].text
    conversation.forget()
    text_only = answerer.answer([question("is it red?")], max_tokens=4)[0].text
    assert conversation.ask("is it red?", max_tokens=4) == text_only


def test_what_goes_wrong_is_reported_and_leaves_the_conversation_as_it_was(conversation, tmp_path):
    conversation.show(picture(1))
    expected = conversation.ask("is it red?", max_tokens=4)
    conversation.forget()
    with pytest.raises(InputError, match=r"none\.png: no such image file"):
        conversation.show(tmp_path / "none.png")
    with pytest.raises(InputError, match="letter: picture of 5 bytes cannot be decoded"):
        conversation.show(b"hello", "letter")
    conversation.show(picture(1))
    with pytest.raises(InputError, match="Shorten it"):
        conversation.ask("is it red? " * 200)
    assert conversation.ask("is it red?", max_tokens=4) == expected


def test_pictures_stand_where_the_text_shows_them(answerer):
    images = (picture(1), picture(2))
    first = question("is it red?", images)
    assert first.messages == question("<image>\n<image>\nis it red?", images).messages[:0] + first.messages
    inside = question("this <image> or that <image>?", images)
    kinds = [part["type"] for part in inside.messages[0]["content"]]
    assert kinds == ["text", "image", "text", "image", "text"]
    assert [part["type"] for part in question("say <image>").messages[0]["content"]] == ["text"]
    one, two = question("<image>\nis it red?", images[:1]), question("is it red?", images[:1])
    assert (answerer.prompting.row(0, one, {}).ids == answerer.prompting.row(0, two, {}).ids).all()
    assert question("<image>?", images).refused.status == "bad_question"


def test_a_batch_that_does_not_fit_the_memory_is_halved(tiny, monkeypatch):
    answerer, sizes = Answerer(tiny / "model", device="cpu"), []
    whole = answerer._generated

    def generated(rows, max_tokens):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("no room")
        return whole(rows, max_tokens)

    prompts = [question(f"is it red? {number}") for number in range(20)]
    expected = answerer.answer(prompts, max_tokens=2)
    monkeypatch.setattr(answerer, "_generated", generated)
    assert answerer.answer(prompts, max_tokens=2) == expected
    assert sizes[:4] == [20, 10, 5, 3] and max(sizes[4:]) <= 10
    sizes.clear()
    assert answerer.answer(prompts, max_tokens=2) == expected
    assert max(sizes) <= 3


def test_the_default_batch_is_what_the_memory_holds(monkeypatch):
    text = {"hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32, "intermediate_size": 11008}
    # Keys and values of Llama-2-7B in bf16: 2 x 32 layers x 4096 x 2 bytes, 512 KiB per token.
    assert cache_bytes(text, 2) == 512 << 10
    assert cache_bytes({**text, "num_key_value_heads": 8}, 2) == 128 << 10
    batches = Batches(text, 2, torch.device("cpu"))
    monkeypatch.setattr(batches, "_free", lambda: 64 << 30)
    fitting = batches.size([100] * 300, 540, None)
    assert fitting * 640 * batches.token_bytes <= 16 << 30 < (fitting + 1) * 640 * batches.token_bytes
    assert batches.size([100] * 300, 540, 1000) == 256
    assert batches.size([10**6], 1, None) == 1
    assert batches.size([1] * 5, 1, None) == 5
