"""The contract: what a row is, and what a dataset on disk is.

In: column files written by steps. Out: datasets that grow columns, read as Arrow without copies.
This room knows nobody: no Beam, no torch. `schemas/README.md` is the specification.
"""

from schemas import errors
from schemas.dataset import Dataset, Fragment

__all__ = ["Dataset", "Fragment", "errors"]
