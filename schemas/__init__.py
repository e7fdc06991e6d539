"""The shared contract: row schemas and the dataset format on disk.

In: column files written by steps. Out: datasets that grow columns, read as Arrow without copies.
This package imports neither Beam nor torch. `schemas/README.md` is the specification.
"""

from typing import TYPE_CHECKING, Any

from schemas import errors

if TYPE_CHECKING:
    from schemas.dataset import Dataset, Fragment

__all__ = ["Dataset", "Fragment", "errors"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: the command line needs `errors` alone to answer --help at once.
    if name in ("Dataset", "Fragment"):
        from schemas import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'schemas' has no attribute {name!r}")
