import io
import os
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.dedupe import Dedupe, DedupeConfig
from pipelines.engine import tasks
from pipelines.engine.imports import run_import
from pipelines.engine.runners import Runner
from pipelines.engine.work import run_step
from pipelines.importers.image_folder import ImageFolder, ImageFolderConfig
from pipelines.mix import MixRecipe, MixSource, run_mix
from pipelines.mix.pictures import stored
from pipelines.mix.recipe import Pictures, load_mix
from pipelines.mix.select import copies, key_hash, refused_by
from schemas import Dataset
from schemas.chat import ImageRule, load_tokenizer
from schemas.errors import InputError
from schemas.pictures import PictureError
from schemas.records import BASE, SAMPLES, STORED_IMAGE
from schemas.writing import write_dataset
from tests.pictures import BROKEN, SIZE, USABLE
from tests.pipelines.tokenizer import write_tokenizer
from trainer.inputs.data import Item, Samples

LOCAL = Runner("local", 1)
ANYRES = ImageRule("anyres", 8, 4, pinpoints=((8, 16), (16, 8), (16, 16), (24, 8), (8, 24)))
TURNED = [case for case in USABLE if "orientation" in case.name or "exif" in case.name]
RULE = {"mode": "square", "image_size": 8, "patch_size": 4}


