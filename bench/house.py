"""Draws the house: the rooms of a source tree and which of them import which, as an SVG.

python -m bench.house OUT.svg [--root FOLDER] [--title TEXT]

A room is a folder of pipelines/, or one of the other top-level packages as a whole. An arrow points from a room to one
that it imports, and its width grows with the number of files that do. What a room reaches by way of others anyway is
not drawn. Rooms of one circle of imports stand in one row, and their arrows are red.
"""

from __future__ import annotations

import argparse
import ast
import math
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

SKIPPED = ("tests", "bench", "docs", "dags", "build", "recipes")
DIVIDED = "pipelines"
SHARED = {"pipelines.texts"}
"""Files beside the rooms that rooms import, unlike those that name all rooms: each is drawn as a room."""
WIDTH, ROW, BOX = 1180, 112, 44
LETTER = 8.2
"""Width of a letter of the 14 px font, about."""

Edges = Counter[tuple[str, str]]


def files(root: Path) -> dict[str, Path]:
    """Module name -> file, of the packages and modules in `root`."""
    tops = [top for top in root.iterdir() if top.is_dir() and top.name not in SKIPPED and top.name[0] != "."]
    found = {}
    for file in sorted([*root.glob("*.py"), *(file for top in tops for file in top.rglob("*.py"))]):
        parts = file.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room_of(name: str, modules: dict[str, Path]) -> str:
    """`pipelines.llm.answer` -> `pipelines/llm`, `pipelines.catalog` -> `pipelines/*.py`, `trainer.x` -> `trainer`."""
    top, *inner = name.split(".")
    if top != DIVIDED:
        return top
    if name in SHARED:
        return f"{top}/{inner[0]}.py"
    folder = len(inner) > 1 or (inner and modules[name].name == "__init__.py")
    return f"{top}/{inner[0]}" if folder else f"{top}/*.py"


def imports(file: Path, modules: dict[str, Path]) -> set[str]:
    """Those of `modules` that a file imports, at its top or later, or names as `module:attribute` (the catalog)."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in inside}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value.partition(":")[0] if ":" in node.value else "")
    return found & modules.keys()


def arrows(modules: dict[str, Path]) -> Edges:
    """(room, room that it imports) -> how many of its files do."""
    found: Edges = Counter()
    for name, file in modules.items():
        own = room_of(name, modules)
        for other in {room_of(imported, modules) for imported in imports(file, modules)} - {own}:
            found[own, other] += 1
    return found


def reached(edges: Edges, start: str) -> set[str]:
    """All rooms that `start` imports, directly or by way of others."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        fresh = {to for own, to in edges if own == waiting[-1]} - found
        waiting.pop()
        found |= fresh
        waiting += sorted(fresh)
    return found


def backward(edges: Edges) -> set[tuple[str, str]]:
    """Arrows without which there is no circle: those by which a circle's most imported room imports others of it."""
    left, found = Counter(edges), set()
    while True:
        below = {own: reached(left, own) for own, _ in left}
        within = {pair: number for pair, number in left.items() if pair[0] in below.get(pair[1], ())}
        if not within:
            return found
        imported: Counter[str] = Counter()
        for (_, to), number in within.items():
            imported[to] += number
        most = max(sorted(imported), key=lambda room: imported[room])
        closing = {pair for pair in within if pair[0] == most}
        found |= closing
        for pair in closing:
            del left[pair]


def levels(rooms: list[str], edges: Edges) -> dict[str, int]:
    """The row of each room, 0 at the bottom: above all that it imports."""
    below = {room: reached(edges, room) for room in rooms}
    row: dict[str, int] = {}
    for room in sorted(rooms, key=lambda one: len(below[one])):
        row[room] = 1 + max((row[one] for one in below[room]), default=-1)
    return row


def drawn(edges: Edges) -> list[tuple[str, str]]:
    """The arrows to draw: none to a room that another arrow leads to by way of others."""
    found = []
    for own, to in sorted(edges):
        others = {one for start, one in edges if start == own and one != to}
        if not any(to in reached(edges, one) for one in others):
            found.append((own, to))
    return found


def places(rooms: list[str], row: dict[str, int], edges: Edges) -> dict[str, tuple[float, float]]:
    """The middle of each room's box. In a row, rooms stand in the order of what they import."""
    where: dict[str, tuple[float, float]] = {}
    top = max(row.values())
    for level in range(top + 1):
        here = [room for room in rooms if row[room] == level]

        def pull(room: str) -> tuple[float, str]:
            under = [where[to][0] for own, to in edges if own == room and to in where]
            return (sum(under) / len(under) if under else WIDTH / 2), room

        here.sort(key=pull)
        for number, room in enumerate(here):
            where[room] = (WIDTH * (2 * number + 1) / (2 * len(here)), 60 + ROW * (top - level) + BOX / 2)
    return where


