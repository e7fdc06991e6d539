"""Lists of fragments for tests of manifests: entries of files that need not exist."""

from schemas.commit import Change
from schemas.manifest import FileEntry, FragmentEntry

VERSION = "images/1.0"


def entry(fragment: str, name: str, word: str, inputs: dict | None = None, **more) -> FileEntry:
    path = f"fragments/{fragment}/{name}.{word}.arrow"
    given = {"columns": [f"{name}_x"], "rows": 10, "bytes": 5, "sha256": word, "inputs": inputs or {}, **more}
    return FileEntry(path=path, fingerprint=word, plan=word, version=VERSION, **given)


def listed(number: int) -> list[FragmentEntry]:
    names = [f"{place:04d}-aa" for place in range(number)]
    return [FragmentEntry(id=name, rows=10, files={"base": entry(name, "base", f"b{name}")}) for name in names]


def change(base: int, **more) -> Change:
    return Change(base=base, schema_version=VERSION, **more)
