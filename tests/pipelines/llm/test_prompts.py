"""The prompts that come with LavaBeam: released versions are frozen, and each renders."""

import json
from pathlib import Path

import pytest

from pipelines.generate.checks import check_pairs
from pipelines.judge.scores import in_order_of
from pipelines.llm.context import Box, Known, known_from
from pipelines.llm.prompts import load_prompt
from pipelines.llm.prompts.prompt import FOLDER
from pipelines.llm.reading.parsers import parse_text, parse_turns
from schemas.errors import InputError

RELEASED = json.loads((Path(__file__).parent / "released_prompts.json").read_text())
NAMES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
KNOWN = Known("k", ("A dog runs.",), (Box("dog", 0.1, 0.2, 0.3, 0.45),), {"color": "teal"})


@pytest.mark.parametrize("name", NAMES)
def test_a_released_version_never_changes(name):
    prompt = load_prompt(name)
    assert prompt.id == name
    assert RELEASED.get(f"{name}/{prompt.version}") == prompt.hash, (
        f"{name}.yaml changed: raise its version and add the new hash to released_prompts.json"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_renders_and_ends_with_its_task(name):
    values = {**KNOWN.values(), "turns": [{"role": "user", "text": "What?"}], "axes": in_order_of("k")}
    messages = load_prompt(name).messages(values, (b"image",))
    assert [message.role for message in messages][:1] == ["system"]
    assert messages[-1].text.splitlines()[-1].startswith("Task: ")
    assert all("{%" not in message.text and "{{" not in message.text for message in messages)


def test_the_context_as_text():
    question = load_prompt("detail").messages(KNOWN.values())[-1].text
    assert question == (
        "Captions:\n- A dog runs.\n"
        "Objects (left, top, right, bottom as fractions of the width and height):\n"
        "- dog: 0.100, 0.200, 0.300, 0.450\n"
        "Facts:\n- color: teal\n\n"
        "Task: detail"
    )


def test_conversations_see_captions_and_no_boxes():
    question = load_prompt("conversation").messages(KNOWN.values())[-1].text
    assert "A dog runs." in question
    assert "0.100" not in question


def test_only_image_prompts_send_the_picture():
    assert load_prompt("detail").messages(KNOWN.values(), (b"image",))[-1].images == ()
    assert load_prompt("detail_image").messages(KNOWN.values(), (b"image",))[-1].images == (b"image",)


def test_examples_are_earlier_turns():
    prompt = load_prompt("reasoning")
    assert [message.role for message in prompt.messages(KNOWN.values())] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize("name", NAMES)
def test_examples_read_and_pass_like_answers(name):
    """A model writes as the examples do: so they have no line break within a sentence, and every check likes them."""
    prompt = load_prompt(name)
    for example in prompt.examples:
        boxes = tuple(Box(**one) for one in example.objects)
        known = Known("k", example.captions, boxes, example.facts)
        answer = prompt.messages(known.values())[2 + 2 * prompt.examples.index(example)].text
        if prompt.answer != "json_pairs":
            assert all(line[-1] in ".?!" for line in answer.splitlines() if line)
        pairs = [("", parse_text(answer))] if prompt.answer == "text" else parse_turns(answer)
        check_pairs(pairs, known, "en")
        assert len(pairs) == {"text": 1, "pair": 1}.get(prompt.answer, len(pairs))


def test_the_question_depends_on_the_key_alone():
    prompt = load_prompt("detail")
    questions = [prompt.question(f"photo-{number}") for number in range(50)]
    assert questions == [prompt.question(f"photo-{number}") for number in range(50)]
    assert set(questions) == set(prompt.questions)


def test_a_misspelt_name_is_told():
    with pytest.raises(InputError, match="Did you mean 'reasoning'"):
        load_prompt("reasonning")


OWN = """
id: mine
version: "3"
kind: mine
about: My own.
needs: [captions]
answer: text
questions: ["What?"]
system: Look.
user: "{{ captions | join(' ') }}"
"""


def test_a_prompt_of_ones_own_is_a_path(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(OWN)
    prompt = load_prompt(str(path))
    assert prompt.messages(KNOWN.values())[-1].text == "A dog runs."
    path.write_text(OWN.replace("Look.", "See."))
    assert load_prompt(str(path)).hash != prompt.hash


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('questions: ["What?"]', "", "needs `questions`"),
        ("join(' ') }}", "join(' ')", "user, line 1: unexpected"),
        ("about:", "abuot:", "unknown key 'abuot'"),
        ('version: "3"', "version: three", "version: "),
    ],
)
def test_a_wrong_prompt_file_is_told(old, new, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(OWN.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_prompt(str(path))


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("{{ captoins }}", "user, line 1: 'captoins' is not defined. There are: captions, facts, objects"),
        ("{{ turns }}", "'turns' is not defined"),
        ("a\\n{% import 'os' as os %}", "user, line 2: other templates are not read"),
        ("{{ captions|nofilter }}", "user, line 1: No filter named 'nofilter'"),
    ],
)
def test_a_template_is_checked_when_it_is_read(user, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(OWN.replace("{{ captions | join(' ') }}", user))
    with pytest.raises(InputError, match=message):
        load_prompt(str(path))


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("{{ ''.__class__ }}", "user: line 1: access to attribute '__class__'"),
        ("{{ lipsum.__globals__['os'].popen('touch PWNED').read() }}", "'lipsum' is not defined"),
        ("{% for a in range(10**5) %}{% for b in range(10**5) %}{% endfor %}{% endfor %}", "more than 1000000 steps"),
    ],
)
def test_a_prompt_runs_no_code_and_ends(user, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    path.write_text(OWN.replace("{{ captions | join(' ') }}", user))
    with pytest.raises(InputError, match=message):
        load_prompt(str(path)).messages(KNOWN.values())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["mine.yaml"]


def test_a_box_without_a_label_says_nothing():
    sides = {"x0": 0.1, "y0": 0.2, "x1": 0.3, "y1": 0.45}
    row = {"key": "k", "boxes": [{"label": None, **sides}, {"label": "dog", **sides}]}
    assert known_from(row, ()).objects == (Box("dog", 0.1, 0.2, 0.3, 0.45),)
