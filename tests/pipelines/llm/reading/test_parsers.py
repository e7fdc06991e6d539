import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.llm.reading.parsers import MOST_CHARACTERS, parse_json, parse_pair, parse_text, parse_turns
from pipelines.llm.reading.rejected import NO_ANSWER, Rejected

PAIRS = [
    ("What is the cat doing?", "It sleeps on a chair."),
    ("Describe the chair: what is it made of?", "Of wood.\n\nIt looks old, and A: it is brown."),
]
LABELLED = {
    "as asked": "Question: {}\nAnswer: {}\n\nQuestion: {}\nAnswer: {}",
    "label on its own line, ruled": "Question:\n{}\n===\nAnswer:\n{}\n===\nQuestion:\n{}\n===\nAnswer:\n{}\n===",
    "letters": "Q: {}\nA: {}\nQ: {}\nA: {}",
    "numbered": "Q1: {}\nA1: {}\n\nQ2: {}\nA2: {}",
    "numbered list": "1. Question: {}\n   Answer: {}\n2. Question: {}\n   Answer: {}",
    "bold": "**Question:** {}\n\n**Answer:** {}\n\n**Question:** {}\n\n**Answer:** {}",
    "bold words": "**Question**: {}\n**Answer**: {}\n---\n**Question**: {}\n**Answer**: {}",
    "headings": "### Question 1: {}\n### Answer 1: {}\n### Question 2: {}\n### Answer 2: {}",
    "headings of their own": "### Question 1\n{}\n### Answer 1\n{}\n\n## **Question 2**\n{}\n## **Answer 2:**\n{}",
    "bold headings": "**Question**\n{}\n**Answer**\n{}\n**Question**\n{}\n**Answer**\n{}",
    "tags": "<question>{}</question><answer>{}</answer>\n<question>{}</question>\n<answer>\n{}\n</answer>",
    "roles": "User: {}\nAssistant: {}\nUser: {}\nAssistant: {}",
    "capitals": "QUESTION: {}\nANSWER: {}\nQUESTION: {}\nANSWER: {}",
    "preface": "Sure! Here is the conversation:\n\nQuestion: {}\nAnswer: {}\n\nQuestion: {}\nAnswer: {}",
    "fence": "```\nQuestion: {}\nAnswer: {}\n\nQuestion: {}\nAnswer: {}\n```",
    "greeting and farewell": "Certainly! Here you go:\n\nQuestion: {}\nAnswer: {}\n\nQuestion: {}\nAnswer: {}\n\n"
    "I hope this helps! Let me know if you need more.",
    "bold whole questions": "**Q: {}**\n\nA: {}\n\n**Q: {}**\n\nA: {}",
    "divided": "**Exchange 1**\nQuestion: {}\nAnswer: {}\n\n**Exchange 2**\nQuestion: {}\nAnswer: {}",
    "German": "Frage: {}\nAntwort: {}\n\nFrage: {}\nAntwort: {}",
    "French": "Question : {}\nRéponse : {}\nQuestion : {}\nRéponse : {}",
    "Chinese": "问题：{}\n回答：{}\n问题：{}\n回答：{}",
    "Windows": "Question: {}\r\nAnswer: {}\r\n\r\nQuestion: {}\r\nAnswer: {}\r\n",
    "quoted": 'Question: "{}"\nAnswer: {}\nQuestion: "{}"\nAnswer: {}',
    "observer": "Curious person: {}\nObserver: {}\nCurious person: {}\nObserver: {}",
    "wide colon": "Question：{}\nAnswer：{}\nQuestion：{}\nAnswer：{}",
}


@pytest.mark.parametrize("form", LABELLED)
def test_labelled_turns_in_any_notation(form):
    text = LABELLED[form].format(*[part for pair in PAIRS for part in pair])
    assert parse_turns(text) == PAIRS


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"question": question, "answer": answer} for question, answer in PAIRS]),
        json.dumps({"pairs": [{"Question": question, "Answer": answer} for question, answer in PAIRS]}),
        json.dumps([{"from": "human", "value": PAIRS[0][0]}, {"from": "gpt", "value": PAIRS[0][1]}])[:-1]
        + ", "
        + json.dumps([{"role": "user", "content": PAIRS[1][0]}, {"role": "assistant", "content": PAIRS[1][1]}])[1:],
        "\n".join(json.dumps({"question": question, "answer": answer}) for question, answer in PAIRS),
        "Here is the list [as asked]:\n" + json.dumps([{"q": q, "a": a} for q, a in PAIRS]) + "\nEnjoy!",
        json.dumps([{"q": question, "a": answer} for question, answer in PAIRS]).replace("\\n", "\n"),
        "```json\n" + json.dumps([{"q": question, "a": answer} for question, answer in PAIRS]) + "\n```",
    ],
)
def test_turns_as_json(text):
    assert parse_turns(text) == PAIRS


def test_paragraphs_in_turn():
    assert parse_turns("What is it?\n\nA cat.\n\nOn a chair.\n\nIs it big?\nNo.") == [
        ("What is it?", "A cat.\n\nOn a chair."),
        ("Is it big?", "No."),
    ]


