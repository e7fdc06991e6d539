"""Options that the dedupe steps share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Against = Annotated[
    tuple[str, ...],
    Field(description="other datasets on which this step has run: rows that duplicate theirs are copies too"),
]
Order = Literal["first", "smallest_key"]
"""`smallest_key` does not depend on the order in which rows were added."""
Representative = Annotated[
    Order, Field(description="the representative of a cluster: the first row of the dataset, or the smallest key")
]