def box_width(room: str) -> float:
    return max(90.0, LETTER * len(room) + 26)


class Gaps:
    """The spaces between the boxes of each row, through which arrows to lower rows pass."""

    def __init__(self, where: dict[str, tuple[float, float]]):
        self._free: dict[float, list[float]] = {}
        self._used: Counter[tuple[float, float]] = Counter()
        for y in {y for _, y in where.values()}:
            sides = sorted(
                (x - box_width(room) / 2, x + box_width(room) / 2) for room, (x, at) in where.items() if at == y
            )
            edges = [0.0, *(side for box in sides for side in box), float(WIDTH)]
            self._free[y] = [(left + right) / 2 for left, right in zip(edges[::2], edges[1::2], strict=True)]

    def through(self, start: tuple[float, float], end: tuple[float, float]) -> list[tuple[float, float]]:
        """The corners of a line from one box down to another that crosses no box between them."""
        (x0, y0), (x1, y1) = start, end
        found = [(x0, y0 + BOX / 2)]
        for y in sorted(y for y in self._free if y0 < y < y1):
            straight = x0 + (x1 - x0) * (y - y0) / (y1 - y0)
            gap = min(self._free[y], key=lambda x: abs(x - straight))
            x = gap + 9 * (self._used[y, gap] % 5) - 9
            self._used[y, gap] += 1
            found += [(x, y - BOX / 2 - 4), (x, y + BOX / 2 + 4)]
        return [*found, (x1, y1 - BOX / 2 - 5)]


def arrow(start: tuple[float, float], end: tuple[float, float], weight: int, gaps: Gaps) -> str:
    """A line from one box to another; a red one when it points up."""
    up = end[1] < start[1]
    corners = gaps.through(end, start)[::-1] if up else gaps.through(start, end)
    colour, width = ("#c62828" if up else "#607d8b"), 1 + min(3.0, math.log2(weight + 1) / 1.6)
    points = " L".join(f"{x:.0f},{y:.0f}" for x, y in corners)
    style = f'fill="none" stroke="{colour}" stroke-width="{width:.1f}" stroke-linejoin="round"'
    return f'<path d="M{points}" {style} marker-end="url(#{"red" if up else "grey"})"/>'


def svg(root: Path, title: str) -> str:
    """The picture of the tree at `root`."""
    modules = files(root)
    rooms = sorted({room_of(name, modules) for name in modules})
    edges = arrows(modules)
    red = backward(edges)
    down = Counter({pair: number for pair, number in edges.items() if pair not in red})
    row = levels(rooms, down)
    where = places(rooms, row, down)
    count = Counter(room_of(name, modules) for name in modules)
    gaps = Gaps(where)
    height = 60 + ROW * (max(row.values()) + 1)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="14">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *(_head(name, colour) for name, colour in (("grey", "#607d8b"), ("red", "#c62828"))),
        f'<text x="20" y="32" font-size="18" font-weight="bold">{escape(title)}</text>',
    ]
    shown = [*drawn(down), *sorted(red)]
    lines += [arrow(where[own], where[to], edges[own, to], gaps) for own, to in shown]
    lines += [_box(room, *where[room], count[room]) for room in rooms]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _head(name: str, colour: str) -> str:
    size = 'viewBox="0 0 10 10" refX="8" refY="5" markerWidth="9" markerHeight="9" markerUnits="userSpaceOnUse"'
    return f'<marker id="{name}" {size} orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="{colour}"/></marker>'


def _box(room: str, x: float, y: float, count: int) -> str:
    width, files = box_width(room), f"{count} file{'s' if count > 1 else ''}"
    fill = "#e3f2fd" if room.startswith(DIVIDED) else "#f1f8e9"
    return (
        f'<rect x="{x - width / 2:.0f}" y="{y - BOX / 2:.0f}" width="{width:.0f}" height="{BOX}" rx="6" '
        f'fill="{fill}" stroke="#455a64"/>'
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle">{escape(room)}</text>'
        f'<text x="{x:.0f}" y="{y + 15:.0f}" text-anchor="middle" font-size="11" fill="#607d8b">{files}</text>'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--root", type=Path, default=Path("."))
    parser.add_argument("--title", default="Who imports whom")
    given = parser.parse_args()
    given.out.write_text(svg(given.root, given.title), encoding="utf-8")


if __name__ == "__main__":
    main()
