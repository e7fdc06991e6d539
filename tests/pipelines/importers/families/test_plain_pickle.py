"""Pickles of plain values equal what Python reads, and nothing of any other one is run, looked up or too big."""

import bz2
import contextlib
import gzip
import os
import pickle
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.importers.families import pickle_machine
from pipelines.importers.families.plain_pickle import load_plain
from schemas.errors import InputError

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary().filter(lambda data: not _is_text(data))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner) | st.tuples(inner, inner, inner)
    ),
    max_leaves=12,
)
REFS = [
    {
        "ref_id": number,
        "split": "train",
        "sent_ids": [number],
        "sentences": [{"sent": "the cat's \\ hat", "raw": "The cat's \\ hat", "tokens": ["the", "cat", "hat"]}] * 2,
        "area": -1.5,
        "big": 2**40,
    }
    for number in range(3)
]


def _is_text(data):
    try:
        return data.decode() is not None
    except UnicodeDecodeError:
        return False


class Call:
    def __reduce__(self):
        return os.system, ("touch /tmp/should-not-exist",)


@pytest.fixture
def load(tmp_path):
    def load(content):
        (tmp_path / "refs(unc).p").write_bytes(content)
        return load_plain(str(tmp_path / "refs(unc).p"))

    return load


def from_bytes(content, folder):
    path = folder / "value.p"
    path.write_bytes(content)
    return load_plain(str(path))


@settings(deadline=None, max_examples=40)
@given(value=VALUES, protocol=st.sampled_from([1, 3, 4, 5]))
def test_values_equal_those_of_python(tmp_path_factory, value, protocol):
    # Python 3 writes bytes as a call below protocol 3, so those are left to the test of Python 2's text.
    content = pickle.dumps(value, protocol)
    if protocol < 3 and b"_codecs" in content:
        return
    found = from_bytes(content, tmp_path_factory.getbasetemp())
    assert (found, repr(found)) == (value, repr(value))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps])
def test_refs_of_every_protocol(load, protocol, dumps):
    assert load(dumps(REFS, protocol)) == REFS


@pytest.mark.parametrize(
    ("content", "value"),
    [
        (
            rb"(lp1" + b"\n(dp2\nS'sent'\np3\nS'a \\'big\\' caf\\xc3\\xa9\\n'\np4\nsa.",
            [{"sent": "a 'big' caf\u00e9\n"}],
        ),
        (
            b"]q\x01}q\x02(U\x04sentq\x03U\x05caf\xc3\xa9q\x04U\x03rawh\x04ua.",
            [{"sent": "caf\u00e9", "raw": "caf\u00e9"}],
        ),
        (b"S'caf\\xe9'\n.", b"caf\xe9"),
        (b"(I1\nI01\nI00\nL-5L\nF1.5\nV\\u00e9\nNtp0\n.", (1, True, False, -5, 1.5, "\u00e9", None)),
        (b"(NN0N1N2\x86.", (None, None)),
        (b"(0N.", None),
    ],
)
def test_what_python_2_wrote(load, content, value):
    assert load(content) == value


def test_compressed_files(tmp_path):
    for compress in (gzip.compress, bz2.compress):
        assert from_bytes(compress(pickle.dumps(REFS)), tmp_path) == REFS


@pytest.mark.parametrize("protocol", range(6))
def test_nothing_is_called(load, protocol):
    with pytest.raises(InputError, match=r"refs\(unc\)\.p, byte \d+: the pickle names a class or a function") as error:
        load(pickle.dumps([{"ref_id": Call()}], protocol))
    assert "Nothing was executed" in str(error.value)
    assert not os.path.exists("/tmp/should-not-exist")


@pytest.mark.parametrize(
    "content",
    [
        b"cos\nsystem\n.",
        b"(ios\nsystem\n.",
        b"(S'os'\nS'system'\no.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"}}b.",
        b")R.",
        b"\x82\x01.",
        b"Pname\n.",
        b"NQ.",
        b")\x81.",
    ],
)
def test_classes_calls_and_names_of_objects_are_refused(load, content):
    with pytest.raises(InputError, match="names a class or a function"):
        load(content)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "the file is empty"),
        (b"not a pickle", "b'n' is not an opcode"),
        (b"\x80\x06N.", "protocol 6, expected at most 5"),
        (b"N.N.", "data after the end"),
        (b"NN.", "ends with 2 values"),
        (b"(N.", "ends with 1 values"),
        (b".", "ends with 0 values"),
        (b"a.", "values are missing"),
        (b"](a.", "values are missing"),
        (b"N(e.", "a value is missing|added to NoneType"),
        (b"}(Ne.", "added to dict"),
        (b"}(Nu.", "one is incomplete"),
        (b"}K\x01Ns.", "a name in a dict is int"),
        (b"}))s.", "a name in a dict is tuple"),
        (b"h\x05.", "truncated or damaged"),
        (b"I1x\n.", "truncated or damaged"),
        (b"I" + b"9" * 5000 + b"\n.", "truncated or damaged"),
        (b"V" + b"a" * (3 << 20) + b"\n.", "a line of more than"),
        (b"\x8b\xff\xff\xff\xff.", "a number of 4294967295 bytes"),
        (b"X\x02\x00\x00\x00\xff\xfe.", "truncated or damaged"),
    ],
)
def test_damage_is_one_error(load, content, found):
    with pytest.raises(InputError, match=found):
        load(content)


def test_every_cut_is_an_error(load):
    for protocol in (0, 2, 4):
        content = pickle.dumps(REFS[:1], protocol)
        for end in range(len(content)):
            with pytest.raises(InputError):
                load(content[:end])


@settings(deadline=None, max_examples=100)
@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused(tmp_path_factory, protocol, changes):
    content = bytearray(pickle.dumps(REFS, protocol))
    for place, byte in changes:
        content[place % len(content)] = byte
    with contextlib.suppress(InputError):
        from_bytes(bytes(content), tmp_path_factory.getbasetemp())


@pytest.mark.parametrize(
    "content",
    [
        b"\x8d" + (2**60).to_bytes(8, "little") + b"x",
        b"T\xff\xff\xff\xff",
        b"(" + b"]" * 100_000,
        b"(" + b"}" * 50_000,
        b"N" + b"".join(b"r" + number.to_bytes(4, "little") for number in range(0, 2**32, 2**16)),
        b"N" + b"2" * 200_000,
        b"(" * 200_000,
    ],
)
def test_memory_is_bounded(load, content, monkeypatch):
    monkeypatch.setattr(pickle_machine, "BUDGET", 4 << 20)
    tracemalloc.start()
    with pytest.raises(InputError, match="take more than 4 MB of memory"):
        load(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_an_index_of_four_bytes_takes_no_memory(load):
    assert load(b"]r\xff\xff\xff\x7fj\xff\xff\xff\x7f0.") == []