def picture(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(buffer, "PNG")
    return buffer.getvalue()


def image_row(number: int, status: str = "ok", dedupe: str = "ok") -> dict:
    return {
        "key": f"p{number}",
        "caption": f"picture {number}" if number else None,
        "image": {"bytes": picture(20, 10), "path": None},
        "width": 20,
        "height": 10,
        "download_status": status,
        "dedupe_status": dedupe,
    }


def talk(key: str, picture: str | None, words: str = "a b", kind: str = "detail", status: str = "ok") -> dict:
    asked = [{"type": "image", "text": None}] if picture else []
    return {
        "key": key,
        "image_keys": [picture] if picture else [],
        "messages": [
            {"role": "user", "content": [*asked, {"type": "text", "text": "what"}]},
            {"role": "assistant", "content": [{"type": "text", "text": words}]},
        ],
        "kind": kind,
        "status": status,
    }


@pytest.fixture
def folder(tmp_path):
    extra = [("caption", pa.string()), ("download_status", pa.string()), ("dedupe_status", pa.string())]
    schema = pa.schema([*BASE["images"], *STORED_IMAGE, *(pa.field(*pair) for pair in extra)])
    images = [image_row(0), image_row(1, "timeout"), image_row(2, dedupe="copy"), image_row(3)]
    parts = [pa.Table.from_pylist(images[:2], schema), pa.Table.from_pylist(images[2:], schema)]
    write_dataset(tmp_path / "photos", "images", parts)
    talks = [
        talk("t0", "p0"),
        talk("t1", "p1"),
        talk("t2", "p2"),
        talk("t3", "p3", kind="reasoning"),
        talk("t4", "nowhere"),
        talk("t5", "p3", status="refused"),
        talk("t6", None),
        talk("t7", "p3", words=""),
        talk("t8", "p3", words=" a" * 50),
    ]
    write_dataset(tmp_path / "talks", "conversations", [pa.Table.from_pylist(talks, BASE["conversations"])])
    write_tokenizer(tmp_path / "tokenizer")
    return tmp_path


def recipe(folder, **more) -> MixRecipe:
    source = {"conversations": str(folder / "talks"), "images": str(folder / "photos"), **more.pop("source", {})}
    values = {"template": "chatml", "image": RULE, "tokenizer": str(folder / "tokenizer"), **more}
    return MixRecipe(sources={"talks": MixSource(**source)}, **values)


def kept(folder) -> list[str]:
    dataset = Dataset.open(folder / "mix")
    return [row["key"] for row in dataset.take(range(dataset.rows), ["key"])]


def test_what_was_left_out_is_counted_with_its_reason(folder):
    made = run_mix(recipe(folder, max_tokens=80), folder / "mix", LOCAL)
    # t7's empty answer still teaches its end mark.
    assert kept(folder) == ["talks/t0", "talks/t3", "talks/t6", "talks/t7"]
    expected = {
        "download=timeout": 1,
        "duplicate": 1,
        "image_missing": 1,
        "import=refused": 1,
        "too_long": 1,
    }
    assert {reason: made.statuses.get(reason) for reason in expected} == expected
    assert sum(made.statuses.values()) == 9


def test_ids_other_keys_and_names_of_pictures_are_copied(folder):
    talks = [{**talk("t0", "p0"), "id": "7", "extra": '{"id":7,"model":""}'}, talk("t1", None)]
    write_dataset(folder / "imported", "conversations", [pa.Table.from_pylist(talks, BASE["conversations"])])
    run_mix(recipe(folder, source={"conversations": str(folder / "imported")}), folder / "mix", LOCAL)
    first, second = Dataset.open(folder / "mix").take([0, 1], ["id", "extra", "images"])
    assert (first["id"], first["extra"], first["images"][0]["path"]) == ("7", '{"id":7,"model":""}', "p0")
    assert second == {"id": None, "extra": None, "images": []}


def test_a_row_that_no_template_can_show_is_counted_and_named(folder):
    talks = [talk("good", None), {**talk("bad", "p0"), "image_keys": ["p0", "p3"]}]
    write_dataset(folder / "broken", "conversations", [pa.Table.from_pylist(talks, BASE["conversations"])])
    made = run_mix(recipe(folder, source={"conversations": str(folder / "broken")}), folder / "mix", LOCAL)
    assert kept(folder) == ["talks/good"]
    assert made.statuses == {"taken": 1, "cannot_encode": 1}
    (note,) = made.notes
    assert "row 'bad': the messages show 1 pictures, and 2 sizes" in note


@pytest.mark.parametrize("question", ["<image>\nWhat?", "<video>\nWhat?"])
def test_a_row_that_lost_what_it_shows_is_counted_and_named(folder, question):
    lost = talk("lost", None)
    lost["messages"][0]["content"][0]["text"] = question
    talks = pa.Table.from_pylist([talk("good", None), lost], BASE["conversations"])
    write_dataset(folder / "lost", "conversations", [talks])
    made = run_mix(recipe(folder, source={"conversations": str(folder / "lost")}), folder / "mix", LOCAL)
    assert (kept(folder), made.statuses) == (["talks/good"], {"taken": 1, "cannot_encode": 1})
    assert "is in its text" in made.notes[0]


def test_a_source_that_gave_no_row_is_told_with_the_reasons(folder):
    made = run_mix(recipe(folder, source={"kinds": ["detailed"]}), folder / "mix", LOCAL)
    assert made.rows == 0
    assert made.notes == ("mix source 'talks' yields no rows: 8 kind, 1 import=refused.",)
    again = run_mix(recipe(folder, source={"kinds": ["detailed"]}), folder / "mix", LOCAL)
    assert (again.made, again.reused, again.manifest) == (0, 1, made.manifest)


def test_pictures_without_an_image_rule_are_told(folder):
    with pytest.raises(InputError, match=r"row 't0': .*Give the recipe an `image` rule"):
        run_mix(recipe(folder, image={}), folder / "mix", LOCAL)


def test_samples_carry_pictures_sizes_and_exact_counts(folder):
    run_mix(recipe(folder), folder / "mix", LOCAL)
    dataset = Dataset.open(folder / "mix")
    row = dataset[0]
    assert row["images"][0]["bytes"] == picture(20, 10)
    assert (row["widths"], row["heights"], row["image_count"], row["image_tokens"]) == ([20], [10], 1, 4)
    assert row["tokens"] > row["image_tokens"] + row["supervised_tokens"]
    assert dataset.manifest.info["template"] == "chatml"
    assert [parent.path for parent in dataset.manifest.parents] == [str(folder / "talks"), str(folder / "photos")]


def test_another_policy_is_another_mix_and_the_same_one_is_not_made_twice(folder):
    first = run_mix(recipe(folder), folder / "mix", LOCAL)
    assert run_mix(recipe(folder), folder / "mix", LOCAL).made == 0
    run_mix(recipe(folder, source={"duplicates": "keep"}), folder / "mix", LOCAL)
    assert "talks/t2" in kept(folder)
    assert run_mix(recipe(folder), folder / "mix", LOCAL).rows == first.rows


def test_kinds_filters_and_weights(folder):
    run_mix(recipe(folder, source={"kinds": ["reasoning"], "weight": 2}), folder / "mix", LOCAL)
    assert kept(folder) == ["talks/t3", "talks/t3#2"]
    run_mix(recipe(folder, source={"image_where": {"width": {"min": 21}}}), folder / "mix", LOCAL)
    assert kept(folder) == ["talks/t6"]


def test_captions_become_pairs_of_picture_and_caption(folder):
    source = {"conversations": None, "captions": "caption"}
    made = run_mix(recipe(folder, source=source, template="plain"), folder / "mix", LOCAL)
    assert kept(folder) == ["talks/p3/caption"]
    assert made.statuses["no_caption"] == 1
    assert Dataset.open(folder / "mix")[0]["messages"][1]["content"][0]["text"] == "picture 3"


def test_pictures_are_shrunk_once_and_their_sizes_follow(folder):
    run_mix(recipe(folder, pictures={"max_side": 10}), folder / "mix", LOCAL)
    row = Dataset.open(folder / "mix")[0]
    assert (row["widths"], row["heights"]) == ([10], [5])
    assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (10, 5)


def test_a_source_without_its_column_or_tokenizer_is_told_before_anything_runs(folder, tmp_path):
    with pytest.raises(InputError, match=r"'talks'.*no column 'score'.*Run the step that adds it first"):
        run_mix(recipe(folder, source={"image_where": {"score": {"min": 1}}}), folder / "mix", LOCAL)
    with pytest.raises(InputError, match=r"nowhere"):
        run_mix(recipe(folder, tokenizer=str(folder / "nowhere")), folder / "mix", LOCAL)
    assert not (folder / "mix").exists()
    file = tmp_path / "mix.yaml"
    file.write_text("tokenizer: t\ntemplate: chatml\nsources: {talks: {conversation: talks}}\n")
    with pytest.raises(InputError, match=r"mix\.yaml: unknown key 'sources\.talks\.conversation'"):
        load_mix(file)


@given(st.floats(min_value=0, max_value=5), st.integers(min_value=0, max_value=3))
def test_weights_take_their_share_of_rows(weight, seed):
    taken = [copies(key_hash(f"row {number}", seed), weight) for number in range(400)]
    assert set(taken) <= {int(weight), int(weight) + 1}
    assert abs(sum(taken) / 400 - weight) < 0.13


def test_a_filter_on_the_status_column_replaces_its_rule(folder):
    run_mix(recipe(folder, source={"where": {"kind": ["detail"]}}), folder / "mix", LOCAL)
    assert "talks/t5" not in kept(folder)
    run_mix(recipe(folder, source={"where": {"status": ["refused"]}}), folder / "mix", LOCAL)
    assert kept(folder) == ["talks/t5"]
    run_mix(recipe(folder, source={"image_where": {"download_status": ["ok", "timeout"]}}), folder / "mix", LOCAL)
    assert "talks/t1" in kept(folder)


def test_filters_tell_the_first_column_that_refuses():
    assert refused_by({"a": 3, "b": None}, {"a": {"min": 1, "max": 3}, "b": [None]}) is None
    assert refused_by({"a": 4, "b": 1}, {"b": [1], "a": {"max": 3}}) == "a above 3"
    assert refused_by({"a": 3.25}, {"a": {"min": 3.5, "max": 4}}) == "a below 3.5"
    assert refused_by({"a": None}, {"a": {"min": 0}}) == refused_by({"a": float("nan")}, {"a": {}}) == "a missing"
    assert refused_by({"a": 4}, {"a": [1, 2]}) == "a=4"
    with pytest.raises(InputError, match=r"'a' holds text\. List what passes"):
        refused_by({"a": "red"}, {"a": {"min": 0}})


def test_a_picture_that_fits_is_stored_untouched():
    content = picture(20, 10)
    assert stored(content, Pictures(max_side=20)) == (content, (20, 10))
    smaller, size = stored(content, Pictures(max_side=10, format="jpeg"))
    assert (Image.open(io.BytesIO(smaller)).format, size) == ("JPEG", (10, 5))


def samples_of(folder, name: str, rule: dict | None = None, max_length: int | None = None, cut: bool = False) -> list:
    """The rows of a mix as the trainer prepares them: items, or why they were refused."""
    dataset = Dataset.open(folder / name)
    tokenizer = load_tokenizer(str(folder / "tokenizer"))
    made = ImageRule.from_dict(rule) if rule else ANYRES
    model = SimpleNamespace(template="chatml", tokenizer=tokenizer, rule=made, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Samples(dataset, model, max_length=max_length, cut=cut).items(range(dataset.rows))


def test_a_jpeg_is_not_stored_as_a_png_that_training_would_refuse(monkeypatch):
    """A PNG takes three times the memory: one of 75 to 223 megapixels is refused, and a JPEG is not."""
    monkeypatch.setattr("schemas.pictures.BUDGET", 200 * 100 * 4)
    buffer = io.BytesIO()
    Image.new("L", (200, 100), 9).save(buffer, "JPEG")
    stored(buffer.getvalue(), Pictures())
    with pytest.raises(PictureError, match=r"200x100, \d+ MB to decode as png"):
        stored(buffer.getvalue(), Pictures(format="png"))


def test_only_files_of_a_folder_are_read(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(3, 2))
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    with (folder / "large.png").open("wb") as file:
        file.truncate(1 << 40)
    made = ImageFolder(ImageFolderConfig(path=str(folder)))
    (part,) = made.slices()
    rows = {row["key"]: row["import_status"] for row in made.rows(part).to_pylist()}
    expected = {"a.png": "ok", "device.png": "no_image", "large.png": "undecodable", "pipe.png": "no_image"}
    assert rows == expected


def test_turned_photographs_keep_one_size_from_import_to_training(folder):
    (folder / "files").mkdir()
    for number, case in enumerate([*TURNED, *BROKEN]):
        (folder / "files" / f"{number:03d}.jpg").write_bytes(case.data)
    importer = ImageFolder(ImageFolderConfig(path=str(folder / "files"), source="disk"))
    imported = run_import(importer, folder / "disk", LOCAL)
    assert imported.statuses == {"ok": len(TURNED), "undecodable": len(BROKEN) - 1, "no_image": 1}
    run_step(Dedupe(DedupeConfig(near=False)), folder / "disk", LOCAL)
    source = {"conversations": None, "captions": "key", "images": str(folder / "disk")}
    for name, pictures in (("as_is", {}), ("small", {"max_side": 16, "format": "jpeg"})):
        made = run_mix(recipe(folder, source=source, image=ANYRES.to_dict(), pictures=pictures), folder / name, LOCAL)
        assert made.statuses["taken"] > len(TURNED) / 2  # equal bytes are copies
        assert made.statuses["import=undecodable"] == len(BROKEN) - 1
        assert made.statuses["import=no_image"] == 1
        for item in samples_of(folder, name):
            assert isinstance(item, Item), item
            assert item.sizes == [(16, 11) if pictures else SIZE]
            assert len(item.pictures[0]) == ANYRES.tiles(*item.sizes[0])


def test_a_picture_that_cannot_be_read_is_counted_and_named(folder):
    cut, whole = BROKEN[0].data, picture(20, 10)
    rows = [{**image_row(1), "key": key, "image": image} for key, image in (
        ("cut", {"bytes": cut}), ("whole", {"bytes": whole}), ("null", None), ("empty", {"bytes": b""}))]  # fmt: skip
    schema = pa.schema([*BASE["images"], *STORED_IMAGE, ("caption", pa.string())])
    write_dataset(folder / "odd", "images", [pa.Table.from_pylist(rows, schema)])
    source = {"conversations": None, "captions": "caption", "images": str(folder / "odd")}
    for pictures in ({}, {"max_side": 4}, {"format": "jpeg"}):
        made = run_mix(recipe(folder, source=source, pictures=pictures), folder / "mix", LOCAL)
        assert made.statuses == {"taken": 1, "picture_unreadable": 1, "image_missing": 2}
        (note,) = made.notes
        assert "1 rows have a picture that cannot be read and were left out" in note
        assert "The first: row 'cut/caption': truncated: the jpeg ends before its end mark" in note


def test_training_refuses_a_picture_of_another_size_than_the_mix_says(folder):
    run_mix(recipe(folder, image=ANYRES.to_dict()), folder / "mix", LOCAL)
    rows = Dataset.open(folder / "mix").take([0], list(SAMPLES.names))
    rows[0]["images"] = [{"bytes": picture(10, 20), "path": None}]
    write_dataset(folder / "other", "samples", [pa.Table.from_pylist(rows, SAMPLES)])
    (refused,) = samples_of(folder, "other")
    assert refused.reason == "a picture of 10x20 pixels, and the mix says 20x10: make the mix again."
    rows[0]["images"] = [None]
    write_dataset(folder / "none", "samples", [pa.Table.from_pylist(rows, SAMPLES)])
    assert "no picture" in samples_of(folder, "none")[0].reason


def test_the_total_of_a_mix_is_the_rows_of_its_sources(folder, monkeypatch):
    shown = []

    class Watched(tasks.Progress):
        def __exit__(self, *_):
            shown.append(self.line(self.counts(), 1.0).partition(" rows")[0])
            super().__exit__()

    monkeypatch.setattr(tasks, "Progress", Watched)
    rows = Dataset.open(folder / "talks").rows
    run_mix(recipe(folder), folder / "mix", LOCAL)
    assert shown == [f"mix: {rows}/{rows}"]
