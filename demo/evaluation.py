"""The demo's evaluation, remembered beside the checkpoint: the same weights and questions are not asked again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from schemas.fingerprint import fingerprint
from trainer.evaluate import Question
from trainer.runfolder import weights_digest, write_json


def evaluated(checkpoint: str | Path, questions: Iterable[Question], path: Path) -> dict[str, Any]:
    """The figures of `trainer.evaluate.evaluate`, out of the file at `path` when it holds this very evaluation."""
    asked = list(questions)
    mark = fingerprint(weights_digest(Path(checkpoint)), _digest(asked))
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.pop("fingerprint") == mark:
            return {**known, "reused": True}
    from trainer.evaluate import evaluate

    began = time.perf_counter()
    figures = evaluate(checkpoint, asked)
    figures["seconds"] = round(time.perf_counter() - began, 2)
    write_json(path, {"fingerprint": mark, **figures})
    return {**figures, "reused": False}


def _digest(asked: list[Question]) -> str:
    digest = hashlib.sha256()
    for one in asked:
        digest.update(f"{one.image!r}\0{one.question}\0{one.answer}\0{one.kind}\n".encode())
    return digest.hexdigest()
