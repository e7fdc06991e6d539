"""The page in a real browser, in front of a stand-in for the gateway. Needs Chromium, playwright and Gradio."""

import json
import shutil
import threading
import time
import urllib.request
from contextlib import suppress

import pytest

from lavabeam.serving.page.process import KeptPage, Page
from lavabeam.serving.page.settings import PageSettings
from schemas.dataset import Dataset
from schemas.errors import InputError
from tests.lavabeam.serving.stub import Stub, serving
from tests.pictures import colour, encoded

pytest.importorskip("gradio", reason="Gradio is not installed (extra ui)")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
LONG = ["a ", "small ", "circle"]


@pytest.fixture(scope="module")
def stub():
    with serving(Stub()) as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(stub, folder):
    made = Page(PageSettings(gateway=stub.address, port=0, record=folder / "talks"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        yield started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def view(stub, page, browser):
    """The page of a new browser, in front of two models."""
    stub.models = {"stage1": lambda body: LONG, "stage2": lambda body: ["blue"]}
    stub.asked.clear()
    stub.left_early.clear()
    stub.together = stub.most_at_once = 0
    stub.word_s = 0.0
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    yield _opened(context, page)
    context.close()
    _wait(lambda: stub.running == 0)  # a request that outlived its browser would be counted in the next test


def _opened(context, page):
    shown = context.new_page()
    shown.set_default_timeout(90_000)
    shown.on("request", lambda request: _only(request.url, page.address))
    shown.goto(page.address)
    _title(shown, 1, "stage2")
    _title(shown, 0, "stage1")
    return shown


def _only(url, address):
    assert url.startswith((address, "data:", "blob:")), f"the page asks {url}"


def _title(shown, number, words):
    shown.locator(f"#answers-{number} label").filter(has_text=words).first.wait_for()


def _ask(shown, question):
    box, user = shown.locator("#question textarea"), shown.locator("#answers-0 [data-testid=user]")
    before = user.count()
    box.fill(question)
    # On a busy machine the key may come before Gradio has taken the text over: then the page says that there is none.
    for _ in range(9):
        box.press("Enter")
        with suppress(playwright.TimeoutError):
            user.nth(before).wait_for(timeout=10_000)
            return
    raise AssertionError(f"{question!r} was not sent")


def _answers(shown, number):
    return shown.locator(f"#answers-{number} [data-testid=bot]")


def _questions(bodies):
    return [(body["model"], body["messages"][-1]["content"][-1]["text"]) for body in bodies]


def _wait(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def test_both_models_answer_about_an_uploaded_picture_at_the_same_time(view, stub, tmp_path):
    picture = tmp_path / "upload.png"
    picture.write_bytes(encoded(colour()))
    stub.together = 2
    view.set_input_files("#question input[type=file]", picture)
    view.locator("#question img").wait_for()
    _ask(view, "What is this?")
    _answers(view, 0).get_by_text("a small circle").wait_for()
    _answers(view, 1).get_by_text("blue").wait_for()
    view.locator("#answers-0 [data-testid=user] img").wait_for()
    one, other = sorted(stub.asked, key=lambda body: body["model"])
    assert (one["model"], other["model"]) == ("stage1", "stage2")
    assert (one["temperature"], one["top_p"], one["max_tokens"]) == (0.2, 0.7, 512)
    (message,) = one["messages"]
    shown, question = message["content"]
    assert shown["image_url"]["url"].startswith("data:image/png;base64,")
    assert question == {"type": "text", "text": "What is this?"}
    assert other["messages"] == one["messages"]


def test_a_pasted_picture_is_sent(view, stub):
    view.locator("#question textarea").focus()
    view.evaluate(
        """(hex) => {
            const bytes = new Uint8Array(hex.match(/../g).map(pair => parseInt(pair, 16)));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "pasted.png", {type: "image/png"}));
            document.querySelector("#question textarea").dispatchEvent(
                new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
        }""",
        encoded(colour()).hex(),
    )
    view.locator("#question img").wait_for()
    _ask(view, "What is this?")
    _answers(view, 1).get_by_text("blue").wait_for()
    assert stub.asked[0]["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_an_address_goes_to_the_gateway_as_it_is_and_its_refusal_is_shown(view, stub):
    address = "http://10.0.0.1/secret.png"
    words = f"{address}: private_address (10.0.0.1 is not a public address)."
    stub.models = {"stage1": lambda body: words, "stage2": lambda body: words}
    view.locator("#address input, #address textarea").fill(address)
    _ask(view, "What is this?")
    _answers(view, 0).get_by_text(words).wait_for()
    _answers(view, 1).get_by_text(words).wait_for()
    assert stub.asked[0]["messages"][0]["content"][0]["image_url"]["url"] == address


def test_models_come_and_go(view, stub):
    stub.models = {"stage0": lambda body: ["old"], "stage2": lambda body: ["blue"]}
    _title(view, 0, "stage0")  # nobody has asked stage1: what is served takes its place
    stub.models = {"stage1": lambda body: LONG, "stage2": lambda body: ["blue"]}
    _title(view, 0, "stage1")
    _ask(view, "What is this?")
    _answers(view, 1).get_by_text("blue").wait_for()
    stub.models = {"stage1": lambda body: LONG, "stage3": lambda body: ["red"]}
    _title(view, 1, "stage2 (not served)")
    _answers(view, 1).get_by_text("blue").wait_for()
    _ask(view, "And this?")
    _answers(view, 1).get_by_text("there is no model 'stage2'. Served: stage1, stage3.").wait_for()
    view.locator("#models input").click()
    view.get_by_role("option", name="stage3").click()
    _title(view, 2, "stage3")
    view.keyboard.press("Escape")
    _ask(view, "Which colour?")
    _answers(view, 2).get_by_text("red").wait_for()
    stub.models["stage2"] = lambda body: ["green"]
    _wait(lambda: "not served" not in view.locator("#answers-1 label").first.inner_text())


def test_a_model_that_is_cut_off_is_an_error_with_what_had_come(view, stub):
    stub.cut = {"stage1"}
    try:
        _ask(view, "What is this?")
        _answers(view, 0).get_by_text("stage1: the answer was cut off. Ask again.").wait_for()
        assert "a small circle" in _answers(view, 0).first.inner_text()
    finally:
        stub.cut = set()


def test_stop_ends_the_requests_and_the_next_question_leaves_the_rest_out(view, stub):
    stub.word_s = 0.3
    stub.models = {"stage1": lambda body: ["word "] * 100, "stage2": lambda body: ["blue"]}
    _ask(view, "Tell a story.")
    _answers(view, 0).get_by_text("word word").wait_for()
    view.locator("#question textarea").fill("Shorter.")
    _answers(view, 0).get_by_text("word word word word").wait_for()
    view.locator("#stop").click()
    _answers(view, 0).get_by_text("Stopped.").wait_for()
    _wait(lambda: _questions(stub.left_early) == [("stage1", "Tell a story.")] and stub.running == 0)
    stub.models["stage1"] = lambda body: ["short"]
    view.locator("#question textarea").press("Enter")
    _answers(view, 0).get_by_text("short").wait_for()
    last = next(body for body in reversed(stub.asked) if body["model"] == "stage1")
    assert [message["role"] for message in last["messages"]] == ["user"]


def test_a_browser_that_is_closed_ends_its_requests(stub, page, browser):
    stub.models, stub.word_s = {"stage1": lambda body: ["word "] * 500, "stage2": lambda body: ["blue"]}, 0.2
    context = browser.new_context()
    shown = _opened(context, page)
    _ask(shown, "Tell a long story.")
    _answers(shown, 0).get_by_text("word word").wait_for()
    _wait(lambda: stub.running == 1)
    context.close()
    _wait(lambda: ("stage1", "Tell a long story.") in _questions(stub.left_early) and stub.running == 0)
    assert ("stage2", "Tell a long story.") not in _questions(stub.left_early)


def test_three_browsers_stream_two_models_each_at_once(view, stub, page, browser):
    stub.together = 6
    contexts = [browser.new_context() for _ in range(2)]
    views = [view, *(_opened(context, page) for context in contexts)]
    for shown in views:
        _ask(shown, "What is this?")
    for shown in views:
        _answers(shown, 1).get_by_text("blue").wait_for()
    assert stub.most_at_once == 6
    for context in contexts:
        context.close()


def test_a_list_that_cannot_be_read_is_said_and_read_again(view, stub):
    stub.closed = "the gateway is restarting."
    view.locator("#status .problem").get_by_text("the gateway is restarting.").wait_for()
    stub.closed = ""
    view.locator("#status").get_by_text("2 models at").wait_for()


@pytest.mark.parametrize("path", ["/etc/hostname", "ADDRESS/v1/models"])
def test_a_client_that_names_a_file_or_an_address_of_the_server_gets_neither(path, page, stub):
    """As somebody would who speaks Gradio's protocol by hand: only what was uploaded is read."""
    stub.asked.clear()
    stub.models = {"stage1": lambda body: LONG, "stage2": lambda body: ["blue"]}
    calls = _api(page, "config")["dependencies"]
    hooks = {call["targets"][0][1]: call["id"] for call in calls}
    event = {"session_hash": f"by-hand-{len(path)}", "trigger_id": None, "event_data": None}
    _api(page, "gradio_api/run/predict", {**event, "fn_index": hooks["load"], "data": [None]})
    file = {"path": path.replace("ADDRESS", stub.address), "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
    data = [None, {"text": "Read this.", "files": [file]}, "", 0.2, 0.7, 16]
    _api(page, "gradio_api/queue/join", {**event, "fn_index": hooks["submit"], "data": data})
    with urllib.request.urlopen(f"{page.address}gradio_api/queue/data?session_hash={event['session_hash']}") as lines:
        ended = next(json.loads(line[5:]) for line in lines if b"process_completed" in line)
    assert ended["success"] is False
    assert stub.asked == []


def _api(page, route, body=None):
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(page.address + route, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked, timeout=30) as reply:
        return json.loads(reply.read())


def test_a_page_whose_port_is_taken_is_refused_before_gradio_is_loaded(page):
    port = int(page.address.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port} .* --ui-port"):
        Page(PageSettings(gateway="http://127.0.0.1:9", port=port))


def test_a_page_that_was_lost_is_started_again_where_it_was(stub):
    said = []
    kept = KeptPage(PageSettings(gateway=stub.address, port=0), None, said.append)
    address = kept._page.address
    keeping = threading.Thread(target=kept.keep, daemon=True)
    keeping.start()
    kept._page._process.kill()
    _wait(lambda: len(said) == 2 and kept._page.address == address and not kept._changing.locked())
    assert said == [f"{address} is the page", "the page has ended (signal SIGKILL); it is started again"]
    assert b"LavaBeam" in urllib.request.urlopen(address, timeout=30).read()
    kept.stop()
    keeping.join(30)
    assert not keeping.is_alive()


def test_votes_and_new_answers_are_recorded_beside_the_conversation(view, stub, page, folder):
    """The last test: it ends the page, which commits what waits."""
    stub.models["stage2"] = lambda body: ["mud"]
    view.get_by_text("are kept as training data").wait_for()
    _ask(view, "Who votes?")
    _answers(view, 1).get_by_text("mud").wait_for()
    stub.models["stage2"] = lambda body: ["clay"]
    view.locator("#regenerate").click()
    _answers(view, 1).get_by_text("clay").wait_for()
    view.locator("#answers-0 button[title=Like]").click()
    view.locator("#answers-1 button[title=Dislike]").click()
    journal = folder / "talks.incoming" / "journal.jsonl"
    _wait(lambda: journal.read_text().count('"event": "vote"') == 2)
    view.locator("#clear").click()
    _wait(lambda: _answers(view, 0).count() == 0)
    page.stop()
    talks = Dataset.open(folder / "talks")
    rows = [row for row in talks.take(range(len(talks))) if row["messages"][0]["content"][0]["text"] == "Who votes?"]
    found = {(row["messages"][1]["content"][0]["text"], row["vote"], row["vote_status"]) for row in rows}
    assert found == {
        ("a small circle", None, "replaced"),
        ("a small circle", 1, "ok"),
        ("mud", None, "replaced"),
        ("clay", -1, "disliked"),
    }
    assert talks.verify() == []
