"""Words on a command line become the values of a configuration, or are refused."""

from typing import Literal

import pytest
from click.testing import CliRunner

from lavabeam.cli.options import BeamCommand, ModelCommand, beam_arguments, parsed_setting
from pipelines.engine.step import Config


class Every(Config):
    """A field of each kind."""

    path: str | list[str] = "p"
    images: str | None = None
    limit: int = 1
    share: float | None = None
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    pair: tuple[str, Literal["md5", "sha1"]] | None = None
    columns: dict[str, str] = {}  # noqa: RUF012
    kind: Literal["a", "b"] = "a"
    fast: bool = False


def parsed(*words: str) -> dict:
    """The configuration and Beam's arguments that `words` give."""
    got: dict = {}
    command = ModelCommand("x", lambda: Every, lambda **given: got.update(given), [], "help")
    done = CliRunner().invoke(command, list(words), standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    Every(**got["config"])
    return got["config"] | ({"beam": got["arguments"]} if got["arguments"] else {})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--path", "a.json"], {"path": "a.json"}),
        (["--path", "a", "--path", "b"], {"path": ["a", "b"]}),
        (["--path", "[a, b]", "--path", "c #2.json"], {"path": ["a", "b", "c #2.json"]}),
        (["--path", "2024"], {"path": "2024"}),
        (["--images", "0001"], {"images": "0001"}),
        (["--images", "no"], {"images": "no"}),
        (["--images", "a: b"], {"images": "a: b"}),
        (["--images", "[x"], {"images": "[x"}),
        (["--limit", "7", "--share", "null"], {"limit": 7, "share": None}),
        (["--names", "x", "--names", "2024"], {"names": ["x", "2024"]}),
        (["--names", "no"], {"names": "no"}),
        (["--numbers", "[1, 2]", "--numbers", "3"], {"numbers": [1, 2, 3]}),
        (["--pair", "[column, md5]"], {"pair": ["column", "md5"]}),
        (["--columns", "{a: b}", "--columns", "{c: d}"], {"columns": {"a": "b", "c": "d"}}),
        (["--kind", "b", "--fast"], {"kind": "b", "fast": True}),
        (
            ["--limit", "2", "--", "--temp_location=gs://x", "word"],
            {"limit": 2, "beam": ["--temp_location=gs://x", "word"]},
        ),
    ],
)
def test_words_become_values(words, expected):
    assert parsed(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "1", "--limit", "2"], r"--limit is given 2 times; it takes one value"),
        (["--images", "a", "--images", "b"], r"--images is given 2 times"),
        (["--kind", "a", "--kind", "b"], r"--kind is given 2 times"),
        (["--path", "a.json", "b.json"], r"unexpected extra argument \(b.json\).*'\*.json'.*after --"),
        (["--imges", "x"], r"No such option.*--imges"),
    ],
)
def test_surplus_words_are_refused(words, message):
    with pytest.raises(Exception, match=message):
        parsed(*words)


def test_any_command_may_take_words_for_beam():
    import click

    @click.command(cls=BeamCommand)
    @click.argument("name")
    @click.pass_context
    def command(ctx, name):
        click.echo(f"{name} {beam_arguments(ctx)}")

    assert CliRunner().invoke(command, ["n", "--", "--flag"]).output == "n ['--flag']\n"
    assert "unexpected extra argument (m)" in CliRunner().invoke(command, ["n", "m"]).output


class Nested(Config):
    """A section of a recipe."""

    every: Every = Every()
    several: tuple[Every, ...] = (Every(path="x"), Every(names=("a", "b")))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("every.path", "a #2", "a #2"),
        ("every.path", "2024", "2024"),
        ("every.path", "[a", "[a"),
        ("every.images", "no", "no"),
        ("every.images", "null", None),
        ("every.limit", "7", 7),
        ("every.names", "[a, b]", ["a", "b"]),
        ("every.nothing", "7", 7),
        ("nothing.at.all", "7", 7),
    ],
)
def test_a_setting_is_read_as_its_key_wants_it(key, text, value):
    assert parsed_setting(Nested, key, text) == value


def test_help_shows_defaults_as_one_would_write_them():
    shown = " ".join(CliRunner().invoke(ModelCommand("x", lambda: Nested, print, [], ""), ["--help"]).output.split())
    assert "[default: [{path: x}, {names: [a, b]}]]" in shown
    shown = " ".join(CliRunner().invoke(ModelCommand("x", lambda: Every, print, [], ""), ["--help"]).output.split())
    assert "--share NUMBER [default: none]" in shown
