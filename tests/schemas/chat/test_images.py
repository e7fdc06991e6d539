"""Token counts of pictures against those of the original code."""

import json
from typing import Any

import pytest

from schemas.chat import ImageRule, image_tokens
from schemas.chat.images import LLAVA_NEXT_PINPOINTS, best_resolution, parse_pinpoints
from schemas.errors import InputError

from .conftest import VECTORS

GRIDS: dict[str, dict[str, Any]] = {
    "v1_6_336": {"pinpoints": LLAVA_NEXT_PINPOINTS},
    "siglip_384": {"image_size": 384},
    "grid_1to2_336": {"pinpoints": parse_pinpoints("(1x1),...,(2x2)", 336)},
    "am9_1to6_384": {"image_size": 384, "pinpoints": parse_pinpoints("(1x1),...,(6x6)", 384)},
}


def vectors(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (VECTORS / name).read_text("utf-8").splitlines()]


@pytest.mark.parametrize("digits", [None, 7])
def test_grids_and_unpadded_tokens(digits: int | None) -> None:
    for row in vectors("anyres_grid.jsonl"):
        size = tuple(row["size"])
        if "spec" in row:
            pinpoints = parse_pinpoints(row["spec"], row["patch_size"])
            rule = ImageRule("anyres", image_size=row["patch_size"], pinpoints=pinpoints)
            assert list(rule.grid(*size)) == row["grid_shape_wh"]
            continue
        rule = ImageRule("anyres", **GRIDS[row["grid_set"]], unpad_digits=digits)
        assert list(best_resolution(size, rule.pinpoints)) == row["best"]
        assert list(rule.grid(*size)) == row["grid_shape_wh"]
        assert rule.tokens(*size) == row["tokens_spatial_unpad"]
        assert rule.tiles(*size) == 1 + row["grid_shape_wh"][0] * row["grid_shape_wh"][1]


def test_merges_of_llava_next() -> None:
    for row in vectors("anyres_tokens_next.jsonl"):
        tiles = 9 if row["aspect"] == "anyres_max_9" else None
        rule = ImageRule("anyres", **GRIDS[row["grid_set"]], merge=row["merge"], max_tiles=tiles)
        assert rule.tokens(*row["size"]) == row["image_tokens"], row


def test_rounding_decides_where_a_float_falls_short_of_a_whole_line() -> None:
    """410 * (72 / 1968) is 14.999999999999998: LLaVA keeps 14 lines, transformers 16 (both cut evenly)."""
    assert ImageRule("anyres", unpad_digits=None).tokens(1968, 410) == 576 + 14 * 73
    assert ImageRule("anyres").tokens(1968, 410) == 576 + 16 * 73


def test_one_picture_one_square() -> None:
    assert image_tokens(ImageRule(), [(640, 480), (1, 9)]) == [576, 576]
    assert ImageRule("pad", select="full").tokens(3, 4) == 577
    assert ImageRule(image_size=384, select="full", class_token=0).tokens(3, 4) == 27 * 27


def test_several_pictures_of_a_row_are_not_cut_where_max_tiles_is_set() -> None:
    """LLaVA-NeXT pads each to a square and ends it with a line end where its merge has one."""
    rule = ImageRule("anyres", max_tiles=9)
    assert (rule.cuts(1), rule.cuts(2), ImageRule("anyres").cuts(2), ImageRule("pad").cuts(1)) == (
        True,
        False,
        True,
        False,
    )
    assert image_tokens(rule, [(640, 480), (10, 9)]) == [577, 577]
    assert image_tokens(ImageRule("anyres", max_tiles=9, merge="flat"), [(640, 480), (10, 9)]) == [576, 576]
    assert image_tokens(rule, [(640, 480)]) == [ImageRule("anyres").tokens(640, 480)]
    assert [rule.tiles(640, 480, pictures) for pictures in (1, 2)] == [5, 1]
    with pytest.raises(InputError, match="too narrow for image mode 'pad'"):
        rule.check_size(65500, 1, pictures=2)


def test_pinpoints_of_a_recipe_may_be_a_range_of_tiles() -> None:
    rule = ImageRule.from_dict({"mode": "anyres", "image_size": 384, "pinpoints": "(1x1),...,(6x6)"})
    assert rule.pinpoints == parse_pinpoints("(1x1),...,(6x6)", 384)
    assert len(rule.pinpoints) == 36


def test_a_rule_goes_through_a_manifest() -> None:
    rule = ImageRule("anyres", merge="flat", max_tiles=9)
    assert ImageRule.from_dict(json.loads(json.dumps(rule.to_dict()))) == rule
    with pytest.raises(InputError, match="unknown key 'pinpoint'"):
        ImageRule.from_dict({"pinpoint": []})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "crop"}, "image mode 'crop'"),
        ({"merge": "unpad"}, "image merge 'unpad'"),
        ({"select": "cls"}, "image select 'cls'"),
        ({"image_size": 7}, "must hold a patch of 14 pixels"),
        ({"mode": "anyres", "pinpoints": ((336, 500),)}, "multiples of image_size 336"),
    ],
)
def test_impossible_rules_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ImageRule(**values)


def test_an_empty_picture_has_no_tokens_to_count() -> None:
    with pytest.raises(InputError, match="picture of 0x3 pixels"):
        ImageRule().tokens(0, 3)
