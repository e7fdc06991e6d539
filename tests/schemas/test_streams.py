"""Compressed and re-encoded text is the same text."""

import bz2
import codecs
import gzip
import io
import lzma
import zipfile

import pyarrow as pa
import pytest

from schemas.errors import InputError
from schemas.streams import open_text, read_text

TEXT = ("".join(f"line {number} é\n" for number in range(5000))).encode()


def zstd(data):
    return pa.Codec("zstd").compress(data, asbytes=True)


def zipped(data, *names):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, data)
    return file.getvalue()


FORMS = {
    "plain": TEXT,
    "utf-8 with a mark": codecs.BOM_UTF8 + TEXT,
    "utf-16": TEXT.decode().encode("utf-16"),
    "utf-16-be": codecs.BOM_UTF16_BE + TEXT.decode().encode("utf-16-be"),
    "utf-32": TEXT.decode().encode("utf-32"),
    "gzip": gzip.compress(TEXT),
    "gzip of two members": gzip.compress(TEXT[:99]) + gzip.compress(TEXT[99:]),
    "gzip of utf-16": gzip.compress(TEXT.decode().encode("utf-16")),
    "gzip with a mark": gzip.compress(codecs.BOM_UTF8 + TEXT),
    "bzip2": bz2.compress(TEXT),
    "xz": lzma.compress(TEXT),
    "zstd": zstd(TEXT),
    "zip": zipped(TEXT, "list.csv"),
    "zip of a Mac": zipped(TEXT, "list.csv", "__MACOSX/._list.csv"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_text(tmp_path, form):
    path = tmp_path / "list.of.any.name"
    path.write_bytes(FORMS[form])
    with open_text(str(path)) as file:
        assert file.read() == TEXT
    for offset, length in ((0, 10), (10, 1000), (40_000, 100), (5, 7), (len(TEXT) - 3, 3)):
        assert read_text(str(path), offset, length) == TEXT[offset : offset + length]


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz", "zstd"])
def test_slices_in_order_cost_one_pass(tmp_path, form, monkeypatch):
    path = tmp_path / "list"
    path.write_bytes(FORMS[form])
    from schemas import streams

    opened = []
    real = streams._Decoded.__init__
    monkeypatch.setattr(streams._Decoded, "__init__", lambda self, path: (opened.append(path), real(self, path))[1])
    parts = [read_text(str(path), start, 1000) for start in range(0, len(TEXT), 1000)]
    assert b"".join(parts) == TEXT
    assert len(opened) <= 1


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "list.gz"
    path.write_bytes(gzip.compress(b"old text"))
    assert read_text(str(path), 0, 3) == b"old"
    path.write_bytes(gzip.compress(b"the new text"))
    assert read_text(str(path), 4, 8) == b"new text"


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz", "zstd", "zip"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_a_cut_or_damaged_file_is_one_error(tmp_path, form, damage):
    data = bytearray(FORMS[form])
    half = len(data) // 2
    if damage == "cut":
        del data[half:]
    else:
        data[half : half + 40] = bytes(byte ^ 0x5A for byte in data[half : half + 40])
    path = tmp_path / f"list.{form}"
    path.write_bytes(data)
    with (
        pytest.raises(InputError, match=f"list.{form}: the {form} data is truncated or damaged after byte"),
        open_text(str(path)) as file,
    ):
        file.read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(b"a", "a.csv", "b.csv"), r"this one holds 2 \(a.csv, b.csv\)"),
        (codecs.BOM_UTF16_LE + b"a\0b", "its byte order mark promises utf-16"),
    ],
)
def test_what_is_no_single_text_says_so(tmp_path, content, message):
    path = tmp_path / "list"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message), open_text(str(path)) as file:
        file.read()


def test_a_missing_file():
    with pytest.raises(InputError, match="no such file"), open_text("nothing.csv"):
        pass
