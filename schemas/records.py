"""The three record schemas, their versions, and how old rows become new ones.

A released version is frozen: `tests/golden/schemas/` holds a copy of each, and a test compares them. To change a
schema, raise its version in `CURRENT`; name the columns of a new minor version in `ADDED`, and register in `UPGRADES` a
function from the major version before.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pyarrow as pa

from schemas.errors import InputError, VersionError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""The storage type of Hugging Face `datasets`' Image feature."""

BOX = pa.struct([("label", pa.string())] + [(side, pa.float32()) for side in ("x0", "y0", "x1", "y1")])
"""A box in fractions of width and height, (x0, y0) top left."""

FACT = pa.struct([("name", pa.string()), ("value", pa.string())])
MESSAGE = pa.struct(
    [
        ("role", pa.string()),
        ("content", pa.list_(pa.struct([("type", pa.string()), ("text", pa.string())]))),
    ]
)
GENERATOR = pa.struct(
    [
        ("provider", pa.string()),
        ("model", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt_version", pa.string()),
        ("prompt_hash", pa.string()),
        ("parameters", pa.string()),
        ("request_id", pa.string()),
        ("input_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("cost", pa.float64()),
    ]
)

IMAGES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("url", pa.string()),
        ("alt_text", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("boxes", pa.list_(BOX)),
        ("facts", pa.list_(FACT)),
        ("source", pa.string()),
        ("license", pa.string()),
    ]
)
"""One image to fetch. An importer that brings the bytes adds the columns of `STORED_IMAGE` too."""

STORED_IMAGE = (
    pa.field("image", IMAGE),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("sha256", pa.string()),
    pa.field("phash", pa.string()),
)
"""What whoever stores the bytes writes: `download`, or an importer of local files."""

CONVERSATIONS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("image_keys", pa.list_(pa.string())),
        ("messages", pa.list_(MESSAGE)),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("generator", GENERATOR),
        pa.field("status", pa.string(), nullable=False),
        ("detail", pa.string()),
        ("id", pa.string()),
        ("extra", pa.string()),
    ]
)

SAMPLES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        ("images", pa.list_(IMAGE)),
        ("widths", pa.list_(pa.int32())),
        ("heights", pa.list_(pa.int32())),
        ("messages", pa.list_(MESSAGE)),
        ("kind", pa.string()),
        ("source", pa.string()),
        pa.field("image_count", pa.int16(), nullable=False),
        pa.field("image_tokens", pa.int32(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("supervised_tokens", pa.int32(), nullable=False),
        ("id", pa.string()),
        ("extra", pa.string()),
    ]
)

CURRENT: dict[str, tuple[int, int]] = {"images": (1, 0), "conversations": (1, 1), "samples": (1, 1)}
"""Schema name -> (major, minor). A minor version adds nullable columns; a major one may change meaning."""

BASE: dict[str, pa.Schema] = {"images": IMAGES, "conversations": CONVERSATIONS, "samples": SAMPLES}

ADDED: dict[str, tuple[str, ...]] = {"conversations": ("id", "extra"), "samples": ("id", "extra")}
"""Schema name -> columns that a minor version added. In rows of a file that lacks them they are null."""

Upgrade = Callable[[pa.RecordBatch], pa.RecordBatch]
UPGRADES: dict[tuple[str, int], Upgrade] = {}
"""(name, old major) -> the function that makes one column file's batch of that major one of the next."""


def version_text(name: str) -> str:
    """`images` -> `images/1.0`, the string that every file and manifest carries."""
    if name not in CURRENT:
        raise InputError(f"there is no schema {name!r}. Known: {', '.join(CURRENT)}.")
    major, minor = CURRENT[name]
    return f"{name}/{major}.{minor}"


def parse_version(text: str, where: str) -> tuple[str, int, int]:
    """`images/1.0` -> ("images", 1, 0); raises VersionError for what this code cannot read."""
    try:
        name, version = text.split("/")
        major, minor = (int(part) for part in version.split("."))
        newest = CURRENT[name]
    except (ValueError, KeyError) as error:
        raise VersionError(
            f"{where}: schema {text!r} is not known here. This code reads {', '.join(map(version_text, CURRENT))}."
        ) from error
    if major > newest[0]:
        raise VersionError(
            f"{where}: written as {text}, this code reads up to {version_text(name)}. "
            "Upgrade lavabeam to read it; nothing was changed."
        )
    return name, major, minor


def is_current(text: str, where: str) -> bool:
    """Whether rows of version `text` need no upgrade; raises VersionError as `parse_version` does."""
    name, major, _ = parse_version(text, where)
    return major == CURRENT[name][0]


def upgrade(batch: pa.RecordBatch, name: str, major: int) -> pa.RecordBatch:
    """`batch` of an older major version as one of the current version (rows in = rows out)."""
    while major < CURRENT[name][0]:
        batch = UPGRADES[(name, major)](batch)
        major += 1
    return batch


def file_schema(schema: pa.Schema, name: str) -> pa.Schema:
    """`schema` with our version, and for `samples` with the features that Hugging Face `datasets` reads."""
    plain = with_features(schema) if name == "samples" else schema.remove_metadata()
    return plain.with_metadata({"lavabeam": version_text(name), **(plain.metadata or {})})


def with_features(schema: pa.Schema) -> pa.Schema:
    """`schema` with the features that Hugging Face `datasets` reads as its only metadata."""
    features = {"info": {"features": {field.name: _feature(field) for field in schema}}}
    return schema.with_metadata({"huggingface": json.dumps(features)})


def _feature(field: pa.Field | pa.DataType) -> dict | list:
    """Hugging Face's JSON form of a type (`datasets.Features.to_dict`)."""
    kind = field.type if isinstance(field, pa.Field) else field
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]  # `List` by name is unknown before datasets 4
    if pa.types.is_struct(kind):
        return {inner.name: _feature(inner) for inner in kind}
    return {"dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}
