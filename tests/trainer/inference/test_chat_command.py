"""`lavabeam chat` with pictures from a real local server: one clear error each, and the conversation continues."""

import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app
from schemas.errors import InputError
from tests.pipelines.download.web import Web
from tests.trainer.conftest import picture
from trainer.inference.answer import Answerer
from trainer.inference.prompts import question


async def shown(request):
    await request.send(picture(1), Content_Type="image/png")


async def page(request):
    await request.send(b"<html>a page about a picture</html>", Content_Type="text/html")


async def missing(request):
    await request.send(status="404 Not Found")


async def inwards(request):
    await request.send(status="302 Found", Location="http://169.254.169.254/latest/meta-data")


@pytest.fixture
def web():
    with Web({"/a.png": shown, "/page": page, "/none": missing, "/inwards": inwards}) as served:
        yield served


def call(*arguments, typed=None):
    return CliRunner().invoke(app, ["chat", *map(str, arguments)], input=typed)


def test_a_question_about_a_picture_at_a_url(tiny, web):
    address = f"http://127.0.0.1:{web.port}/a.png"
    done = call(tiny / "model", address, "is it red?", "--allow-private-hosts", "127.0.0.1", "--max-tokens", 4)
    answerer = Answerer(tiny / "model", device="cpu")
    expected = answerer.answer([question("is it red?", (picture(1),))], max_tokens=4)[0].text
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{expected}\n"


def test_without_leave_a_private_address_is_refused_before_it_is_asked(tiny, web):
    done = call(tiny / "model", f"http://127.0.0.1:{web.port}/a.png", "is it red?")
    assert isinstance(done.exception, InputError)
    assert "private_address" in str(done.exception)
    assert "--allow-private-hosts" in str(done.exception)
    assert not web.hits


def test_errors_end_a_line_and_not_the_session(tiny, web, tmp_path):
    home = f"http://127.0.0.1:{web.port}"
    (tmp_path / "letter.txt").write_text("hello")
    bad = [f"{home}/none", f"{home}/page", f"{home}/inwards", "ftp://a/b.png", str(tmp_path / "letter.txt"), "no.png"]
    typed = [*(f"/image {one}" for one in bad), "/imgae x", f"/image {home}/a.png", "is it red? " * 300, "is it red?"]
    allowed = ("--allow-private-hosts", f"127.0.0.1:{web.port}", "--max-tokens", 4)
    done = call(tiny / "model", f"{home}/none", *allowed, typed="\n".join([*typed, "/quit", "never read"]))
    assert done.exit_code == 0, done.output
    errors = [line for line in done.stderr.splitlines() if line][1:]
    words = ["not_found", "not_found", "not_image", "private_address", "bad_scheme", "letter.txt: picture of 5 bytes"]
    words += ["no.png: no such image file", "/imgae: no such command", "Shorten it"]
    assert len(errors) == len(words), done.stderr
    assert all(word in line for word, line in zip(words, errors, strict=True)), done.stderr
    answerer = Answerer(tiny / "model", device="cpu")
    expected = answerer.answer([question("is it red?", (picture(1),))], max_tokens=4)[0].text
    assert done.stdout.splitlines()[-2:] == [expected, "you> /quit"]
