"""The small vision tower: trained to name the facts of a picture (its colour, its shape)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.dataset import Dataset
from schemas.standing import EVERY_CHOICE, Standing, Use

if TYPE_CHECKING:
    from lavabeam.demo.base_model import BaseSizes

IGNORE = -100
WARMUP_STEPS = 20
POSITION_SCALE = 0.3
LAST_RATE = 0.02
"""The cosine schedule ends at this share of the learning rate."""


def train_tower(images: str, folder: str, sizes: BaseSizes) -> dict[str, Any]:
    """Train a CLIP vision model on the facts of `images` and save it; returns the loss and counts."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

    torch.set_num_threads(1)
    torch.manual_seed(sizes.seed)
    pixels, targets, names = load_facts(images, sizes)
    config = CLIPVisionConfig(
        hidden_size=sizes.width,
        intermediate_size=2 * sizes.width,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        image_size=sizes.image_size,
        patch_size=sizes.patch_size,
    )
    model = CLIPVisionModel(config)
    widen_start(model)
    heads = torch.nn.ModuleList(torch.nn.Linear(sizes.width, len(values)) for values in names.values())

    def loss_of(rows: np.ndarray) -> torch.Tensor:
        seen = model(pixels[rows]).last_hidden_state[:, 1:].mean(1)
        losses = [
            torch.nn.functional.cross_entropy(head(seen), targets[rows, column], ignore_index=IGNORE, reduction="sum")
            for column, head in enumerate(heads)
        ]
        return torch.stack(losses).sum() / len(rows)

    order = np.random.default_rng(sizes.seed)
    losses = optimise(
        [*model.parameters(), *heads.parameters()],
        lambda: loss_of(order.choice(len(pixels), sizes.tower_batch)),
        sizes.tower_steps,
        sizes.tower_rate,
    )
    model.save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    side = {"height": sizes.image_size, "width": sizes.image_size}
    CLIPImageProcessorPil(
        size={"shortest_edge": sizes.image_size}, crop_size=side, image_mean=half, image_std=half
    ).save_pretrained(folder)
    return {"loss": round(losses, 4), "pictures": len(pixels), "facts": {name: len(v) for name, v in names.items()}}


def load_facts(images: str, sizes: BaseSizes) -> tuple[Any, Any, dict[str, list[str]]]:
    """Pictures with facts: pixels float32 (N, 3, S, S), class numbers int64 (N, facts) or IGNORE, and the classes."""
    import torch

    from trainer.inputs.pictures import prepare

    dataset = Dataset.open(images)
    standing = Standing.of(dataset, Use(pictures=True, takes=EVERY_CHOICE))
    rows = [
        row
        for batch in dataset.batches(["image", "facts", *standing.columns_in(dataset.columns)], 1024)
        for row, reason in zip(batch.to_pylist(), standing.reasons(batch).to_pylist(), strict=True)
        if row["facts"] and reason is None
    ]
    values: dict[str, set[str]] = {}
    for row in rows:
        for fact in row["facts"]:
            values.setdefault(fact["name"], set()).add(fact["value"])
    names = {name: sorted(found) for name, found in sorted(values.items())}
    half = (0.5, 0.5, 0.5)
    pixels = np.concatenate([prepare(row["image"]["bytes"], sizes.rule, half, half).pixels for row in rows])
    targets = np.full((len(rows), len(names)), IGNORE, np.int64)
    columns_of = {name: column for column, name in enumerate(names)}
    for number, row in enumerate(rows):
        for fact in row["facts"]:
            targets[number, columns_of[fact["name"]]] = names[fact["name"]].index(fact["value"])
    return torch.from_numpy(pixels), torch.from_numpy(targets), names


def widen_start(model: Any) -> None:
    """Initialise weights with standard deviation 1/sqrt(inputs) (LeCun et al. 1998, Efficient BackProp, section 4.6).

    CLIP's own initialisation assumes width 768; at width 64 it leaves the tower blind to shapes for hundreds of steps.
    Position embeddings, which are added and not multiplied, start at 0.3.
    """
    import torch

    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            scale = POSITION_SCALE if "position" in name else parameter[0].numel() ** -0.5
            torch.nn.init.normal_(parameter, std=scale)


def optimise(parameters: list, next_loss: Any, steps: int, rate: float) -> float:
    """AdamW with warm-up and cosine decay for a fixed number of steps; returns the mean loss of the last tenth."""
    import torch

    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    losses = []
    for step in range(steps):
        cosine = 0.5 * (1 + np.cos(np.pi * step / steps)) * (1 - LAST_RATE) + LAST_RATE
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine * min(1.0, (step + 1) / WARMUP_STEPS)
        loss = next_loss()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return float(np.mean(losses[-max(steps // 10, 1) :]))
