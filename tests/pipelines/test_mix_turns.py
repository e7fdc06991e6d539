"""What a mix makes of the turns of a row."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.mix.recipe import MixSource, Suffix
from pipelines.mix.turns import merged, piece, pieces_of, rounds_of, with_suffix, without_pictures

WORDS = st.text("abc", max_size=3)
SHORT = "Answer with a word."


def text(value: str) -> dict:
    return {"type": "text", "text": value}


IMAGE = {"type": "image", "text": None}


def user(*parts: str) -> dict:
    return {"role": "user", "content": [IMAGE if part == "<image>" else text(part) for part in parts]}


def said(value: str) -> dict:
    return {"role": "assistant", "content": [text(value)]}


SYSTEM = {"role": "system", "content": [text("be brief")]}
TALK = [SYSTEM, user("<image>", "\nwhat?"), said("a cat"), user("where?"), said("here"), user("why?"), said("because")]


def source(**more) -> MixSource:
    return MixSource(conversations="talks", **more)


def plain(messages: list[dict]) -> list[str]:
    return [
        message["role"][0] + ":" + "".join("<image>" if part == IMAGE else part["text"] for part in message["content"])
        for message in messages
    ]


def test_a_row_per_round_shows_the_picture_in_each_and_keeps_the_system_message():
    made = pieces_of(TALK, source(turns="one"), "k", 0)
    assert [(one.mark, one.shown) for one in made] == [("#t1", 1), ("#t2", 1), ("#t3", 1)]
    assert plain(made[0].messages) == ["s:be brief", "u:<image>\nwhat?", "a:a cat"]
    assert plain(made[2].messages) == ["s:be brief", "u:<image>why?", "a:because"]


def test_a_row_of_one_round_keeps_its_key():
    (made,) = pieces_of(TALK[:3], source(turns="one"), "k", 0)
    assert (made.mark, made.messages) == ("", TALK[:3])


def test_a_later_round_shows_earlier_pictures_before_its_own():
    head, rounds = rounds_of([user("<image>", "a"), said("1"), user("b", "<image>"), said("2")])
    later = piece(head, rounds, 1, 2, "")
    assert (plain(later.messages), later.shown) == (["u:<image>b<image>", "a:2"], 2)


def test_rows_of_one_picture_become_one_that_shows_it_once():
    rows = [[SYSTEM, user("<image>", "\none?"), said("1")], [user("two?\n", "<image>"), said("2")]]
    assert plain(merged(rows)) == ["s:be brief", "u:<image>\none?", "a:1", "u:two?", "a:2"]


def test_a_row_without_its_pictures_has_no_blanks_left():
    assert plain(without_pictures([user("<image>", "\nwhat?"), said(" x ")])) == ["u:what?", "a: x "]
    assert plain(without_pictures([user("<image>")])) == ["u:"]
    assert plain(without_pictures([user("see", "<image>", "and", "<image>")])) == ["u:see\nand"]


def test_a_suffix_stands_behind_the_first_question_once():
    talk = [user("<image>", "\nwhat?"), said("x"), user(f"where?\n{SHORT}"), said("y")]
    first = with_suffix(talk, Suffix(text=SHORT))
    assert plain(first) == [f"u:<image>\nwhat?\n{SHORT}", "a:x", "u:where?", "a:y"]
    assert with_suffix(first, Suffix(text=SHORT)) == first
    every = with_suffix(talk, Suffix(text=SHORT, where="every"))
    assert plain(every) == [f"u:<image>\nwhat?\n{SHORT}", "a:x", f"u:where?\n{SHORT}", "a:y"]
    assert plain(with_suffix([user("<image>")], Suffix(text=SHORT))) == [f"u:<image>{SHORT}"]
    assert plain(talk) == ["u:<image>\nwhat?", "a:x", f"u:where?\n{SHORT}", "a:y"]


def test_each_row_of_one_round_has_its_suffix():
    made = pieces_of(TALK, source(turns="one", suffix={"text": SHORT}), "k", 0)
    assert [plain(one.messages)[1].endswith(SHORT) for one in made] == [True, True, True]


def test_rows_whose_later_questions_show_pictures_are_not_shuffled():
    talk = [user("<image>", "a"), said("1"), user("<image>", "b"), said("2")]
    assert pieces_of(talk, source(shuffle_turns=True), "k", 3)[0].messages == talk


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), WORDS, st.integers())
def test_shuffling_keeps_every_round_and_depends_on_key_and_seed_alone(pairs, key, seed):
    talk = [message for asked, answer in pairs for message in (user(asked), said(answer))]
    talk[0] = user("<image>", "\n" + pairs[0][0])
    (made,) = pieces_of(talk, source(shuffle_turns=True), key, seed)
    (again,) = pieces_of(talk, source(shuffle_turns=True), key, seed)
    assert made == again
    bare = [plain(without_pictures(one)) for one in rounds_of(made.messages)[1]]
    assert sorted(bare) == sorted(plain(without_pictures(one)) for one in rounds_of(talk)[1])
    assert made.shown == 1
    assert made.messages[0]["content"][0] == IMAGE
