"""Make the small tokenizers of this folder: the part of a full one that some texts touch.

Usage: python reduce.py FULL_TOKENIZER_FOLDER OUTPUT.json < IDS, a JSON list of every id that the texts give.

A merge that is never applied to a text can be left out without changing how that text is split, so on these texts the
small tokenizer gives the ids of the full one; other texts fall apart into smaller pieces.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

Pair = tuple[str, str]


def reduced(content: dict[str, Any], ids: list[int]) -> dict[str, Any]:
    """The tokenizer.json cut down to the derivations of `ids`, single characters, bytes, and added tokens."""
    vocab = content["model"]["vocab"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in content["model"]["merges"]]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    byte_level = "ByteLevel" in json.dumps(content["pre_tokenizer"])
    kept = {piece for piece in vocab if len(piece) == 1 and (byte_level or piece.isascii())}
    kept |= {piece for piece in vocab if piece.startswith("<0x")} | {max(vocab, key=vocab.__getitem__)}
    used: set[Pair] = set()
    pieces = {i: piece for piece, i in vocab.items()}
    for piece in (pieces[i] for i in ids if i in pieces):
        steps = derivation(piece, ranks)
        used |= set(steps)
        kept |= {piece, *piece, *(part for pair in steps for part in (*pair, "".join(pair)))}
    small = {piece: vocab[piece] for piece in kept if piece in vocab}
    small |= {token["content"]: token["id"] for token in content["added_tokens"]}
    ordered = dict(sorted(small.items(), key=lambda item: item[1]))
    return {**content, "model": {**content["model"], "vocab": ordered, "merges": [m for m in merges if m in used]}}


def derivation(piece: str, ranks: dict[Pair, int]) -> list[Pair]:
    """The merges by which `piece` comes about from its characters, the best ranked first."""
    parts, steps = list(piece), []
    while len(parts) > 1:
        pairs = list(itertools.pairwise(parts))
        at = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], len(ranks)))
        if pairs[at] not in ranks:
            break
        steps.append(pairs[at])
        parts[at : at + 2] = ["".join(pairs[at])]
    return steps


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    small = reduced(json.loads((source / "tokenizer.json").read_text(encoding="utf-8")), json.load(sys.stdin))
    target.write_text(json.dumps(small, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
