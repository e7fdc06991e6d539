"""Serving: `lavabeam serve` beside `transformers serve`, the same checkpoint, questions and clients.

    python -m bench.serve [--checkpoint DIR] [--seconds 10] [--load-test SECONDS]

Both answer questions of Easy-VQA's test split with their pictures, for 1, 8 and 32 clients, after each other, on the
CPU. The texts of 60 are compared with those of `lavabeam answer`. --load-test instead: 32 clients on ours alone, a
twentieth of their requests hostile, and a worker that is killed at the end (bench/serving/hostile.py). The default is
the demo's checkpoint: `make demo`. Prints one JSON list of figures, last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path

from bench.serving import clients, hostile, servers
from bench.serving.servers import Server

ROOT = Path(__file__).parents[1]
CLIENTS = (1, 8, 32)
ASKED = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=ROOT / "demo" / "output" / "stage2" / "model")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--load-test", type=float, metavar="SECONDS")
    given = parser.parse_args()
    if not (given.checkpoint / "config.json").is_file():
        raise SystemExit(f"{given.checkpoint}: no checkpoint. `make demo` makes it, or give one with --checkpoint.")
    if given.load_test:
        print(json.dumps(hostile.load_test(given.checkpoint, given.load_test)))
        return
    asked = clients.questions(ASKED)
    with servers.transformers(given.checkpoint) as server:
        theirs = measured("transformers", server, asked, given.seconds)
    with servers.ours(given.checkpoint) as server:
        mine = measured("lavabeam", server, asked, given.seconds)
        equal = equal_texts(server, asked, given.checkpoint)
    print(json.dumps([*figures(mine, theirs), equal]))


def measured(name: str, server: Server, asked: list[clients.Asked], seconds: float) -> dict[str, float]:
    """What one server does, printed as it is found."""
    asyncio.run(clients.texts(server, asked[:16]))  # to warm up
    found: dict[str, float] = {}
    for count in CLIENTS:
        one = asyncio.run(clients.rate(server, asked, count, seconds))
        assert not one.failed, f"{name}: {one.failed} requests failed"
        print(f"{name:12} {count:2} clients {one.per_second:7.1f}/s  p50 {one.p50:7.1f} ms  p95 {one.p95:7.1f} ms")
        found |= {f"{count} clients: requests/s": one.per_second}
        found |= {f"{count} clients: p50 ms": one.p50, f"{count} clients: p95 ms": one.p95}
    found["first token ms"] = asyncio.run(clients.first_token(server, asked[:30]))
    found["memory MB"] = server.memory()
    print(f"{name:12} first token {found['first token ms']:.1f} ms, memory {found['memory MB']:.0f} MB", flush=True)
    return found


def equal_texts(server: Server, asked: list[clients.Asked], checkpoint: Path) -> dict:
    """How many texts are those of `lavabeam answer`, byte for byte."""
    from trainer.inference.answer import Answerer
    from trainer.inference.prompts import question

    prompts = [question(one.text, (one.picture,)) for one in asked]
    wanted = [answer.text for answer in Answerer(checkpoint, device="cpu").answer(prompts, clients.TOKENS)]
    found = asyncio.run(clients.texts(server, asked))
    equal = sum(one == other for one, other in zip(found, wanted, strict=True))
    print(f"{equal} of {len(asked)} texts equal those of `lavabeam answer`")
    return figure("serve: texts equal to `lavabeam answer`", equal, len(asked), 1.0)


def figures(mine: dict[str, float], theirs: dict[str, float]) -> list[dict]:
    goals = {"8 clients: requests/s": 10.0, "32 clients: requests/s": 10.0, "memory MB": 1.25}
    return [
        figure(f"serve, {name}", value, theirs[name], goals.get(name, 1.0), at_most=not name.endswith("/s"))
        for name, value in mine.items()
    ]


def figure(name: str, value: float, peer: float, goal: float, at_most: bool = False) -> dict:
    ratio = round(value / peer, 3)
    reached = ratio <= goal if at_most else ratio >= goal
    return {
        "figure": name,
        "value": round(value, 2),
        "peer": round(peer, 2),
        "ratio": ratio,
        "goal": goal,
        "ok": reached,
    }


if __name__ == "__main__":
    main()
