"""Mixing 665k rows of mix665k's shape beside the bare tokenizer; opening the result beside the original's JSON.

`python -m bench.mix [--rows 33000] [--slice 1000] [--work DIR]`; `--rows 665298` is all of it. Text alone: rows that
name pictures are taken without them, so what is measured is what a mix does beside copying pictures.

- mix: CPU seconds of all processes of `run_mix` with the published recipe's sources and two workers, against those of
  `encode_batch` of the same tokenizer (32k pieces, trained here) on the same rendered text, two threads, in the same
  run. Goal: 1.5 times. Both on the same machine at the same time of day; CPU seconds, because others may run beside.
- peak: the proportional set size of all processes of the run, sampled four times a second. Goal: 800 MB.
- open: CPU seconds and private memory of opening the mix with all lengths. Goals: 1 s, 60 MB. Peer: what LLaVA's
  training does, `json.load` and the words of every turn (llava/train/train.py, modality_lengths).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from bench.mix665k import write

HERE = Path(__file__).parent
WORK = HERE / "output" / "mix"
PIECES = 32_000
ROWS = 665_298
RULE = {"mode": "pad", "image_size": 336, "patch_size": 14}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=33_000, help="about as many, shared out as in the original")
    parser.add_argument("--slice", type=int, default=1000, help="rows of a fragment of the imported conversations")
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--side", choices=list(SIDES))
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(SIDES[arguments.side](arguments.work)))
        return
    work: Path = arguments.work
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    counts = write(work / "rows.json", arguments.rows / ROWS)
    (work / "slice").write_text(str(arguments.slice))
    train_tokenizer(work)
    measured("import", work)
    mix, bare = measured("mix", work), measured("bare", work)
    opened, original = measured("open", work), measured("original", work)
    expected = {"rows": sum(counts.values()), "by_folder": by_folder(work)}
    right = mix["rows"] == expected["rows"] and mix["by_source"] == expected["by_folder"]
    print(f"{mix['rows']} rows, of each source as in the file: {right} ({mix['by_source']})")
    print(f"mix   {mix['cpu']:8.1f} s CPU {mix['seconds']:8.1f} s   {mix['rows'] / mix['cpu']:.0f} rows per CPU second")
    print(f"bare  {bare['cpu']:8.1f} s CPU {bare['seconds']:8.1f} s   {bare['tokens']} tokens")
    print(f"peak  {mix['peak_mb']:8.0f} MB, the sum over all processes (proportional set sizes)")
    print(f"open  {opened['fragments']} fragments")
    print(f"open  {opened['cpu']:8.2f} s CPU, {opened['private_mb']:.0f} MB; original {original['cpu']:.1f} s, "
          f"{original['private_mb']:.0f} MB")  # fmt: skip
    rows = mix["rows"]
    print(json.dumps([
        figure(f"mix of {rows} rows, CPU s beside the bare tokenizer", mix["cpu"], bare["cpu"], 1.5 * bare["cpu"]),
        figure(f"mix of {rows} rows, peak MB of all processes", mix["peak_mb"], original["private_mb"], 800),
        figure(f"open a mix of {rows} rows with lengths, CPU s", opened["cpu"], original["cpu"], 1.0),
        figure(f"open a mix of {rows} rows with lengths, MB", opened["private_mb"], original["private_mb"], 60),
        figure("rows of each source differ from the file", float(not right), 1, 0),
    ]))  # fmt: skip


def figure(name: str, value: float, peer: float, goal: float) -> dict[str, Any]:
    return {
        "figure": name,
        "value": round(value, 3),
        "peer": round(peer, 3),
        "ratio": round(value / peer, 4),
        "goal": round(goal, 3),
        "ok": value <= goal,
    }


def by_folder(work: Path) -> dict[str, int]:
    """Rows of each first folder, counted from the file by itself."""
    counts: Counter[str] = Counter()
    for row in rows_of(work):
        counts[row["image"].split("/")[0] if "image" in row else "sharegpt"] += 1
    return dict(counts)


def rows_of(work: Path) -> Iterator[dict[str, Any]]:
    """The rows of the file, which has one on each line."""
    with (work / "rows.json").open(encoding="utf-8") as file:
        for line in file:
            text = line.removeprefix("[").rstrip("\n")
            yield json.loads(text[:-1] if text.endswith((",", "}]}]")) else text)


def train_tokenizer(work: Path) -> None:
    """A BPE of 32,000 pieces in the layout of Llama's tokenizer.json, from the texts of some rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    every = max(1, sum(1 for _ in rows_of(work)) // 20_000)
    some = islice(rows_of(work), 0, None, every)
    texts = [turn["value"] for row in some for turn in row["conversations"]]
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{number:02X}>" for number in range(256)]
    made.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=PIECES, special_tokens=[*special, *bytes_], show_progress=False)
    )
    content = json.loads(made.to_str())
    content["pre_tokenizer"] = None
    visible = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, visible]}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < len(special)]
    (work / "tokenizer").mkdir()
    (work / "tokenizer" / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    (work / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))