@pytest.mark.parametrize(
    "form",
    [
        "1. **{}**\n   {}\n\n2. **{}**\n   {}",
        "**{}**\n{}\n\n**{}**\n{}",
        "1. {}\n   - {}\n2. {}\n   - {}",
        "**Question 1: {}**\n{}\n\n**Question 2: {}**\n{}",
        "Sure! Here is the conversation:\n\n{}\n\n{}\n\n{}\n\n{}",
        "Question: {} Answer: {}\nQuestion: {} Answer: {}",
    ],
)
def test_questions_whose_answers_bear_no_label(form):
    parts = ("What is he doing?", "He rides a horse.", "Where is he?", "On a beach.")
    assert parse_turns(form.format(*parts)) == [parts[:2], parts[2:]]


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (
            "Question: What is it?\nAnswer: Toys:\n- Model: a car\n- Person: none\nQuestion: Where?\nAnswer: There.",
            [("What is it?", "Toys:\n- Model: a car\n- Person: none"), ("Where?", "There.")],
        ),
        ("Question: Which?\nA. a dog\nB. a cat\nAnswer: A", [("Which?\nA. a dog\nB. a cat", "A")]),
        ("Question: What?\nAnswer: **A cat** on **the mat**.", [("What?", "**A cat** on **the mat**.")]),
    ],
)
def test_words_that_are_labels_elsewhere_are_words_here(text, pairs):
    assert parse_turns(text) == pairs


@pytest.mark.parametrize("gap", ["\n", "\n\n"])
def test_an_order_is_a_question_too(gap):
    assert parse_turns(f"Describe the image in detail.{gap}A cat sleeps.") == [
        ("Describe the image in detail.", "A cat sleeps.")
    ]


def test_a_question_left_without_an_answer_is_left_out():
    assert parse_turns("Question: One?\nAnswer: Yes.\nQuestion: Two?") == [("One?", "Yes.")]


@pytest.mark.parametrize("text", ["", "  \n", "I do not know.", "Answer: Yes.", "Question: What?", "[]", "{}"])
def test_no_question_with_an_answer_is_a_reason(text):
    with pytest.raises(Rejected) as caught:
        parse_turns(text)
    assert caught.value.status == NO_ANSWER


def test_a_pair_is_the_first():
    assert parse_pair("Question: Why?\nAnswer: So.\nQuestion: How?\nAnswer: Thus.") == [("Why?", "So.")]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("A cat sleeps.", "A cat sleeps."),
        ("Sure, here is a detailed description:\n\nA cat sleeps.", "A cat sleeps."),
        ("**Description:** A cat sleeps.\n\nIt is grey.", "A cat sleeps.\n\nIt is grey."),
        ("```\nA cat sleeps.\n```", "A cat sleeps."),
        ("# Detailed Description\n\nA cat sleeps.", "A cat sleeps."),
        ("**Image Description**\n\nA cat sleeps.", "A cat sleeps."),
        ("Caption: A cat sleeps.", "A cat sleeps."),
        ('"A cat sleeps."', "A cat sleeps."),
        ("Sure! Here is a description of the image: A cat sleeps.", "A cat sleeps."),
        ("A cat sleeps.\n\nLet me know if you would like more details!", "A cat sleeps."),
        ("A cat says 'let me know'.", "A cat says 'let me know'."),
        ("Here is a cat: it sleeps.", "Here is a cat: it sleeps."),
    ],
)
def test_a_text_loses_only_its_wrapping(text, plain):
    assert parse_text(text) == plain


def test_an_empty_text_is_a_reason():
    with pytest.raises(Rejected, match="the answer is empty"):
        parse_text("Answer:  ")


@pytest.mark.parametrize("text", ['{"a": [1]}', 'So: {"a": [1]} I hope this helps.', '```json\n{"a": [1]}\n```'])
def test_json_is_found_in_its_surroundings(text):
    assert parse_json(text) == {"a": [1]}


def test_no_json_is_an_error():
    with pytest.raises(ValueError, match="no JSON in"):
        parse_json("nothing here")


words = st.text(st.characters(categories=["Ll", "Lu", "Nd"], include_characters=" ,'"), min_size=1).map(str.strip)
sentences = words.filter(bool).map(lambda text: f"x {text}.")


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=5))
def test_what_was_asked_for_is_never_lost(pairs):
    text = "\n\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)
    assert parse_turns(text) == pairs


@given(st.text())
def test_no_text_at_all_raises_anything_but_a_reason(text):
    try:
        assert all(question and answer for question, answer in parse_turns(text))
    except Rejected as rejected:
        assert rejected.status == NO_ANSWER


@pytest.mark.parametrize("parse", [parse_turns, parse_text])
def test_an_answer_too_long_for_any_conversation_is_not_read(parse):
    with pytest.raises(Rejected, match="the answer has 32769 characters; at most 32768 are parsed"):
        parse("a" * (MOST_CHARACTERS + 1))
    with pytest.raises(ValueError, match="at most 32768"):
        parse_json("[" * (MOST_CHARACTERS + 1))
