"""Members of a JSON object, read one at a time, are those that the json module finds."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.importers import json_lists
from schemas.errors import InputError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=6), values, max_size=6)


def members(text):
    return [(name, raw.value) for name, raw in json_lists.object_values(io.BytesIO(text.encode()), "file")]


@settings(max_examples=100, deadline=None)
@given(objects, st.sampled_from([None, 0, 2]), st.booleans(), st.data())
def test_members_are_those_of_the_json_module(content, indent, ascii, data):
    text = json.dumps(content, indent=indent, ensure_ascii=ascii)
    assert members(text) == list(content.items())
    for name in [*content, "absent "]:
        assert json_lists.member_value(io.BytesIO(text.encode()), "file", name) == content.get(name)
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(InputError):
        members(text[:cut])


def test_a_window_that_ends_anywhere_changes_nothing(monkeypatch):
    content = {f"{n:05d}": {"text": "é\n" * n, "n": n} for n in range(40)}
    expected = list(content.items())
    for size in (1, 2, 7, 64):
        monkeypatch.setattr(json_lists, "_CHUNK", size)
        assert members(json.dumps(content, ensure_ascii=False)) == expected


def test_what_follows_a_found_member_is_not_read():
    text = b'{"info": {}, "data_subtype": "train2014", "questions": [1, 2'
    assert json_lists.member_value(io.BytesIO(text), "file", "data_subtype") == "train2014"
    with pytest.raises(InputError, match=r"file:1: .* is expected after a value"):
        json_lists.member_value(io.BytesIO(text), "file", "license")
