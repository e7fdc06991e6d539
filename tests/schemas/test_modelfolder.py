"""Model folders from elsewhere: headers and configurations that lie are one clear error, and nothing is allocated."""

import json
import struct

import pytest

from schemas.errors import InputError
from schemas.modelfolder import (
    Stored,
    check_config,
    check_counts,
    check_folder,
    check_parameters,
    read_header,
    read_json,
    weight_files,
)

TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def weights(file, header, data=bytes(24), length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return file


def test_a_header_says_types_and_shapes(tmp_path):
    header = {
        "__metadata__": {"format": "pt"},
        "b": {"dtype": "U8", "shape": [], "data_offsets": [24, 25]},
        "a": TENSOR,
    }
    found = read_header(weights(tmp_path / "x.safetensors", header, bytes(25)))
    assert found == {"a": Stored("F32", (2, 3)), "b": Stored("U8", ())}


LIES = {
    "a header of 2**63 bytes": ({"a": TENSOR}, 2**63, "not a safetensors file"),
    "a header longer than the file": ({"a": TENSOR}, 99_000_000, "not a safetensors file"),
    "no header": ({"a": TENSOR}, 0, "not a safetensors file"),
    "deep": (b"[" * 100_000, None, "not a safetensors file"),
    "a list": ([1], None, "not a safetensors file"),
    "a shape beyond the file": ({"a": {**TENSOR, "shape": [2**40, 2**20]}}, None, "a of shape .* takes"),
    "negative": ({"a": {**TENSOR, "shape": [-2, -3]}}, None, "a of shape"),
    "offsets beyond the file": ({"a": {**TENSOR, "data_offsets": [0, 2**62]}}, None, "header announces"),
    "a gap": ({"a": {**TENSOR, "shape": [2, 2], "data_offsets": [8, 24]}}, None, "from byte 0 on, its header says 8"),
    "two in one place": ({"a": TENSOR, "b": TENSOR}, None, "from byte 24 on, its header says 0"),
    "an unknown type": ({"a": {**TENSOR, "dtype": "Q99"}}, None, "unknown type 'Q99'"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_header_that_lies_is_one_clear_error(tmp_path, what):
    header, length, words = LIES[what]
    with pytest.raises(InputError, match=rf"x\.safetensors: .*{words}.*etch"):
        read_header(weights(tmp_path / "x.safetensors", header, length=length))


def test_pickles_are_refused_and_not_read(tmp_path):
    with pytest.raises(InputError, match="no weights"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n.")
    with pytest.raises(InputError, match=r"pytorch_model\.bin only.*pickle, which can run code"):
        weight_files(tmp_path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/b.safetensors", "x.bin", "a\\b.safetensors"])
def test_an_index_names_files_of_its_own_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(InputError, match=r"names the file .*, expected one of the same folder"):
        weight_files(tmp_path)


def test_an_index_without_a_map_is_refused(tmp_path):
    for content in ("{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(InputError, match="no weight_map"):
            weight_files(tmp_path)


CONFIGS = {
    "auto_map names code": {"auto_map": {"AutoModel": "evil.M"}},
    "text_config.auto_map names code": {"text_config": {"auto_map": {"AutoModel": "evil.M"}}},
    "attn_implementation is 'evil/kernel'": {"attn_implementation": "evil/kernel"},
    "text_config._attn_implementation is 'a/b'": {"text_config": {"_attn_implementation": "a/b"}},
    "_attn_implementation_internal is 'a/b'": {"_attn_implementation_internal": "a/b"},
    "attn_implementation is 7": {"attn_implementation": {"text_config": 7}},
    "experts_implementation is 'a/b@v1'": {"experts_implementation": "a/b@v1"},
    "text_config is nan": {"text_config": float("nan")},
    "hidden_size is 1000000": {"hidden_size": 10**30},
    "image_grid_pinpoints is 1000000": {"image_grid_pinpoints": [10**20]},
}


@pytest.mark.parametrize("words", CONFIGS)
def test_a_configuration_that_loads_code_or_lies_is_refused(tmp_path, words):
    with pytest.raises(InputError, match=rf"config\.json: {words}"):
        check_config(tmp_path / "config.json", CONFIGS[words])


def test_usual_configurations_pass(tmp_path):
    usual = {"text_config": {"_attn_implementation": "sdpa", "rope_theta": 1e6}, "attn_implementation": None}
    check_config(tmp_path / "config.json", {**usual, "vision_config": {"image_size": 336}, "auto_map": None})


def test_more_layers_or_parameters_than_the_weights_hold_are_refused(tmp_path):
    tensors = {"a": Stored("F32", (1000, 1000))}
    check_counts(tmp_path, {"text_config": {"num_hidden_layers": 61}}, tensors)
    with pytest.raises(
        InputError, match=r"text_config\.num_hidden_layers is 1000000000, but the weights have 1 tensors"
    ):
        check_counts(tmp_path, {"text_config": {"num_hidden_layers": 10**9}}, tensors)
    check_parameters(tmp_path, 2_000_000, tensors)
    with pytest.raises(InputError, match="a model of 9000000 parameters, the weights hold 1000000"):
        check_parameters(tmp_path, 9_000_000, tensors)


def test_code_of_a_folder_is_refused_in_every_file_unless_it_is_asked_for(tmp_path):
    weights(tmp_path / "model.safetensors", {"a": TENSOR})
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "m.M"}}')
    with pytest.raises(InputError, match=r"/config\.json: auto_map"):
        check_folder(tmp_path)
    assert check_folder(tmp_path, code=True) == {"a": Stored("F32", (2, 3))}
    (tmp_path / "config.json").write_text("{}")
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text('{"auto_map": {"AutoProcessor": "m.P"}}')
        with pytest.raises(InputError, match=f"{name}: auto_map"):
            check_folder(tmp_path)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("content", [b"[]", b"[" * 100_000, b"\xff\xfe", b'{"a": "\\ud800"}', b"{", b"null"])
def test_json_that_is_not_an_object_is_one_clear_error(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"config\.json: (not valid JSON|holds a JSON).*Fetch the file again"):
        read_json(tmp_path / "config.json")


def test_a_json_file_larger_than_any_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("schemas.modelfolder.MOST_JSON", 10)
    (tmp_path / "config.json").write_text('{"a": "12345"}')
    with pytest.raises(InputError, match="14 bytes, expected at most 10"):
        read_json(tmp_path / "config.json")
