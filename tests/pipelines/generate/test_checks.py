import pytest

from pipelines.generate.checks import check_pairs
from pipelines.generate.claims import contradiction
from pipelines.generate.statuses import GenerateStatus
from pipelines.llm.answer import AnswerStatus
from pipelines.llm.context import Box, Known
from pipelines.llm.prompts import load_prompt
from pipelines.llm.reading.language import is_other_language
from pipelines.llm.reading.refusal import check_refusal
from pipelines.llm.reading.rejected import Rejected

DOG, CAT = Box("dog", 0.0, 0.2, 0.2, 0.5), Box("cat", 0.7, 0.2, 0.9, 0.5)
PEOPLE = (Box("person", 0.1, 0.1, 0.2, 0.9), Box("person", 0.6, 0.1, 0.7, 0.9), Box("person", 0.8, 0.1, 0.9, 0.9))
SCENE = Known("k", ("A dog looks at a cat.",), (DOG, CAT, *PEOPLE))
SHAPE = Known("k", (), (), {"color": "teal", "shape": "triangle"})
EMPTY = Known("k")


def status_of(pairs, known=EMPTY, language="en"):
    try:
        check_pairs(pairs, known, language)
    except Rejected as rejected:
        assert rejected.detail
        return rejected.status
    return AnswerStatus.ok


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot see images.",
        "Sorry, but I cannot do that.",
        "As an AI language model, I do not see.",
        "I cannot assist with this request.",
        "I am unable to view the picture.",
        "I apologize, but no.",
        "Unfortunately, I can't view images.",
        "I can't see the picture that you mean.",
        "I don't have the ability to look at pictures.",
        "As a large language model, I do not see.",
    ],
)
def test_refusals_are_found(text):
    with pytest.raises(Rejected) as caught:
        check_refusal(text)
    assert caught.value.status is AnswerStatus.refused


@pytest.mark.parametrize(
    "text",
    [
        "A sign says: I'm sorry, we are closed.",
        "I can see a dog.",
        "The man cannot see the ball.",
        "I see a sorry sight.",
        "I can't see anyone there; both people are standing.",
        "I'm not able to tell the exact time, but it seems to be late.",
        "I cannot identify the breed from here.",
        "As an assistant of the shepherd, the dog keeps watch.",
    ],
)
def test_quoted_or_similar_words_are_no_refusal(text):
    check_refusal(text)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("The caption says that a dog is there.", GenerateStatus.mentions_notes),
        ("Its bounding box is on the left.", GenerateStatus.mentions_notes),
        ("At the coordinates 0.1, 0.2.", GenerateStatus.mentions_notes),
        ("According to the description, it rains.", GenerateStatus.mentions_notes),
        ("A boxer stands in a corner of the ring.", AnswerStatus.ok),
        ("A note lies on the table.", AnswerStatus.ok),
        ("The first caption mentions a dog.", GenerateStatus.mentions_notes),
        ("A dog at (0.12, 0.41, 0.38, 0.66).", GenerateStatus.mentions_notes),
        ("Based on the given information, it rains.", GenerateStatus.mentions_notes),
        ("The players coordinate their movements.", AnswerStatus.ok),
        ("A photograph with a caption below it.", AnswerStatus.ok),
        ("She reads the coordinates from her map.", AnswerStatus.ok),
        ("According to the text on the sign, drivers must stop.", AnswerStatus.ok),
        ("It costs 0.99, or 1.50 with a drink.", AnswerStatus.ok),
    ],
)
def test_the_answer_speaks_of_the_picture_and_not_of_notes(answer, status):
    assert status_of([("What is there?", answer)]) is status


def test_a_word_of_the_picture_itself_is_no_note():
    meme = Known("k", ("A cartoon with a funny caption.",))
    assert status_of([("What is there?", "A cartoon with a caption.")], meme) is AnswerStatus.ok


def test_the_same_question_twice():
    pairs = [("What is it?", "A dog."), ("what is it", "It is a dog.")]
    assert status_of(pairs) is GenerateStatus.duplicate_question
    assert status_of([*pairs[:1], ("Where is it?", "Outside.")]) is AnswerStatus.ok


