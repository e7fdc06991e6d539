"""The words of the DAGs' commands, their settings, and how a command is run: nothing here needs Airflow."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import _lavabeam as words
import click
import pytest
import yaml
from _lavabeam import Run
from _lavabeam_command import Command
from _lavabeam_settings import FILE, PARAMS, SETTINGS, read_settings

from lavabeam.cli.main import app
from lavabeam.cli.options import UsualGroup

PYTHON = sys.executable
FOREVER = "import time, sys; print('begun', file=sys.stderr, flush=True); time.sleep(600)"


def run_of(results=None, date="2026-11-28", **params):
    return Run({name: param.default for name, param in PARAMS.items()} | params, date, results or {})


def flags(command, given):
    """The options of a command line, by the real command; raises click's error for one that it does not take."""
    group = app
    with click.Context(app) as context:
        while isinstance(group, click.Group):
            named = group.get_command(context, given[0])
            if named is None and isinstance(group, UsualGroup):
                named, given = group.get_command(context, group.usual), ["", *given]
            group, given = named, given[1:]
        group.make_context(command, list(given))


@pytest.mark.parametrize(
    "arguments",
    [
        *(words.import_lists, words.download, words.dedupe, words.caption, words.generate, words.mix),
        *(words.mix_pretrain, words.pretrain, words.finetune, words.evaluate, words.retry_download),
        *(words.retry_generate, words.look_at("images"), words.collect_garbage("samples")),
    ],
)
def test_every_command_line_is_one_that_lavabeam_takes(arguments):
    shown = {"look_at_samples": {"manifest": 3}, "look_at_pretrain_samples": {"manifest": 2}}
    results = {**shown, "pretrain": {}, "finetune": {"model": "runs/finetune-3/model"}}
    chosen = {"caption_options": {"engine": "labels"}, "questions": "questions.jsonl", "processes": 2}
    mixes = {"pretrain_mix_recipe": "p.yaml", "pretrain_samples": "pretrain", "pretrain_recipe": "v1.5-7b-pretrain"}
    found = arguments(run_of(results, beam_options=["--project=p"], **chosen, **mixes))
    flags("lavabeam", found)
    assert "--json" in found


def test_import_of_a_date():
    found = words.import_lists(run_of(lists="gs://lists/{date}/*.csv", folder="/data", beam_options=["--x"]))
    assert found[:4] == ["import", "url_list", "/data/photos", "--append"]
    assert found[found.index("--key-prefix") + 1] == "2026-11-28/"
    assert found[found.index("--path") + 1] == "gs://lists/2026-11-28/*.csv"
    assert found[-2:] == ["--", "--x"]


def test_options_are_those_of_the_command_line():
    values = {"image_size": 336, "near": False, "checks": True, "kinds": ["a"], "only": {"source": ["x"]}, "none": None}
    assert words.options(values) == [
        *("--image-size", "336", "--no-near", "--checks", "--kinds", '["a"]', "--only", '{"source": ["x"]}'),
    ]


def test_what_is_not_asked_for_gives_no_command():
    none = run_of(conversations=None, samples=None)
    commands = (words.caption, words.generate, words.mix, words.mix_pretrain, words.pretrain, words.retry_generate)
    assert [command(none) for command in commands] == [None] * 6
    assert words.evaluate(run_of({"finetune": {"model": "m"}})) is None
    assert words.look_at("pretrain_samples")(none) is None


def test_a_dataset_elsewhere_keeps_its_address():
    assert run_of(images="gs://bucket/photos").dataset("images") == "gs://bucket/photos"
    assert run_of(folder="gs://bucket/data").dataset("images") == "gs://bucket/data/photos"


def test_a_run_folder_belongs_to_the_versions_of_both_sets():
    shown = {"look_at_samples": {"manifest": 7}, "look_at_pretrain_samples": {"manifest": 2}}
    alone = words.finetune(run_of(shown, folder="/data"))
    assert "output=runs/finetune-7" in alone and "data.mix=/data/finetune" in alone
    after = words.finetune(run_of({**shown, "pretrain": {"steps": 1}}, pretrain_samples="first"))
    assert "output=runs/finetune-7-on-first-2" in after and "model.checkpoint=runs/first-2" in after


def test_a_checkpoint_that_answers_too_little_is_named():
    result = {"accuracy": 0.25, "questions": 8}
    assert words.accurate_enough(run_of(min_accuracy=0.25), result) == ""
    assert "0.250 of 8 questions" in words.accurate_enough(run_of(min_accuracy=0.5), result)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (0, "ok"),
        (1, "retry"),
        (2, "fail"),
        (3, "fail"),
        (4, "retry"),
        (5, "fail"),
        (130, "retry"),
        (137, "retry"),
        (-9, "retry"),
        (-15, "retry"),
    ],
)
def test_an_exit_code_is_a_state(code, outcome):
    assert words.outcome(code) == outcome


def test_settings_change_defaults_and_an_unknown_one_is_named(tmp_path):
    path = tmp_path / "lavabeam.yaml"
    assert read_settings(path)["retries"] == SETTINGS["retries"]
    path.write_text("folder: /data\nretries: 0\n")
    assert (read_settings(path)["folder"], read_settings(path)["retries"]) == ("/data", 0)
    path.write_text("foldr: /data\n")
    with pytest.raises(ValueError, match=r"unknown setting 'foldr'. Did you mean 'folder'"):
        read_settings(path)


def test_the_shipped_settings_show_the_defaults():
    """Every line of lavabeam.yaml, without its comment sign, says what holds without it."""
    text = FILE.read_text(encoding="utf-8")
    assert yaml.safe_load(text) is None
    values = [line[2:] for line in text.splitlines() if re.match(r"# \w+: ", line)]
    shown = yaml.safe_load("\n".join(values))
    assert {**read_settings(Path("nowhere")), **shown} == read_settings(Path("nowhere"))
    assert SETTINGS.keys() <= shown.keys()


def test_lines_are_passed_on_and_stdout_is_kept():
    said = []
    code = "import sys; print('one', file=sys.stderr); print('{}'); print('two\\xe9', file=sys.stderr); sys.exit(3)"
    command = Command([PYTHON, "-c", code])
    assert command.run(said.append) == (3, "{}\n")
    assert said[0] == "one" and command.complaint == said[1]


def test_what_interrupts_the_wait_ends_the_command():
    class Stopped(BaseException):
        pass

    def stop(line):
        raise Stopped

    command = Command([PYTHON, "-c", FOREVER])
    with pytest.raises(Stopped):
        command.run(stop)
    assert command.process.returncode == -signal.SIGTERM


def test_a_handler_asks_a_command_to_stop():
    command = Command([PYTHON, "-c", FOREVER])
    assert command.run(lambda line: command.ask_to_stop()) == (-signal.SIGTERM, "")


def test_a_command_ends_with_a_caller_that_is_killed(tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(FILE.parent)!r}); from _lavabeam_command import Command\n"
        f"command = Command([sys.executable, '-c', {FOREVER!r}])\n"
        "command.run(lambda line: print(command.process.pid, flush=True))"
    )
    with subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        own = int(caller.stdout.readline())
        caller.kill()
    deadline = time.monotonic() + 180
    while _lives(own) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(own)


def _lives(process: int) -> bool:
    """Whether a process runs; one that waits for its parent to look at it does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state != "Z" and os.path.exists(f"/proc/{process}")
