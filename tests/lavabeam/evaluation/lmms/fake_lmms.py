"""Stands in for lmms-eval's process: takes its words, answers each row of the task, and writes its files.

The first word is what goes wrong: nothing, `failed`, `empty`, `bare`, `crash` (a traceback and exit code 0, as the real
one ends), `lost` (a sample is missing) or `code` (exit code 9).
"""

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq

FAULT, NOTES, WORDS = sys.argv[1], Path(sys.argv[3]), sys.argv[4:]
given = dict(zip(WORDS[::2], WORDS[1::2], strict=False))
given |= dict(zip(WORDS[1::2], WORDS[2::2], strict=False))  # one word, --log_samples, has no value
task, runs = given["--tasks"], Path(given["--output_path"]) / "model"
print(json.dumps(WORDS))
if FAULT == "code":
    sys.exit(9)
if FAULT == "crash":
    print("Traceback (most recent call last):\nValueError: Tasks not found: mine\n2026 | ERROR | Error")
    sys.exit(0)
(data,) = Path(given["--include_path"]).rglob("*.parquet")
rows = pq.read_table(data).to_pylist()[: int(given.get("--limit", 999))]
runs.mkdir(parents=True)
lines = []
for number, row in enumerate(rows):
    said = row["answer"] if number else "wrong"
    if number == 1 and FAULT in ("failed", "empty"):
        said = {"failed": "[LMMS_EVAL_REQUEST_FAILED after 5 retries] Connection error.", "empty": ""}[FAULT]
    print(f"Model Responding: 50%|#####     | {number + 1}/{len(rows)} [00:01<00:01]", end="\r")
    right = float(said == row["answer"])
    lines.append({"doc_id": number, "target": row["answer"], "filtered_resps": said, "exact_match": right})
if FAULT == "lost":
    lines.pop()
(runs / f"1_samples_{task}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
mean = sum(line["exact_match"] for line in lines) / len(lines)
(runs / "1_results.json").write_text(json.dumps({"results": {task: {"alias": task, "exact_match,none": mean}}}))
NOTES.write_text(f"{task}\t{len(rows) if FAULT == 'bare' else 0}\t{len(rows)}\n")