@pytest.mark.parametrize(
    ("text", "language", "other"),
    [
        ("Der Hund sitzt auf dem Stuhl und ist nicht allein mit der Katze.", "en", True),
        ("Le chien est sur la chaise et le chat est dans le jardin avec une balle.", "en", True),
        ("一只狗坐在椅子上，旁边有一只猫", "en", True),
        ("The dog sits on the chair and looks at the cat by the window.", "en", False),
        ("No. No. No. Do dogs do so? As dogs do, no.", "en", False),
        ("In a box. In a car. In a van. In a bus.", "en", False),
        ("The sign of the café Le Monde is red, and it is in Paris.", "en", False),
        ("Teal.", "en", False),
        ("The dog sits on the chair and this is what it likes to do.", "de", True),
        ("Der Hund sitzt auf dem Stuhl und ist nicht allein mit der Katze.", "de", False),
        ("", "en", False),
        ("1234 5678", "en", False),
    ],
)
def test_the_language(text, language, other):
    assert (is_other_language(text, language) is not None) is other


def test_the_language_of_a_conversation():
    german = [("Was ist das?", "Das ist der Hund auf dem Stuhl und er ist nicht allein.")]
    assert status_of(german) is GenerateStatus.wrong_language
    assert status_of(german, language="de") is AnswerStatus.ok
    assert status_of(german, language=None) is AnswerStatus.ok


@pytest.mark.parametrize(
    ("question", "answer", "found"),
    [
        # counts
        ("How many people are there?", "There are two people.", "says 2 person, known are 3"),
        ("How many people are in the picture?", "Five.", "says 5 person, known are 3"),
        ("How many people are there?", "Three.", None),
        ("What do you see?", "There are two people in the image.", "says 2 person, known are 3"),
        ("What do you see?", "There are two people on the right.", None),
        ("What do you see?", "There are 9 people.", None),
        ("How many birds are there?", "Two.", None),
        ("How many people can you see in the image?", "I can see two people.", "says 2 person, known are 3"),
        ("How many people do you see?", "Three.", None),
        ("How many people can you see on the left?", "Two.", None),
        # presence
        ("Is there a dog in the picture?", "No, there is not.", "denies a dog that is known"),
        ("Are there any people?", "No.", "denies a person that is known"),
        ("Is there a dog on the sofa?", "No.", None),
        ("Is there a bird?", "No.", None),
        ("What is missing?", "There is no cat.", "denies a cat that is known"),
        ("What is missing?", "There is no cat on the roof.", None),
        # sides
        ("Where is it?", "The dog is on the right side of the image.", "puts the dog on the right"),
        ("Where is it?", "The dog is on the left.", None),
        ("Where is the dog?", "It is on the right.", "puts the dog on the right"),
        ("Where is the dog?", "It is on the left side of the picture.", None),
        ("Where is the food?", "It is on the right.", None),
        ("Is the dog to the right of the cat?", "Yes.", "puts the dog to the right of the cat"),
        ("Is the dog to the left of the cat?", "No, it is not.", "puts the dog to the right of the cat"),
        ("Is the dog on the left side of the cat?", "Yes, it is.", None),
        ("Is the dog to the right of the cat?", "No.", None),
        ("Where is it?", "The dog is on the right of a tree.", None),
        ("Where?", "The dog is to the right of the cat.", "puts the dog to the right of the cat"),
        ("Where?", "The cat is located to the right of the dog.", None),
        ("Where?", "The person is on the left.", None),
    ],
)
def test_claims_about_objects(question, answer, found):
    reported = contradiction(question, answer, SCENE)
    assert reported == found or (found and reported and reported.startswith(found))


@pytest.mark.parametrize(
    ("question", "answer", "found"),
    [
        ("What is it?", "It is a red triangle.", "says 'red', the color is 'teal'"),
        ("What colour is the triangle?", "The triangle is red.", "says 'red', the color is 'teal'"),
        ("What color is it?", "Red.", "says 'red', the color is 'teal'"),
        ("What shape is it?", "It is a circle.", "says 'circle', the shape is 'triangle'"),
        ("What is it?", "It is a teal triangle on a white background.", None),
        ("What color is the background?", "It is white.", None),
        ("What color is the background?", "White.", None),
        ("What is it?", "It is a square picture of a triangle.", None),
        ("What color is the thing in the picture?", "It is red.", "says 'red', the color is 'teal'"),
        ("Is it red?", "No, it is teal.", None),
        ("Is it a circle?", "No, it is not a circle.", None),
    ],
)
def test_claims_about_facts(question, answer, found):
    assert contradiction(question, answer, SHAPE) == found


def test_a_number_that_a_caption_gives_contradicts_nothing():
    """Boxes of people in the background, say: then the notes are of two minds."""
    known = Known("k", ("Two people walk a dog.",), PEOPLE)
    assert contradiction("How many people are there?", "There are two people.", known) is None
    assert contradiction("How many people are there?", "There are four people.", known)


