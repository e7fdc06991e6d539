"""A Croissant 1.0 description of parquet files (https://docs.mlcommons.org/croissant/docs/croissant-spec.html)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from pipelines.exporters.base import Facts, Written
from pipelines.exporters.card import dataset_name, describe, licence_rows
from pipelines.exporters.lineage import lineage
from pipelines.exporters.source import Source
from pipelines.exporters.tally import NOT_STATED
from schemas.records import IMAGE

CROISSANT = "http://mlcommons.org/croissant/"
FILES, ROWS = "parquet-files", "rows"

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": CROISSANT,
    "dct": "http://purl.org/dc/terms/",
    "rai": f"{CROISSANT}RAI/",
    **{
        name: f"cr:{name}"
        for name in (
            *("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes"),
            *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
            *(
                "repeated",
                "replace",
                "samplingRate",
                "separator",
                "source",
                "subField",
                "transform",
                "equivalentProperty",
            ),
        )
    },
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
}


def croissant(source: Source, facts: Facts, schema: pa.Schema) -> dict[str, Any]:
    """The JSON-LD of an export: its files with their hashes, and its columns."""
    ancestors = lineage(source.dataset, *([source.images.dataset] if source.images else []))
    stated = dict.fromkeys(licence for _, licence, _ in licence_rows(facts, ancestors))
    single = len(facts.shards) == 1
    origin = {"fileObject": {"@id": facts.shards[0].path}} if single else {"fileSet": {"@id": FILES}}
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": f"{CROISSANT}1.0",
        "name": dataset_name(source),
        "description": describe(source, facts),
        "license": list(stated) or [NOT_STATED],
        "url": "README.md",
        "version": f"{source.dataset.manifest.number}.0.0",
        "datePublished": source.dataset.manifest.created[:10],
        "distribution": [*map(_file, facts.shards), *([] if single else [_files(facts)])],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": ROWS,
                "name": ROWS,
                "field": [_field(column, origin) for column in schema],
            }
        ],
    }


def _file(shard: Written) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard.path,
        "name": shard.path,
        "contentUrl": shard.path,
        "contentSize": f"{shard.bytes} B",
        "encodingFormat": "application/x-parquet",
        "sha256": shard.sha256,
    }


def _files(facts: Facts) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": FILES,
        "name": FILES,
        "containedIn": [{"@id": shard.path} for shard in facts.shards],
        "encodingFormat": "application/x-parquet",
        "includes": "*.parquet",
    }


def _field(column: pa.Field, origin: dict[str, Any]) -> dict[str, Any]:
    """A column; what structures hold are fields of it, found by a path in the column's value."""
    name, kind = f"{ROWS}/{column.name}", column.type
    made: dict[str, Any] = {"@type": "cr:Field", "@id": name, "name": name}
    if _is_list(kind):
        made["repeated"], kind = True, kind.value_type
    leaves = [("bytes", "sc:ImageObject")] if kind == IMAGE else list(_leaves("", kind))
    if kind == IMAGE or leaves[0][0] == "":
        ((path, data_type),) = leaves
        return made | {"dataType": data_type, "source": _source(origin, column.name, path)}
    made["subField"] = [
        {
            "@type": "cr:Field",
            "@id": f"{name}/{path.replace('[*]', '').replace('.', '/')}",
            "name": f"{name}/{path.replace('[*]', '').replace('.', '/')}",
            "dataType": data_type,
            "source": _source(origin, column.name, path),
        }
        for path, data_type in leaves
    ]
    return made


def _source(origin: dict[str, Any], column: str, path: str) -> dict[str, Any]:
    transform = {"transform": {"jsonPath": path}} if path else {}
    return {**origin, "extract": {"column": column}, **transform}


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, str]]:
    """(path as in JSONPath, Croissant's data type) of each value in a column's value."""
    if pa.types.is_struct(kind):
        for inner in kind:
            yield from _leaves(f"{path}.{inner.name}" if path else inner.name, inner.type)
    elif _is_list(kind):
        yield from _leaves(f"{path}[*]", kind.value_type)
    elif pa.types.is_boolean(kind):
        yield path, "sc:Boolean"
    elif pa.types.is_integer(kind):
        yield path, "sc:Integer"
    else:
        yield path, "sc:Float" if pa.types.is_floating(kind) else "sc:Text"


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)
