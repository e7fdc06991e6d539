"""`lavabeam tokens`: rows of any origin, shown as the model gets them."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from schemas.chat import IGNORE, ImageRule
from schemas.chat.show import tokens_command
from schemas.errors import InputError

GOOD = {
    "id": "a1",
    "image": "a.jpg",
    "conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "Two dogs."}],
}
TEXT = {"id": "t", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
BAD = {"id": "b", "conversations": [{"from": "human", "value": "Hi"}, {"from": "human", "value": "Hi"}]}


def write(path: Path, rows: list[Any]) -> str:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(lines if path.suffix == ".jsonl" else json.dumps(rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_json_lines_hold_ids_labels_and_supervised_text(name: str, tmp_path: Path, folder: Path) -> None:
    lines = tokens_command(write(tmp_path / name, [GOOD, TEXT]), "v1", str(folder), as_json=True)
    first, second = (json.loads(line) for line in lines)
    assert (first["id"], first["supervised_text"], first["image_tokens"]) == ("a1", ["Two dogs.</s>"], 576)
    assert first["n_supervised"] == sum(label != IGNORE for label in first["labels"]) > 0
    assert len(first["input_ids"]) == len(first["labels"]) == first["tokens"]
    assert first["prompt"].endswith("USER: <image>\nWhat? ASSISTANT: Two dogs.</s>")
    assert (second["supervised_text"], second["truncated"], second["all_masked"]) == (["Hello</s>"], False, False)


def test_a_byte_order_mark_is_no_part_of_the_rows(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "rows.json", [TEXT])
    Path(path).write_bytes(b"\xef\xbb\xbf" + Path(path).read_bytes())
    assert len(list(tokens_command(path, "v1", str(folder), as_json=True))) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.json", json.dumps(TEXT) + "\r\n\r\n" + json.dumps(TEXT)),
        ("list.jsonl", json.dumps([TEXT, TEXT])),
        ("pretty.jsonl", json.dumps([TEXT, TEXT], indent=2)),
        ("last.jsonl", json.dumps(TEXT) + "\n" + json.dumps(TEXT)),
    ],
)
def test_lists_and_lines_are_distinguished_by_what_they_hold(
    name: str, content: str, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8", newline="")
    rows = [json.loads(line) for line in tokens_command(str(tmp_path / name), "v1", str(folder), as_json=True)]
    assert len(rows) == 2
    assert rows[0] == rows[1]
    (tmp_path / name).write_text(json.dumps(TEXT, indent=1))
    assert len(list(tokens_command(str(tmp_path / name), "v1", str(folder), as_json=True))) == 1


def test_a_row_whose_pictures_and_placeholders_differ_is_marked(tmp_path: Path, folder: Path) -> None:
    lost = {"conversations": GOOD["conversations"], "id": "\ud83d"}
    path = write(tmp_path / "rows.json", [lost, {**TEXT, "image": "a.jpg"}, GOOD])
    lines = [json.loads(line) for line in tokens_command(path, "v1", str(folder), as_json=True)]
    assert [row["image_tokens"] for row in lines] == [0, 0, 576]
    assert lines[0]["warning"].startswith("<image> is in its text, and the row names nothing")
    # A terminal cannot print an unpaired surrogate.
    assert lines[0]["id"] == "\\ud83d"
    assert lines[1]["warning"].startswith("1 images and 0 <image> in its conversations.")
    assert lines[2]["warning"] is None


def test_compat_shows_the_placeholder_and_max_length_cuts(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "rows.json", [GOOD, TEXT])
    first, second = map(
        json.loads, tokens_command(path, "v1", str(folder), compat="llava", max_length=12, as_json=True)
    )
    assert first["input_ids"].count(-200) == 1
    assert (len(second["input_ids"]), second["truncated"]) == (12, True)


def test_supervised_text_is_marked_and_pictures_are_collapsed(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "rows.json", [GOOD])
    (plain,) = tokens_command(path, "v1", str(folder), color=False)
    assert "[picture x 576]" in plain
    assert "\u00abTwo dogs.</s>\u00bb" in plain
    assert "32000 x 576" in plain
    (colored,) = tokens_command(path, "v1", str(folder), color=True)
    assert "\x1b[32mTwo dogs.</s>" in colored


def test_a_bad_row_is_shown_and_named_after_the_others(tmp_path: Path, folder: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [BAD, GOOD, {"id": "x"}])
    lines = tokens_command(path, "v1", str(folder), compat="llava", as_json=True)
    assert "turns do not alternate" in json.loads(next(lines))["error"]
    assert json.loads(next(lines))["id"] == "a1"
    assert "no list `conversations`" in json.loads(next(lines))["error"]
    with pytest.raises(InputError, match=r"rows.jsonl, row 0 \(id b\): the original code fails.*2 of 3 rows failed"):
        next(lines)


def test_anyres_needs_the_pictures(tmp_path: Path, folder: Path) -> None:
    from PIL import Image

    path, rule = write(tmp_path / "rows.json", [GOOD]), ImageRule("anyres")
    with pytest.raises(InputError, match="give the folder of images"):
        list(tokens_command(path, "v1", str(folder), rule=rule))
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")
    (line,) = tokens_command(path, "v1", str(folder), rule=rule, images=str(tmp_path), as_json=True)
    assert json.loads(line)["image_tokens"] == 2340


def test_a_samples_dataset_brings_its_sizes_and_its_rule(tmp_path: Path, folder: Path) -> None:
    import pyarrow as pa

    from schemas.records import SAMPLES
    from schemas.writing import write_dataset

    content = [{"type": "image", "text": None}, {"type": "text", "text": "\nWhat?"}]
    said = [{"role": "user", "content": content}, {"role": "assistant", "content": [{"type": "text", "text": "Two"}]}]
    row = dict.fromkeys(SAMPLES.names) | {"key": "s1", "messages": said, "widths": [640], "heights": [480]}
    row |= {"images": [{"bytes": b"", "path": None}], "kind": "detail", "source": "test"}
    row |= dict.fromkeys(("image_count", "image_tokens", "tokens", "supervised_tokens"), 1)
    table = pa.Table.from_pylist([row], schema=SAMPLES)
    write_dataset(str(tmp_path / "mix"), "samples", [table], {"image": ImageRule("anyres").to_dict()})
    (line,) = tokens_command(str(tmp_path / "mix"), "v1", str(folder), as_json=True)
    assert (json.loads(line)["id"], json.loads(line)["image_tokens"]) == ("s1", 2340)


def test_files_that_cannot_be_read_are_named(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "rows.json").write_text('{"a": 1}')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "latin.json").write_bytes('["caf\u00e9"]'.encode("latin-1"))
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(json.dumps([TEXT] * 99).encode())[:-20])
    (tmp_path / "broken.json").write_text("[")
    (tmp_path / "broken.jsonl").write_text(json.dumps(TEXT) + "\n{\n")
    for name, message in (
        ("rows.json", r"rows.json, row 0: no list `conversations` \(keys \['a'\]\)"),
        ("empty.jsonl", "the file is empty"),
        ("none.json", "contains no rows"),
        ("latin.json", "not UTF-8 text"),
        ("cut.json.gz", "the gzip data is truncated or damaged"),
        ("broken.json", "broken.json: not valid JSON"),
        ("broken.jsonl", "broken.jsonl, row 1: not valid JSON"),
        ("missing.json", "no such file; expected a .json or .jsonl file"),
    ):
        with pytest.raises(InputError, match=message):
            list(tokens_command(str(tmp_path / name), "v1", str(folder)))


@pytest.mark.parametrize(
    ("name", "form"), [("rows.json.gz", gzip.compress), ("rows.jsonl", bz2.compress), ("rows.json.xz", lzma.compress)]
)
def test_compressed_and_wide_files_are_the_same_rows(tmp_path: Path, folder: Path, name: str, form: Any) -> None:
    plain = list(tokens_command(write(tmp_path / "rows.json", [GOOD, TEXT]), "v1", str(folder), as_json=True))
    text = json.dumps([GOOD, TEXT]) if "jsonl" not in name else f"{json.dumps(GOOD)}\n{json.dumps(TEXT)}\n"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / name).write_bytes(form(text.encode(encoding)))
        assert list(tokens_command(str(tmp_path / name), "v1", str(folder), as_json=True)) == plain


def test_a_dataset_with_failed_rows_is_shown_to_its_end(tmp_path: Path, folder: Path) -> None:
    import pyarrow as pa

    from schemas.records import CONVERSATIONS
    from schemas.writing import write_dataset

    said = [{"role": role, "content": [{"type": "text", "text": "Two"}]} for role in ("user", "assistant")]
    rows = [
        {"key": "a", "status": "bad_conversation", "detail": "no turns"},
        {"key": "b", "status": "no_image", "detail": "b.jpg is not in the image folder", "messages": said},
        {"key": "c", "status": "ok", "messages": said, "image_keys": []},
    ]
    write_dataset(str(tmp_path / "talks"), "conversations", [pa.Table.from_pylist(rows, CONVERSATIONS)], {})
    shown = tokens_command(str(tmp_path / "talks"), "v1", str(folder), as_json=True)
    lines = [json.loads(next(shown)) for _ in rows]
    with pytest.raises(InputError, match=r"row 'a': no messages, status bad_conversation \(no turns\)"):
        next(shown)
    assert [line.get("error") or line["warning"] for line in lines] == [
        "row 'a': no messages, status bad_conversation (no turns).",
        "status no_image (b.jpg is not in the image folder); no mix takes it",
        None,
    ]


@pytest.mark.parametrize("compat", [None, "llava"])
def test_a_tokenizer_that_does_not_fit_the_template_stops_before_the_first_row(
    compat: str | None, tmp_path: Path, folder: Path
) -> None:
    path = write(tmp_path / "rows.json", [GOOD, TEXT])
    with pytest.raises(InputError, match=r"the tokenizer has no token <\|im_start\|>"):
        next(tokens_command(path, "qwen", str(folder), compat=compat))
