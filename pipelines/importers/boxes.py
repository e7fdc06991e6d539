"""Boxes as people publish them, as fractions of width and height: schemas.records.BOX.

| a box | corners or sides | seen in |
|---|---|---|
| `{label, x0, y0, x1, y1}` | corners, by their names | LavaBeam |
| `{label, x, y, width, height}` (or `w`, `h`) | sides, by their names | Visual Genome |
| `{category, bbox: [four numbers]}` | as `BoxUnit` says | LLaVA's lists of captions and boxes, COCO |
| `[four numbers]` | as `BoxUnit` says; no label | |
| `{bbox: [[four numbers], ...], category: [...]}` | the same, all boxes of a picture | Hugging Face |
| `{bbox: [...], ref: [...], bbox_type}` | corners; `real` are pixels, `norm1` fractions | ms-swift |

Without a unit numbers are fractions, and corners where names do not say otherwise: what exceeds 1 is refused, not
guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

BoxUnit = Literal["xyxy fraction", "xyxy pixel", "xyxy thousandth", "xywh fraction", "xywh pixel"]
"""Two corners, or one corner and the sides; in fractions of the picture, its pixels, or thousandths (Qwen-VL)."""

Size = tuple[int | float | None, int | float | None]
"""Width and height in pixels of the picture that boxes refer to; None where unknown."""

_LABELS = ("label", "category", "category_name", "class", "name", "object")
_LISTS = ("bbox", "box", "bbox_2d")
_ROUNDING = 1e-6
"""How far fractions may exceed 0 and 1: halves of the last digit of numbers that were written with seven."""
_PIXEL = 1.0
"""How far pixels may exceed the picture: COCO's and Visual Genome's corners are rounded outwards."""

SPELLED_OUT = "Say what the numbers are with `boxes`, such as 'xyxy pixel' or 'xywh pixel' (COCO's)"


def boxes_of(value: Any, unit: BoxUnit | None = None, size: Size = (None, None)) -> list[dict[str, Any]] | None:
    """The boxes of one picture: `{label, x0, y0, x1, y1}`, label None where there is none. None for no box.

    Raises ValueError for a box of another shape, one outside its picture, and pixels of a picture of unknown size.
    """
    if not value:
        return None
    if isinstance(value, Mapping):
        value, unit = _rows(value, unit)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{value!r:.80} is not a list of boxes")
    if value and all(isinstance(side, int | float) for side in value):
        value = [value]  # one box alone
    return [_box(box, unit, size) for box in value] or None


def _rows(columns: Mapping[str, Any], unit: BoxUnit | None) -> tuple[list[Any], BoxUnit | None]:
    """Boxes out of columns of lists, and their unit where the columns say it."""
    name = next((name for name in _LISTS if isinstance(columns.get(name), list)), None)
    if name is None or (columns[name] and all(isinstance(side, int | float) for side in columns[name])):
        return [columns], unit  # one box that is an object
    boxes = columns[name]
    labels = next(
        (columns[label] for label in (*_LABELS, "ref") if isinstance(columns.get(label), list) and columns[label]), None
    )
    if labels is not None and len(labels) != len(boxes):
        raise ValueError(f"{len(boxes)} boxes and {len(labels)} labels")
    if "ref" in columns or "bbox_type" in columns:
        kinds: dict[Any, BoxUnit] = {None: "xyxy pixel", "real": "xyxy pixel", "norm1": "xyxy fraction"}
        if columns.get("bbox_type") not in kinds:
            raise ValueError(f"bbox_type {columns['bbox_type']!r}; expected real or norm1")
        unit = kinds[columns.get("bbox_type")]
    return [
        {"label": label, "bbox": box} for label, box in zip(labels or [None] * len(boxes), boxes, strict=True)
    ], unit


def _box(box: Any, unit: BoxUnit | None, size: Size) -> dict[str, Any]:
    four, layout = _numbers(box, unit)
    x, y, right, bottom = four
    corners = [x, y, right, bottom] if layout == "xyxy" else [x, y, x + right, y + bottom]
    scale = unit.split()[1] if unit else "fraction"
    sides = [value / whole for value, whole in zip(corners, _wholes(scale, size, box), strict=True)]
    slack = [_PIXEL / whole for whole in _wholes(scale, size, box)] if scale == "pixel" else [_ROUNDING] * 4
    if not all(-more <= side <= 1 + more for side, more in zip(sides, slack, strict=True)):
        hint = f". {SPELLED_OUT}" if unit is None else f", read as {unit} of a picture of {_shown(size)}"
        raise ValueError(f"box {four} is not within the picture in fractions of width and height{hint}")
    x0, y0, x1, y1 = (min(1.0, max(0.0, side)) for side in sides)
    if not (x0 < x1 and y0 < y1):
        read = unit or "xyxy fraction"
        raise ValueError(f"box {four} is empty, or not x0, y0, x1, y1 (read as {read}). {SPELLED_OUT}")
    return {"label": _label(box), "x0": x0, "y0": y0, "x1": x1, "y1": y1}


def _numbers(box: Any, unit: BoxUnit | None) -> tuple[list[float], str]:
    """Four numbers, and whether they are corners (xyxy) or a corner and sides (xywh)."""
    layout = unit.split()[0] if unit else "xyxy"
    found: Any = box
    if isinstance(box, Mapping):
        named = next((box[name] for name in _LISTS if box.get(name) is not None), None)
        corners, sides = ("x0", "y0", "x1", "y1"), ("x", "y", "width", "height")
        if named is not None:
            found = named
        elif all(box.get(side) is not None for side in corners):
            found, layout = [box[side] for side in corners], "xyxy"
        else:
            found, layout = [box.get(side, box.get(side[0])) for side in sides], "xywh"
    if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != 4 or None in found:
        raise ValueError(
            f"{box!r:.100} is not a box: expected x0, y0, x1, y1, or x, y, width, height, or bbox with four"
        )
    numbers = [float(side) for side in found]
    if not all(abs(side) < float("inf") for side in numbers):
        raise ValueError(f"box {numbers} has a side that is no number")
    return numbers, layout


def _wholes(scale: str, size: Size, box: Any) -> list[float]:
    """What each of x0, y0, x1, y1 is divided by."""
    if scale == "fraction":
        return [1.0] * 4
    if scale == "thousandth":
        return [1000.0] * 4
    width, height = size
    if not width or not height:
        raise ValueError(f"{box!r:.100} is in pixels, and the row has no width and height to divide them by")
    return [float(width), float(height)] * 2


def _label(box: Any) -> str | None:
    if not isinstance(box, Mapping):
        return None
    label = next((box[name] for name in _LABELS if box.get(name) not in (None, "")), None)
    if label is None and box.get("category_id") is not None:
        label = box["category_id"]
    if label is None or isinstance(label, str):
        return label
    raise ValueError(
        f"the label of a box is {label!r}; expected its name (join numbers with the list of categories first)"
    )


def _shown(size: Size) -> str:
    return f"{size[0]} x {size[1]} pixels" if all(size) else "unknown size"
