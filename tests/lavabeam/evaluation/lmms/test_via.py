"""`lavabeam evaluate --via lmms-eval` as a user meets it, with a stand-in for its process; and once with itself."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from lavabeam.cli.main import app
from lavabeam.evaluation.lmms.environment import FOLDER, find_python
from lavabeam.evaluation.lmms.process import joined
from schemas.errors import InputError

HERE = Path(__file__).parent
DEMO = os.environ.get("LAVABEAM_DEMO_MODEL", "demo/output/stage2/model")
REAL = (Path(FOLDER) / "installed").is_file() and Path(DEMO, "config.json").is_file()


def call(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def fake_python(folder, fault="", probe='["0.7.3", false]'):
    """An interpreter that says it has lmms-eval, and runs the stand-in."""
    python = folder / f"python-{fault or 'good'}"
    run = f'exec "{sys.executable}" "{HERE / "fake_lmms.py"}" "{fault}" "$@"'
    python.write_text(f"#!/bin/sh\nif [ \"$1\" = -c ]; then echo '{probe}'; else {run}; fi\n")
    python.chmod(0o755)
    return python


@pytest.fixture
def files(tmp_path):
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(4):
        Image.new("RGB", (8, 8), ("red", "blue")[number % 2]).save(tmp_path / "images" / f"{number}.png")
        row = {"question_id": f"q{number}", "text": "Which colour?", "answer": ("red", "blue")[number % 2]}
        rows.append({**row, "image": f"{number}.png", "kind": f"k{number % 2}"})
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "model").mkdir()
    for name in ("processor_config.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_text("{}")
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llava"}')
    return tmp_path


def asked(files, python, *more, target=None):
    words = ("custom", target or files / "model", "--via", "lmms-eval", "--lmms-python", python, "--output")
    return call(*words, files / "o", "--questions", files / "q.jsonl", "--images", files / "images", *more)


def test_its_answers_are_scored_by_us_beside_its_own_figure(files):
    done = asked(files, fake_python(files), "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    exact = report["scores"]["exact"]
    assert exact["value"] == 75.0 and exact["low"] < 75 < exact["high"]
    assert {name: part["exact"]["value"] for name, part in report["categories"].items()} == {"k0": 50.0, "k1": 100.0}
    theirs = report["lmms_eval"]["tasks"]["lavabeam_custom"]
    assert theirs["lmms_eval"] == {"exact_match,none": 0.75}
    assert theirs["metrics"]["exact_match"]["value"] == 0.75
    lines = [json.loads(line) for line in (files / "o" / "answers.jsonl").read_text().splitlines()]
    assert [(line["question_id"], line["text"]) for line in lines] == [
        ("q0", "wrong"),
        ("q1", "blue"),
        ("q2", "red"),
        ("q3", "blue"),
    ]
    words = json.loads((files / "o" / "lmms-eval" / "log.txt").read_text().splitlines()[0])
    assert words[:4] == ["--model", "llava_hf", "--model_args", f"pretrained={files / 'model'},device_map=cpu"]
    assert words[words.index("--device") + 1] == "cpu"
    shown = asked(files, fake_python(files)).output
    assert "lavabeam_custom" in shown and "mean of its rows" in shown and (files / "o" / "results.html").is_file()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("failed", "1 failed requests among 4 rows"),
        ("empty", "1 empty answers among 4 rows"),
        ("bare", "4 rows without a picture among 4 rows"),
        ("crash", "exit code 0 and no results: ValueError: Tasks not found: mine"),
        ("code", "exit code 9 and an error"),
        ("lost", "wrote 3 samples for 4 questions; there is none for question q3"),
    ],
)
def test_what_it_would_score_without_a_word_ends_the_command(files, fault, said):
    error = asked(files, fake_python(files, fault)).exception
    assert isinstance(error, InputError) and said in str(error), error
    assert error.exit_code == 2
    assert not (files / "o" / "answers.jsonl").exists() and not (files / "o" / "scores.json").exists()


def test_empty_answers_are_wrong_where_that_is_allowed(files):
    done = asked(files, fake_python(files, "empty"), "--allow-missing", "--json")
    assert json.loads(done.stdout)["scores"]["exact"]["value"] == 50.0, done.output


def test_questions_without_their_picture_are_refused_before_it_starts(files):
    (files / "images" / "2.png").unlink()
    error = asked(files, fake_python(files)).exception
    assert isinstance(error, InputError) and "cannot ask 1 of 4 questions" in str(error) and "question q2" in str(error)
    assert not (files / "o" / "lmms-eval" / "log.txt").exists()


def test_a_server_that_is_away_is_named_at_once_and_one_that_is_there_is_asked(files):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        away = asked(files, fake_python(files), "--model", "m", target=url).exception
        assert isinstance(away, InputError) and f"{url}: cannot be reached" in str(away)
        server.listen()
        done = asked(files, fake_python(files), "--model", "m", "--set", "num_concurrent=2", target=url)
        assert done.exit_code == 0, done.output
    words = json.loads((files / "o" / "lmms-eval" / "log.txt").read_text().splitlines()[0])
    assert words[:4] == ["--model", "openai", "--model_args", f"model=m,base_url={url}/v1,num_concurrent=2"]


def test_its_own_tasks_have_intervals_beside_its_figures(files):
    assert asked(files, fake_python(files)).exit_code == 0
    task = files / "o" / "lmms-eval" / "task"
    words = (
        "pope",
        files / "model",
        "--via",
        "lmms-eval",
        "--lmms-python",
        fake_python(files),
        "--output",
        files / "p",
    )
    done = call(*words, "--tasks", "mine", "--include-path", task, "--limit", 2, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["tasks"]["mine"]
    assert (found["rows"], found["lmms_eval"], found["metrics"]["exact_match"]["value"]) == (
        2,
        {"exact_match,none": 0.5},
        0.5,
    )
    assert json.loads((files / "p" / "lmms-eval.json").read_text())["tasks"]["mine"] == found


def test_without_an_environment_one_line_says_what_to_do(files, monkeypatch):
    monkeypatch.setattr("lavabeam.evaluation.lmms.environment.FOLDER", "no-such-environment")
    words = ("custom", files / "model", "--via", "lmms-eval", "--questions", files / "q.jsonl", "--output", files / "o")
    for more in ((), ("--lmms-python", files / "gone")):
        error = call(*words, "--images", files / "images", *more).exception
        assert isinstance(error, InputError) and "Run `make lmms-eval`" in str(error) and "\n" not in str(error)
    error = call(*words, "--images", files / "images", "--lmms-python", sys.executable).exception
    assert isinstance(error, InputError) and "lmms-eval cannot be imported" in str(error)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tasks", "pope"), "only with --via lmms-eval"),
        (("--via", "lmms-eval", "--questions", "q.jsonl", "--tasks", "pope"), "give one of them"),
        (("--via", "lmms-eval", "--truth", "t.json"), "without --questions lmms-eval's own task"),
    ],
)
def test_options_that_do_not_fit_are_refused(files, words, said):
    done = call("pope", files / "model", *words)
    assert done.exit_code == 2 and said in " ".join(done.output.split())


def test_what_it_cannot_run_is_refused(files):
    words = ("--via", "lmms-eval", "--output", files / "o")
    cases = [
        (("custom", files / "model", *words), "give the questions with --questions"),
        (("pope", files / "model", "--via", "lmms-eval"), "with --output"),
        (("pope", files / "model", *words, "--batch", 2), "--batch, --processes and --template are ours"),
        (("pope", files / "images", *words), "no readable config.json"),
        (("pope", "http://127.0.0.1:9", *words), "give the name of the model"),
    ]
    for given, said in cases:
        error = call(*given).exception
        assert isinstance(error, InputError) and said in str(error), (given, error)
    (files / "model" / "config.json").write_text('{"model_type": "llava_llama"}')
    error = call("pope", files / "model", *words).exception
    assert isinstance(error, InputError) and "model_type is 'llava_llama'" in str(error)


@pytest.mark.parametrize("path", ["/a,b", "/a=b", "/it's", "/{a}"])
def test_a_path_that_it_would_cut_is_refused(path):
    assert joined({"pretrained": "/a b", "device_map": "auto"}) == "pretrained=/a b,device_map=auto"
    with pytest.raises(InputError, match="cuts its arguments"):
        joined({"pretrained": path})


def test_the_launcher_ends_with_the_command_that_started_it(tmp_path):
    """A package named lmms_eval that waits for ever: launch.py ends when its standard input is closed."""
    for name, text in (
        ("lmms_eval/api/task.py", "class ConfigurableTask:\n    doc_to_visual = None\n"),
        ("lmms_eval/cli/dispatch.py", "def main():\n    print('up', flush=True)\n    __import__('time').sleep(600)\n"),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    launcher = Path(joined.__code__.co_filename).with_name("launch.py")
    words = [sys.executable, launcher, tmp_path / "notes", "--tasks", "x"]
    variables = {**os.environ, "PYTHONPATH": str(tmp_path)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables) as process:
        stopper = threading.Timer(60, process.kill)
        stopper.start()
        assert process.stdout.readline() == b"up\n"
        process.stdin.close()
        assert process.wait() == 1
        stopper.cancel()


@pytest.mark.skipif(not REAL, reason="needs `make lmms-eval` and the demo's model (`make demo`)")
def test_the_demo_model_says_the_same_to_lmms_eval_and_to_us(tmp_path):
    from easy_vqa import get_test_image_paths, get_test_questions

    texts, answers, numbers = get_test_questions()
    paths = get_test_image_paths()
    rows = [
        {"question_id": str(row), "text": texts[row], "answer": answers[row], "image": Path(paths[numbers[row]]).name}
        for row in range(12)
    ]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--questions", tmp_path / "q.jsonl", "--images", Path(paths[0]).parent, "--no-check-training")
    said = []
    for name, more in (("ours", ()), ("theirs", ("--via", "lmms-eval", "--lmms-python", find_python(None)))):
        done = call("custom", DEMO, *given, "--max-tokens", 16, "--output", tmp_path / name, *more)
        assert done.exit_code == 0, done.output
        lines = (tmp_path / name / "answers.jsonl").read_text().splitlines()
        said.append([(json.loads(line)["question_id"], json.loads(line)["text"]) for line in lines])
    assert said[0] == said[1] and len(said[0]) == 12
