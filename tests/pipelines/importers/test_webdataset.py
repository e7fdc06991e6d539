"""Tar archives whose members share names."""

import io
import json
import tarfile

import pytest

from pipelines.importers.webdataset import WebDataset, WebDatasetConfig
from schemas.errors import InputError
from tests.pipelines.importers.archives import all_rows, archive, png

LONG = "a-very-long-folder-name/" * 6

MEMBERS = [
    ("000.png", png("red")),
    ("000.txt", b"a red picture\n"),
    ("000.json", json.dumps({"url": "http://photos.test/0.png", "license": "CC0"}).encode()),
    (f"{LONG}001.png", png("green")),
    (f"{LONG}001.json", b"{broken"),
    ("002.txt", b"no picture"),
    ("003.PNG", b"junk"),
    ("004.png", png("blue")),
]


def importer(path, **config):
    return WebDataset(WebDatasetConfig(path=str(path), **config))


@pytest.mark.parametrize("rows_per_slice", [1, 2, 10])
def test_samples_become_rows(tmp_path, rows_per_slice):
    archive(tmp_path / "shard-0.tar", MEMBERS)
    rows = all_rows(importer(tmp_path / "shard-0.tar", rows_per_slice=rows_per_slice, source="shards"))
    assert [row["key"] for row in rows] == [
        "shard-0/000",
        f"shard-0/{LONG}001",
        "shard-0/002",
        "shard-0/003",
        "shard-0/004",
    ]
    assert [row["import_status"] for row in rows] == ["ok", "bad_value", "no_image", "undecodable", "ok"]
    first = rows[0]
    assert (first["alt_text"], first["url"], first["license"]) == ("a red picture", "http://photos.test/0.png", "CC0")
    assert (first["width"], first["source"], first["image"]["bytes"]) == (6, "shards", png("red"))
    assert rows[1]["image"]["bytes"] == png("green")
    assert rows[1]["import_detail"].startswith("the json member cannot be read")


def test_a_new_archive_leaves_earlier_slices_unchanged(tmp_path):
    archive(tmp_path / "shard-0.tar", MEMBERS[:5])
    old = importer(tmp_path / "*.tar", rows_per_slice=2).slices()
    archive(tmp_path / "shard-1.tar", MEMBERS[5:])
    new = importer(tmp_path / "*.tar", rows_per_slice=2).slices([part.rows for part in old])
    assert [part.digest for part in new[: len(old)]] == [part.digest for part in old]
    assert sum(part.rows for part in new) == 5


def test_cut_and_foreign_files_are_refused(tmp_path):
    archive(tmp_path / "shard.tar", MEMBERS)
    (tmp_path / "shard.tar").write_bytes((tmp_path / "shard.tar").read_bytes()[:600])
    with pytest.raises(InputError, match="not a tar archive, or it was truncated"):
        importer(tmp_path / "shard.tar").slices()
    (tmp_path / "text.tar").write_text("hello " * 200)
    with pytest.raises(InputError, match="not a tar archive"):
        importer(tmp_path / "text.tar").slices()


def pax(**values):
    """An extended header in front of the next member."""
    records = b""
    for name, value in values.items():
        line = f" {name.replace('__', '.')}={value}\n".encode()
        records += str(len(line) + 2).encode() + line
    entry = tarfile.TarInfo("pax")
    entry.type, entry.size = tarfile.XHDTYPE, len(records)
    return entry.tobuf() + records.ljust(512, b"\0")


def member(size=None, kind=tarfile.REGTYPE):
    entry = tarfile.TarInfo("a.png")
    entry.size, entry.type = len(png("red")) if size is None else size, kind
    return entry.tobuf(tarfile.GNU_FORMAT) + png("red").ljust(512, b"\0")


def sparse(size):
    """A member that says that its one block is followed by zeros up to `size` bytes (GNU's old format)."""
    head = bytearray(member(512, tarfile.GNUTYPE_SPARSE))
    head[386:410], head[483:495] = b"%011o\0%011o\0" % (0, 512), b"\x80\0\0\0" + size.to_bytes(8, "big")
    head[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(head[:512]))[0]
    return bytes(head)


HOSTILE = {
    "sparse": sparse(10 << 40),
    "sparse map": pax(GNU__sparse__map="x,y", GNU__sparse__size="12") + member(),
    "a size that no file has": pax(size="99999999999999") + member(),
    "a size of 2**80": member(2**80),
    "headers of headers": pax(a="b") * 2000 + member(),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_one_clear_error(what, tmp_path):
    (tmp_path / "a.tar").write_bytes(HOSTILE[what] + bytes(1024))
    with pytest.raises(InputError, match=r"a\.tar: this is not a tar archive"):
        all_rows(importer(tmp_path / "a.tar"))


def test_keys_that_repeat_are_refused(tmp_path):
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        archive(tmp_path / folder / "000.tar", [("a.png", png("red"))])
    made = WebDataset(WebDatasetConfig(path=f"{tmp_path}/*/000.tar"))
    with pytest.raises(InputError, match=r"val/000.tar: the key '000/a' also appears in an earlier row"):
        made.slices()


def test_names_that_are_not_utf_8(tmp_path):
    path = tmp_path / "latin.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        entry = tarfile.TarInfo("café.png")
        entry.size = len(png("red"))
        tar.addfile(entry, io.BytesIO(png("red")))
    made = WebDataset(WebDatasetConfig(path=str(path)))
    (row,) = made.rows(made.slices()[0]).to_pylist()
    assert (row["key"], row["width"], row["import_status"]) == ("latin/caf\\udce9", 6, "ok")


def test_an_archive_without_a_sample_is_named(tmp_path):
    for name in ("a.tar", "b.tar"):
        with tarfile.open(tmp_path / name, "w") as archive:
            if name == "b.tar":
                archive.addfile(tarfile.TarInfo("README"), io.BytesIO())
    with pytest.raises(InputError, match=r"a\.tar: no sample in the archive\. Expected files such as 000\.jpg"):
        WebDataset(WebDatasetConfig(path=str(tmp_path / "a.tar"))).slices()
    with pytest.raises(InputError, match=r"Files that belong to no sample: .*without an ending"):
        WebDataset(WebDatasetConfig(path=str(tmp_path / "*.tar"))).slices()
