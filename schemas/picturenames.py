"""The rule for matching image names: shared by imports and their checks, mixes, evaluation and display.

Two names mean one picture when they are equal after each of these steps, tried in this order:

1. as written;
2. as paths: `\\` is `/`, `./`, `//` and a leading `/` say nothing, `x/../` is taken back, Unicode is composed (NFC);
3. with endings whose case, or whose spelling (`jpeg` and `jpg`, `tiff` and `tif`), makes no difference; a name that
   has no picture's ending means the one picture that has its name and such an ending.

Another ending (`a.png` for `a.jpg`) is another picture unless the user says otherwise: beside a photograph there may
be a mask, or a thumbnail, of its name. Letters keep their case in front of the ending. A name that means several
pictures means none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Of pictures, in lower case."""

_SAME_ENDING = {"jpeg": "jpg", "tiff": "tif"}
_IS_PLAIN = re.compile(r"(?:[\w-][\w.-]*/)*+[\w-][\w.-]*+\Z", re.ASCII)
"""Most names; the other pattern takes longer."""
_NOT_PLAIN = re.compile(r"\\|//|^/|/$|(?:^|/)\.\.?(?:/|$)")


def plain_name(name: str) -> str:
    """`name` as a path in its folder (step 2). Names that leave the folder begin with `../`; addresses stay as they
    are."""
    if name.isascii() and (_IS_PLAIN.match(name) or not _NOT_PLAIN.search(name)):
        return name
    if "://" in name:
        return name
    parts: list[str] = []
    for part in unicodedata.normalize("NFC", name).replace("\\", "/").split("/"):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts) or name


def stem(name: str) -> str:
    """The plain name without the ending of a picture: what all names that may mean one picture share."""
    plain = plain_name(name)
    return plain[: -len(ending) - 1] if (ending := _ending(plain)) else plain


def meant_by(name: str, present: Iterable[str], other_endings: bool = False) -> list[str]:
    """Those of the `present` names that `name` means: one, none, or several, between which nothing decides.

    other_endings: take a picture with another ending where there is none with this one.
    """
    wanted, ending = plain_name(name), _same(_ending(plain_name(name)))
    near = [one for one in present if stem(one) == stem(name)]
    steps = (
        (one == name for one in near),
        (one == wanted for one in near),
        (plain_name(one) == wanted for one in near),
        (_ending(one) and (not ending or _same(_ending(one)) == ending) for one in near),
        (other_endings and _ending(one) for one in near),
    )
    chosen = ([one for one, fits in zip(near, step, strict=True) if fits] for step in steps)
    return next((found for found in chosen if found), [])


def _ending(name: str) -> str:
    """The ending of a picture as it is written, without its dot; empty for other names."""
    base, dot, ending = name.rpartition(".")
    return ending if dot and base and not base.endswith("/") and ending.lower() in ENDINGS else ""


def _same(ending: str) -> str:
    return _SAME_ENDING.get(ending.lower(), ending.lower())
