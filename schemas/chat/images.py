"""The number of tokens that a picture takes, from its size alone."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from schemas.errors import InputError

MODES = ("square", "pad", "anyres")
MERGES = ("spatial_unpad", "spatial", "flat", "spatial_unpad_nobase", "spatial_maxpool2x2")
LLAVA_NEXT_PINPOINTS = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))
"""(width, height) pairs of LLaVA-NeXT with a 336-pixel tower (config.json of llava-v1.6)."""

SHRINK_ABOVE = 1.1
"""anyres_max shrinks the feature map when its side exceeds the limit by this factor (LLaVA-NeXT, llava_arch.py)."""

MAX_PREPARED_PIXELS = 2 * 89_478_485
"""Of what a picture is scaled or padded to before it is cut; as many as may be decoded (schemas/pictures.py)."""

Size = tuple[int, int]


@dataclass(frozen=True)
class ImageRule:
    """How pictures of a given size are cut for a vision tower, and how many tokens they become.

    mode: `square` (shortest side resized, centre crop), `pad` (to a square, in the mean colour), `anyres` (one overview
        and the tiles of the best fitting pinpoint).
    image_size, patch_size: of the tower, in pixels.
    select: `patch` drops the tower's class token, `full` keeps it. class_token: the number of such tokens in the tower
        (CLIP 1, SigLIP 0).
    pinpoints: (width, height) pairs in pixels, as LLaVA writes them (Hugging Face's configuration has height first).
    merge: how the tiles' features are combined.
    max_tiles: the number in LLaVA-NeXT's `anyres_max_9`: larger feature maps are shrunk to that many tiles, and the
        pictures of a row with several are not cut: each is padded to a square and ends with a line end (LLaVA-NeXT,
        train.py and llava_arch.py; transformers' LLaVA-OneVision).
    unpad_digits: decimals to which transformers (and so the model trained here) rounds before it removes padding; None
        for LLaVA's own code, which does not round (2 of 200,000 random sizes up to 2000x2000 differ, by 2 lines).
    """

    mode: str = "square"
    image_size: int = 336
    patch_size: int = 14
    select: str = "patch"
    pinpoints: tuple[Size, ...] = ()
    merge: str = "spatial_unpad"
    max_tiles: int | None = None
    class_token: int = 1
    unpad_digits: int | None = 7

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"image mode {self.mode!r}: expected one of {', '.join(MODES)}.")
        if self.merge not in MERGES:
            raise InputError(f"image merge {self.merge!r}: expected one of {', '.join(MERGES)}.")
        if self.select not in ("patch", "full"):
            raise InputError(f"image select {self.select!r}: expected 'patch' or 'full'.")
        if self.image_size < self.patch_size or self.patch_size < 1:
            raise InputError(f"image_size {self.image_size}: must hold a patch of {self.patch_size} pixels.")
        pairs = tuple((int(width), int(height)) for width, height in self.pinpoints)
        if self.mode == "anyres" and not pairs:
            pairs = tuple((w * self.image_size // 336, h * self.image_size // 336) for w, h in LLAVA_NEXT_PINPOINTS)
        for pair in pairs:
            if min(pair) < self.image_size or any(side % self.image_size for side in pair):
                raise InputError(f"pinpoint {pair}: both sides must be multiples of image_size {self.image_size}.")
        object.__setattr__(self, "pinpoints", pairs)

    @property
    def side(self) -> int:
        """Patches along one side of the tower's input."""
        return self.image_size // self.patch_size

    @property
    def depends_on_size(self) -> bool:
        """Whether the number of tokens depends on a picture's size."""
        return self.mode == "anyres"

    def cuts(self, pictures: int = 1) -> bool:
        """Whether each picture of a row with this many is cut into tiles."""
        return self.mode == "anyres" and (pictures == 1 or self.max_tiles is None)

    def tokens(self, width: int, height: int, pictures: int = 1) -> int:
        """Tokens of a picture of width x height pixels in a row with `pictures`; raises InputError for a size below 1
        pixel."""
        if width < 1 or height < 1:
            raise InputError(f"picture of {width}x{height} pixels: both sides must be at least 1.")
        base = self.side**2 + (self.class_token if self.select == "full" else 0)
        if self.mode != "anyres":
            return base
        if not self.cuts(pictures):
            return base + self.merge.startswith("spatial_unpad")
        if self.merge == "flat":
            return base * (1 + math.prod(self.grid(width, height)))
        return self._spatial(width, height) + (0 if self.merge == "spatial_unpad_nobase" else base)

    def check_size(self, width: int, height: int, pictures: int = 1) -> None:
        """Raise InputError for a picture so narrow that preparing it would take gigabytes: 65,500 x 1 pixels padded to
        a square, or scaled until its short side fills the tower's input."""
        short, long = sorted((width, height))
        mode = "pad" if self.mode == "anyres" and not self.cuts(pictures) else self.mode
        made = {"square": self.image_size**2 * long // max(short, 1), "pad": long**2}.get(mode, 0)
        if made > MAX_PREPARED_PIXELS:
            raise InputError(
                f"picture of {width}x{height} pixels: too narrow for image mode {mode!r}, which would make {made} "
                "pixels of it. Leave it out."
            )

    def tiles(self, width: int, height: int, pictures: int = 1) -> int:
        """Inputs of the tower for a picture of a row with `pictures`: 1, or the overview and its tiles."""
        return 1 + math.prod(self.grid(width, height)) if self.cuts(pictures) else 1

    def grid(self, width: int, height: int) -> Size:
        """(columns, rows) of tiles for a picture of this size."""
        best = best_resolution((width, height), self.pinpoints)
        return best[0] // self.image_size, best[1] // self.image_size

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest or a configuration."""
        values = asdict(self)
        return {**values, "pinpoints": [list(pair) for pair in self.pinpoints]}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ImageRule:
        """The rule that `to_dict` wrote, or a recipe's, whose pinpoints may be a text for `parse_pinpoints`; raises
        InputError for an unknown key."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(f"image rule: unknown key {unknown[0]!r}. Known: {', '.join(sorted(known))}.")
        given = values.get("pinpoints", ())
        if isinstance(given, str):
            given = parse_pinpoints(given, values.get("image_size", cls.image_size))
        return cls(**{**values, "pinpoints": tuple(tuple(pair) for pair in given)})

    def _spatial(self, width: int, height: int) -> int:
        """Tokens of the tiles laid out as one map, without the overview."""
        columns, rows = (number * self.side for number in self.grid(width, height))
        if self.merge == "spatial":
            return columns * rows
        if self.merge == "spatial_maxpool2x2":
            return (columns // 2) * (rows // 2)
        columns, rows = unpadded((width, height), (columns, rows), self.unpad_digits)
        if self.max_tiles is not None:
            times = math.sqrt(columns * rows / (self.max_tiles * self.side**2))
            if times > SHRINK_ABOVE:
                columns, rows = int(columns // times), int(rows // times)
        return rows * (columns + 1)


def image_tokens(rule: ImageRule, sizes: list[Size]) -> list[int]:
    """Tokens of each picture of a row, given (width, height) of each."""
    return [rule.tokens(width, height, len(sizes)) for width, height in sizes]


def best_resolution(size: Size, pinpoints: tuple[Size, ...]) -> Size:
    """The pinpoint that keeps the most pixels of the picture and, among equals, wastes the fewest.

    As LLaVA-NeXT's `select_best_resolution`, which takes the first of several equally good ones.
    """
    width, height = size

    def merit(pinpoint: Size) -> tuple[int, int]:
        scale = min(pinpoint[0] / width, pinpoint[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - pinpoint[0] * pinpoint[1]

    return max(pinpoints, key=merit)


def unpadded(size: Size, feature_map: Size, digits: int | None = None) -> Size:
    """(columns, rows) left of a feature map once the padding around a picture of `size` is cut off.

    As LLaVA-NeXT's `unpad_image`: the padding is removed equally on both sides, so odd padding leaves a line. `digits`:
    round the picture's extent to these decimals before flooring, as transformers does against 14.999999999999998.
    """
    (width, height), (columns, rows) = size, feature_map

    def whole(extent: float) -> int:
        return int(extent if digits is None else round(extent, digits))

    if width / height > columns / rows:
        padding = (rows - whole(height * (columns / width))) // 2
        return columns, rows - 2 * padding
    padding = (columns - whole(width * (rows / height))) // 2
    return columns - 2 * padding, rows


def parse_pinpoints(text: str, image_size: int) -> tuple[Size, ...]:
    """Pinpoints in pixels from LLaVA-NeXT's notation `(1x1),...,(6x6)`: every size in that range, in tiles."""
    found = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)x(\d+)\)", text)]
    if not found:
        raise InputError(f"pinpoints {text!r}: expected a text such as (1x1),...,(6x6).")
    (first_w, first_h), (last_w, last_h) = found[0], found[-1]
    widths, heights = range(first_w, last_w + 1), range(first_h, last_h + 1)
    return tuple((w * image_size, h * image_size) for w in widths for h in heights)
