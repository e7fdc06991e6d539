"""Resolves an importer's `path` to files, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import fsspec

from schemas.config import nearest
from schemas.errors import InputError, LavaBeamError
from schemas.streams import plain_suffix, zipped_name


def expand(paths: str | Sequence[str]) -> list[str]:
    """Every file named by a path, a list of paths, or patterns with `*`; the matches of a pattern are sorted.

    As in a shell, a pattern means hidden files, and those of hidden folders (.cache, .ipynb_checkpoints), only where it
    has a name with a dot in front itself.

    Raises InputError for a path or a pattern that names no file.
    """
    found: list[str] = []
    for path in [paths] if isinstance(paths, str) else paths:
        fs, local = fsspec.core.url_to_fs(path)
        if any(character in path for character in "*?[") and not fs.isfile(local):
            seen = [name for name in sorted(fs.glob(local)) if not _hidden(name, local)]
            matches = [fs.unstrip_protocol(name) if "://" in path else name for name in seen]
            if not matches:
                raise InputError(f"{path}: no file matches this pattern. Check the folder and the ending.")
            found += matches
        elif not fs.isfile(local):
            if fs.exists(local):
                raise InputError(f"{path}: this is a folder, not a file. Name its files: '{path.rstrip('/')}/*'.")
            raise InputError(f"{path}: no such file. Check the path.")
        else:
            found.append(path)
    return found


def _hidden(name: str, pattern: str) -> bool:
    """Whether a match has more hidden names than the pattern asks for."""
    hidden, asked = ([part for part in path.split("/") if part[:1] == "."] for path in (name, pattern))
    return len(hidden) > len(asked)


@contextmanager
def reading(path: str, what: str, remedy: str = "Get it again.") -> Iterator[None]:
    """Turns any exception of a library about an untrusted file into one InputError. `what`: as in "a tar archive"."""
    try:
        yield
    except LavaBeamError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file. Check the path.") from error
    except Exception as error:
        # The border: parsers of others meet damage with OSError, struct.error, RecursionError, MemoryError, ...
        words = " ".join(str(error).split())[:200] or type(error).__name__
        if "Expected all lists to be of size" in words:
            raise InputError(
                f"{path}: holds a fixed-size list that is null, which pyarrow does not read back ({words}). Write the "
                "column as lists without a fixed size."
            ) from error
        raise InputError(f"{path}: this is not {what}, or it was truncated or damaged ({words}). {remedy}") from error


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether paths of `fs` are paths of this machine."""
    return "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))


def format_of(path: str, given: str | None, known: Sequence[str]) -> str:
    """`given`, or the format that the ending of the file names, or of the one in a zip archive.

    Raises InputError when none is in `known`.
    """
    format = given or plain_suffix(path).removeprefix(".").replace("ndjson", "jsonl")
    if format not in known and not given:  # urls.zip, which holds urls.csv
        format = plain_suffix(zipped_name(path) or "").removeprefix(".").replace("ndjson", "jsonl") or format
    if format not in known:
        raise InputError(
            f"{path}: the format {format!r} is unknown. {nearest(format, list(known))} "
            f"Set `format` to one of: {', '.join(known)}."
        )
    return format
