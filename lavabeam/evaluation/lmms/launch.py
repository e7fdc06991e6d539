"""Starts lmms-eval in its own environment and notes which rows show no picture. Imports nothing of LavaBeam.

`PYTHON launch.py NOTES [lmms-eval's own words]`. NOTES becomes lines of `task<TAB>rows without a picture<TAB>rows`: a
sample's line does not say it. Ends when its standard input does: that is held open by the command that started it.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections import Counter
from typing import Any


def main() -> None:
    notes, sys.argv = sys.argv[1], ["lmms_eval", *sys.argv[2:]]
    sys.path.pop(0)  # this folder, whose modules are not lmms-eval's
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task = importlib.import_module("lmms_eval.api.task").ConfigurableTask  # by name: it is no dependency of ours
    rows, bare, original = Counter[str](), Counter[str](), task.doc_to_visual

    def noted(self: Any, doc: Any) -> Any:
        shown = original(self, doc)
        rows[self.config.task] += 1
        bare[self.config.task] += shown is None or len(shown) == 0 or shown[0] is None
        return shown

    task.doc_to_visual = noted
    try:
        importlib.import_module("lmms_eval.cli.dispatch").main()
    finally:
        with open(notes, "w", encoding="utf-8") as file:
            file.writelines(f"{name}\t{bare[name]}\t{count}\n" for name, count in rows.items())


def _end_with_parent() -> None:
    while os.read(0, 1 << 12):  # not by sys.stdin, whose lock would break the interpreter's own end
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
