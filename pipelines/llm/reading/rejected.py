"""The exception for an unusable answer."""

from __future__ import annotations

NO_ANSWER = "no_answer"
"""The status of an answer that is empty, or has no question with an answer in it."""


class Rejected(Exception):
    """An answer that cannot be used, with the status and the detail of its row."""

    def __init__(self, status: str, detail: str):
        super().__init__(detail)
        self.status, self.detail = status, detail