def test_nothing_known_contradicts_nothing():
    assert contradiction("How many dogs are there?", "Seven.", EMPTY) is None


def test_a_contradiction_is_a_status():
    assert status_of([("How many people are there?", "Two.")], SCENE) is GenerateStatus.contradicts_context


ONE_SENTENCE = "They are going to a party. " * 6
LIVELY = "Two girls in red coats throw snowballs in a park, and the path behind them is white as far as one can see."


@pytest.mark.parametrize(
    ("pairs", "status"),
    [
        ([("What is it?", ONE_SENTENCE)], GenerateStatus.repetitive),
        ([("What is it?", LIVELY)], AnswerStatus.ok),
        ([("What?", "It is a ball of foam."), ("Where?", "It is a ball of foam.")], GenerateStatus.repetitive),
        ([("Who?", "Yes."), ("What?", "Yes."), ("Why?", "Yes.")], GenerateStatus.repetitive),
        ([("Is it red?", "Yes."), ("Is it big?", "Yes."), ("Is it old?", "No.")], AnswerStatus.ok),
        ([("Is it red?", "Yes."), ("Is it big?", "Yes.")], AnswerStatus.ok),
        ([("How many dogs?", "Two dogs."), ("How many cats?", "Two dogs.")], AnswerStatus.ok),
    ],
)
def test_repetition(pairs, status):
    assert status_of(pairs) == status


LONG = "It is a place where somebody lives who likes plants and reads much, and all of it looks calm and quiet."


@pytest.mark.parametrize(
    ("prompt", "text", "caption", "status"),
    [
        ("detail", f"A cat is taking a nap. It has curled up on the seat. {LONG}", "A red bus.", "echoes_example"),
        ("detail", f"A cat sleeps on a wooden chair beside a window. {LONG}", "A red bus.", "echoes_example"),
        ("detail", f"A cat sleeps on a wooden chair. {LONG}", "A cat sleeps on a wooden chair.", "ok"),
        ("detail", f"On the right side of the room there are two. {LONG}", "A red bus.", "ok"),
        ("reasoning", f"He is probably repairing the lamp, or changing its bulb. {LONG}", "A dog.", "echoes_example"),
        ("reasoning", f"Then answer it step by step, from what is visible, over what people know. {LONG}",
         "A dog.", "echoes_prompt"),
        ("detail", "A black cat sits on a windowsill.", "A black cat.", "too_little"),
        ("reasoning", "It is a bicycle. They are all the same price.", "A bicycle.", "too_little"),
        ("conversation", LONG, "A dog.", "too_little"),
        ("describe", "A dog.", "A dog.", "ok"),
    ],
)  # fmt: skip
def test_what_a_prompt_shows_and_asks_for(prompt, text, caption, status):
    try:
        check_pairs([("What?", text)], Known("k", (caption,)), "en", load_prompt(prompt))
    except Rejected as rejected:
        assert rejected.status == status
    else:
        assert status == "ok"


@pytest.mark.parametrize(
    ("question", "answer", "caption", "contradicts"),
    [
        ("Is there a dog?", "No.", "A dog rests.", True),
        ("Is there a dog in the picture?", "No, there is not.", "A man with two dogs on a leash.", True),
        ("Are there any people?", "No.", "Two people on a bench.", True),
        ("What stands there?", "There is no umbrella in the image.", "A man holds an umbrella.", True),
        ("It is a German shepherd", "No", "A German shepherd lies on the porch.", True),
        ("Is it a German shepherd?", "No, it is a poodle.", "A German shepherd lies on the porch.", True),
        ("Is there a dog?", "Yes.", "A dog rests.", False),
        ("Is it a cat?", "No, it is the dog.", "A dog looks at a cat.", False),
        ("Is there a horse?", "No.", "A horse statue stands in a park.", False),
        ("Is there a dog?", "No.", "Dog houses in a row.", False),
        ("Is there a dog?", "No.", "A hot dog on a plate.", False),
        ("Is there a horse?", "No.", "A toy horse.", False),
        ("Are there any people?", "No.", "A street without any people.", False),
        ("Is there a dog on the couch?", "No.", "A dog on the floor.", False),
        ("Is there a cat?", "No.", "A dog.", False),
    ],
)
def test_a_caption_that_names_a_thing_answers_whether_it_is_there(question, answer, caption, contradicts):
    found = status_of([(question, answer)], Known("k", (caption,)))
    assert found == (GenerateStatus.contradicts_context if contradicts else AnswerStatus.ok)
