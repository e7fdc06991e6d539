"""The user-facing errors. Each message names the file or row, what was found, and what to do next."""

from __future__ import annotations


class LavaBeamError(Exception):
    """Base of our errors: the command line prints the message and exits with `exit_code`."""

    exit_code = 2


class InputError(LavaBeamError):
    """Invalid user input: a path, a recipe, a list of URLs, a checkpoint."""


class SchemaError(LavaBeamError):
    """Rows lack the columns or types required by the schema or the step."""


class VersionError(LavaBeamError):
    """The dataset was written by a newer major version than this code reads."""


class CorruptError(LavaBeamError):
    """A file is not what the manifest says: `missing`, `cut`, of `wrong bytes`, `unreadable`, or `foreign`: whole, and
    something else than the manifest takes it for."""

    def __init__(self, message: str, kind: str = "foreign"):
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[type[CorruptError], tuple[str, str]]:
        return CorruptError, (str(self), self.kind)


class ConflictError(LavaBeamError):
    """Another writer committed the same column files, or other inputs, first: retry the command."""

    exit_code = 4


class StorageError(LavaBeamError):
    """The storage of a dataset cannot be written: full, read-only, or without permission."""


class WorkerError(LavaBeamError):
    """Worker processes died repeatedly on the same fragment."""

    exit_code = 1
