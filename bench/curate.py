"""Benches of curation: `python -m bench.curate` for all of them, `python -m bench.curate PART [OPTIONS]` for one.

PART: dedupe (near text beside datasketch, hashes beside ImageHash, steps), copies (the table of changed pictures),
balance, score, decontaminate, answers (the checks of generated conversations). Each part prints its own lines; what
has a goal is in the JSON list at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PARTS = ("dedupe", "copies", "balance", "score", "decontaminate", "answers")


def main(arguments: list[str]) -> None:
    if arguments and arguments[0] in ("-h", "--help"):
        print(__doc__)
        return
    if arguments and arguments[0] not in PARTS:
        sys.exit(f"there is no part {arguments[0]!r}: {', '.join(PARTS)}")
    parts = [(arguments[0], arguments[1:])] if arguments else [(part, []) for part in PARTS]
    figures = [figure for part, options in parts for figure in goals_of(part, run(part, options))]
    print(json.dumps(figures))


def run(part: str, options: list[str]) -> Any:
    """What the part's last line says, as JSON; its other lines are printed as they come."""
    print(f"== {part}", flush=True)
    last = ""
    command = [sys.executable, "-m", f"bench.curating.{part}", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line
    if process.returncode:
        sys.exit(f"{part}: exit code {process.returncode}")
    return json.loads(last) if last.startswith(("{", "[")) else None


def goals_of(part: str, found: Any) -> list[dict[str, Any]]:
    """The part's figures that have a goal."""
    if part == "dedupe":
        text, hashes = found["text"], found["hash"]
        return [
            _figure("near text, times as fast as datasketch", text["ratio"], text["goal"]),
            _figure("near text, recall beside datasketch's", text["recall"], text["datasketch_recall"]),
            _figure("hash from bytes, times as fast as ImageHash", hashes["ratio"], hashes["goal"]),
        ]
    if part == "answers":
        judged = found["both" if "both" in found else "labelled"]
        return [_figure("precision of rejecting answers", judged["precision"], 1)]
    return []


def _figure(name: str, value: float, goal: float) -> dict[str, Any]:
    return {"figure": name, "value": round(value, 4), "goal": goal, "ok": bool(value >= goal)}


if __name__ == "__main__":
    main(sys.argv[1:])