def recipe(work: Path) -> Any:
    """The published recipe, on the rows made here, with no picture at hand and as many rows as there are."""
    from lavabeam.recipes import locate
    from pipelines.mix import MixRecipe

    values = yaml.safe_load(locate("llava-v1.5-mix665k", "mixes").read_text(encoding="utf-8"))
    values["tokenizer"] = str(work / "tokenizer")
    counts = by_folder(work)
    for name, source in values["sources"].items():
        values["sources"][name] = {
            **{key: value for key, value in source.items() if key != "images"},
            "conversations": str(work / "talks"),
            "missing_image": "text",
            "rows": counts[name],
        }
    return MixRecipe(**values)


def measured(side: str, work: Path) -> dict[str, Any]:
    """One side in a process of its own: what it prints, CPU and wall seconds, and the peak of it and its workers."""
    command = [sys.executable, "-m", "bench.mix", "--side", side, "--work", str(work)]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
    environment = {**os.environ, "RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}
    with (work / f"{side}.out").open("w+") as out:
        process = subprocess.Popen(command, stdout=out, cwd=HERE.parent, env=environment, start_new_session=True)
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, session_mb(process.pid))
            time.sleep(0.25)
        if process.returncode:
            raise SystemExit(f"{side} failed")
        out.seek(0)
        values = json.loads(out.read().strip().splitlines()[-1])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "seconds": time.time() - started, "peak_mb": peak, **values}


def session_mb(session: int) -> float:
    """Proportional set size of all processes of a session: shared pages are divided among those that share them."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rsplit(")", 1)[1].split()[3]) == session:
                rollup = (folder / "smaps_rollup").read_text()
                total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            continue  # it ended meanwhile
    return total / 1024


def run_import_side(work: Path) -> dict[str, Any]:
    from pipelines.engine.imports import run_import
    from pipelines.engine.runners import Runner
    from pipelines.importers.llava_json import LlavaJson, LlavaJsonConfig

    config = LlavaJsonConfig(path=str(work / "rows.json"), rows_per_slice=int((work / "slice").read_text()))
    made = run_import(LlavaJson(config), work / "talks", Runner("local", 2))
    return {"rows": made.rows}


def run_mix_side(work: Path) -> dict[str, Any]:
    from pipelines.engine.runners import Runner
    from pipelines.mix import run_mix

    made = recipe(work)
    started = cpu_seconds()
    summary = run_mix(made, work / "mix", Runner("local", 2))
    return {"rows": summary.rows, "statuses": summary.statuses, "cpu": cpu_seconds() - started, **sources_of(work)}


def sources_of(work: Path) -> dict[str, Any]:
    from pipelines.mix import read_lock

    return {"by_source": {name: one.rows for name, one in read_lock(work / "mix").sources.items()}}


def bare_side(work: Path) -> dict[str, Any]:
    """The rendered text of every row through the tokenizer's own batch call, 1,000 rows at a time."""
    from tokenizers import Tokenizer

    from schemas.chat import get_template
    from schemas.dataset import Dataset

    tokenizer = Tokenizer.from_file(str(work / "tokenizer" / "tokenizer.json"))
    template, tokens, spent = get_template("v1"), 0, 0.0
    for fragment in Dataset.open(work / "mix").fragments:
        rows = fragment.read(["messages"]).column(0).to_pylist()
        texts = ["".join(segment.text for segment in template.render(one)) for one in rows]
        started = time.process_time()
        tokens += sum(len(one) for one in tokenizer.encode_batch(texts))
        spent += time.process_time() - started
    return {"tokens": tokens, "cpu": spent}


def open_side(work: Path) -> dict[str, Any]:
    from bench.dataset_open import private_mb
    from schemas.dataset import Dataset

    before, started = private_mb(), time.process_time()
    dataset = Dataset.open(work / "mix")
    lengths, pictures = dataset.numeric(["tokens", "image_count"])
    assert len(lengths) == len(pictures) == dataset.rows
    cpu = time.process_time() - started
    return {"cpu": cpu, "private_mb": private_mb() - before, "fragments": len(dataset.fragments)}


def original_side(work: Path) -> dict[str, Any]:
    from bench.dataset_open import private_mb

    before, started = private_mb(), time.process_time()
    with (work / "rows.json").open(encoding="utf-8") as file:
        rows = json.load(file)
    lengths = [sum(len(turn["value"].split()) for turn in row["conversations"]) for row in rows]
    lengths = [length if "image" in row else -length for row, length in zip(rows, lengths, strict=True)]
    return {"rows": len(lengths), "cpu": time.process_time() - started, "private_mb": private_mb() - before}


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


SIDES = {
    "import": run_import_side,
    "mix": run_mix_side,
    "bare": bare_side,
    "open": open_side,
    "original": original_side,
}

if __name__ == "__main__":
    main()
