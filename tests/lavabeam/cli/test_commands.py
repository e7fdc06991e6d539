"""The command line as a user meets it: exit codes, messages, JSON."""

import json

import pyarrow as pa
import pytest
from click.testing import CliRunner

from lavabeam.cli.main import app, main
from lavabeam.demo.training import train_demo
from lavabeam.recipes import FOLDER
from pipelines import catalog
from pipelines.llm.store import CacheStore
from schemas.errors import LavaBeamError
from schemas.records import BASE
from schemas.writing import write_dataset
from tests.pipelines.tokenizer import write_tokenizer


@pytest.fixture
def photos(tmp_path):
    urls = tmp_path / "urls.csv"
    urls.write_text("url,alt_text\nhttp://127.0.0.1:9/a.png,a cat\nftp://nowhere/b.png,b\n")
    assert call("import", "url_list", str(tmp_path / "photos"), "--path", str(urls)).exit_code == 0
    return str(tmp_path / "photos")


def call(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def refused(*arguments: str) -> str:
    """The message of the LavaBeamError that the command ends with (exit code 2 in `main`)."""
    error = call(*arguments).exception
    assert isinstance(error, LavaBeamError)
    assert error.exit_code == 2
    return str(error)


def test_help_lists_every_command_in_the_order_of_use():
    listed, codes = call("--help").output.split("Commands:")[1].split("Exit codes:")
    assert "3 done, but no row" in " ".join(codes.split())
    names = [line.split()[0] for line in listed.splitlines() if line.startswith("  ") and line[2:3].strip()]
    wanted = ["demo", "run", "import", *catalog.STEPS, "decontaminate-index", "mix"]
    training = [
        "plan",
        "tokens",
        "train",
        "merge",
        "export-checkpoint",
        "import-checkpoint",
        "chat",
        "answer",
        "evaluate",
        "review",
        "serve",
    ]
    looking = ["show", "log", "files", "verify", "rollback", "gc", "report", "export"]
    looking += ["cache", "recipes", "dags", "dataflow"]
    assert names == [*wanted, *training, *looking]


def test_a_step_documents_its_options():
    reported = call("download", "--help").output
    assert "--thread-count" in reported and "--image-size" in reported and "--retry " in reported


def test_import_then_show_log_and_verify(photos):
    reported = json.loads(call("show", photos, "--json").output)
    assert (reported["rows"], reported["schema"], reported["manifest"]) == (2, "images/1.0", 1)
    assert json.loads(call("show", photos, "--row", "0", "--json").output)["alt_text"] == "a cat"
    assert json.loads(call("log", photos, "--json").output)[0]["what"] == "import"
    assert json.loads(call("verify", photos, "--json").output)["problems"] == []


def test_rows_are_shown_by_status(photos):
    assert json.loads(call("show", photos, "--status", "import=ok", "--limit", "1", "--json").output)["row"] == 0
    assert json.loads(call("show", photos, "--status", "base=ok", "--limit", "1", "--json").output)["row"] == 0
    assert "no row of" in refused("show", photos, "--status", "import=lost")
    assert "expected step=status" in refused("show", photos, "--status", "downlod=ok")


def test_verify_exits_with_2_when_a_file_was_damaged(photos, tmp_path):
    (file,) = (tmp_path / "photos").rglob("base.*.arrow")
    file.write_bytes(file.read_bytes()[:-10])
    done = call("verify", photos)
    assert done.exit_code == 2
    assert str(file) in done.output


def test_a_guarded_address_is_a_status_and_rows_stay(photos):
    ended = call("download", photos, "--retries", "0", "--json")
    assert (ended.exit_code, "no row of" in ended.stderr) == (3, True)
    done = json.loads(ended.stdout)
    assert sum(done[0]["statuses"].values()) == 2
    assert "ok" not in done[0]["statuses"]


def test_bad_input_is_one_clear_error(tmp_path, photos):
    assert "no such file" in refused("import", "url_list", str(tmp_path / "x"), "--path", str(tmp_path / "no.csv"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text("steps:\n  - download: {dataset: photos, thread_cuont: 4}\n")
    assert "r.yaml: step 1 (download): unknown key 'thread_cuont'. Did you mean 'thread_count'?" in refused(
        "run", str(recipe), "--folder", str(tmp_path)
    )
    recipe.write_text("steps:\n  - downlod: {dataset: photos}\n")
    assert "Did you mean 'download'?" in refused("run", str(recipe))
    recipe.write_text("steps:\n  - import: {importer: url_list, to: p, path: '${urls}'}\n")
    assert "no variable ${urls}" in refused("run", str(recipe))
    other = tmp_path / "other.csv"
    other.write_text("picture,alt_text\nx,y\n")
    assert "picture" in refused("import", "url_list", str(tmp_path / "x"), "--path", str(other))
    assert not (tmp_path / "x").exists()
    assert "no dataset here" in refused("show", str(tmp_path / "nowhere"))
    assert "no such status" in refused("download", photos, "--retry", "lost")


def test_a_plan_is_printed_as_json(tmp_path):
    lengths = tmp_path / "lengths.json"
    lengths.write_text("[100, -50, 200, 30, -20, 60, 70, 80]")
    done = call("plan", "--lengths", str(lengths), "--strategy", "modality_length", "--world-size", "2", "--json")
    assert sorted(json.loads(done.output)["indices"]) == list(range(8))


def test_an_estimate_and_a_cache_are_tables_or_json(tmp_path):
    schema = {"key": ["a", "b"], "captions": [["A red house."], ["A cat."]]}
    write_dataset(tmp_path / "photos", "images", [pa.Table.from_pydict(schema)], {})
    given = ["--model", "m", "--provider", "own", "--base-url", "http://127.0.0.1:9/v1", "--kinds", "[describe]"]
    asked = ["generate", str(tmp_path / "photos"), str(tmp_path / "talks"), *given, "--cache", str(tmp_path / "cache")]
    reported = json.loads(call(*asked, "--dry-run", "--json").output)
    assert (reported["requests"], reported["cached"], reported["cost"]) == (2, 0, None)
    table = call(*asked, "--dry-run", "--price", "{input: 1000000, output: 0}").output
    assert f"{float(reported['input_tokens']):.2f}" in table
    CacheStore(tmp_path / "cache").close()
    assert json.loads(call("cache", "show", str(tmp_path / "cache"), "--json").output)["answers"] == 0
    assert "By model and prompt" in call("cache", "show", str(tmp_path / "cache")).output


def test_a_recipe_is_previewed_and_its_retry_checked_before_anything_runs(tmp_path, photos):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("steps:\n  - download: {dataset: photos}\n  - dedupe: {dataset: photos}\n")
    run = ("run", str(recipe), "--folder", str(tmp_path))
    first, second = json.loads(call(*run, "--dry-run", "--json").stdout)
    assert (first["step"], first["made"], second["after"]) == ("download", 1, "line 1 (download photos)")
    assert "the recipe has no such status" in refused(*run, "--retry", "timeuot")
    assert json.loads(call("show", photos, "--json").output)["manifest"] == 1


def test_too_few_usable_rows_are_exit_code_3(tmp_path):
    (tmp_path / "urls.csv").write_text("url,key\nhttp://a/b.png,a\n,b\n")
    given = ("import", "url_list", str(tmp_path / "p"), "--path", str(tmp_path / "urls.csv"))
    assert call(*given, "--min-ok", "0.5").exit_code == 0
    ended = call(*given, "--min-ok", "0.6")
    assert (ended.exit_code, "1 of 2 rows are usable (0.500)" in ended.stderr) == (3, True)


def test_a_mix_of_no_rows_is_exit_code_3(tmp_path):
    """Made, and of no use: also when it is there already."""
    write_tokenizer(tmp_path / "tokenizer")
    talks = [{"key": "a", "kind": "detail", "status": "ok"}]
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(talks, BASE["conversations"])])
    source = {"s": {"conversations": "talks", "kinds": ["other"]}}
    (tmp_path / "m.yaml").write_text(json.dumps({"tokenizer": "tokenizer", "template": "chatml", "sources": source}))
    for made in (1, 0):
        ended = call("mix", str(tmp_path / "m.yaml"), "finetune", "--folder", str(tmp_path), "--json")
        (summary,) = json.loads(ended.stdout)
        assert (ended.exit_code, summary["rows"], summary["made"]) == (3, 0, made)
        assert f"mix: no row of {tmp_path / 'finetune'} is usable: 1 kind." in ended.stderr


def test_a_defect_of_ours_is_a_traceback_one_line_and_exit_code_1(tmp_path, monkeypatch, capsys):
    def explode(*arguments, **options):
        raise ZeroDivisionError("a thing\nof two lines")

    monkeypatch.setattr("schemas.Dataset.open", explode)
    monkeypatch.setattr("sys.argv", ["lavabeam", "show", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (1, "")
    assert said.err.startswith("Traceback (most recent call last)")
    assert said.err.splitlines()[-1] == (
        "lavabeam: this is a bug in lavabeam, not in your input: ZeroDivisionError: a thing. Please report it."
    )


def test_a_step_refuses_a_dataset_of_another_schema(tmp_path, photos):
    schema = {"key": ["a"], "image_keys": [[]], "messages": [[]], "status": ["ok"]}
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pydict(schema)], {})
    said = refused("dedupe", str(tmp_path / "talks"))
    assert said == f"dedupe: {tmp_path / 'talks'} is a conversations dataset, expected images. Check the path."
    given = ("--model", "m", "--provider", "own", "--base-url", "http://127.0.0.1:9/v1")
    assert "expected images" in refused("generate", str(tmp_path / "talks"), str(tmp_path / "more"), *given)
    assert not (tmp_path / "more").exists()
    assert "expected conversations" in refused("judge", photos, "--images", photos, *given)


@pytest.mark.parametrize(
    "words",
    [("--workers", "-1"), ("--retry", ""), ("--retry", " , ")],
)
def test_options_without_a_meaning_are_refused(photos, words):
    """An empty --retry comes from a variable that is not set: without --retry all rows might be made again."""
    ended = call("download", photos, *words)
    assert (ended.exit_code, words[0] in ended.output) == (2, True)


def test_show_refuses_a_limit_below_one(photos):
    assert call("show", photos, "--status", "import=ok", "--limit", "0").exit_code == 2


def test_a_published_recipe_is_printed_alone():
    printed = call("recipes", "data/demo").output
    assert printed == (FOLDER / "data" / "demo.yaml").read_text(encoding="utf-8")
    assert refused("recipes", "demo") == "demo: several recipes have this name. Give data/demo or mixes/demo."


def test_a_stopped_training_exits_with_130(monkeypatch):
    monkeypatch.setattr("trainer.launch.train", lambda *_, **__: {"stage": "pretrain", "stopped": True})
    ended = call("train", "demo-pretrain", "--json")
    assert (ended.exit_code, json.loads(ended.output)["stopped"]) == (130, True)


def test_a_demo_that_is_stopped_while_it_trains_is_interrupted(monkeypatch, tmp_path):
    made = {"model": "base", "reused": True, "tower": {"loss": 1}, "language": {"loss": 1}}
    monkeypatch.setattr("lavabeam.demo.training.make_base_model", lambda *_: made)
    monkeypatch.setattr("lavabeam.demo.training.train", lambda *_, **__: {"stage": "pretrain", "stopped": True})
    with pytest.raises(KeyboardInterrupt):
        train_demo(tmp_path, say=list)


def test_ctrl_c_while_packages_are_looked_up_is_one_line(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.catalog.refused", interrupted)
    with pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code, capsys.readouterr().err.count("\n")) == (130, 1)
