"""Pictures by their official names in a folder that was, or will be, imported with `image_folder`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import fsspec

from pipelines.importers.folders import files_below
from pipelines.importers.image_folder import ENDINGS
from schemas.errors import InputError

_COCO = re.compile(r"COCO_(train2014|val2014|test2014|test2015)_(\d{12})\.jpg")
_RENAMED = {"val2014": ("train2017/*", "val2017/*")}


class Found(NamedTuple):
    """The key of a picture, and what is wrong with it, if something is."""

    key: str
    problem: str | None = None


class PicturesByOfficialName:
    """Every picture of a folder and of the folders in it, links to folders included, by the name of its file.

    Holds the paths: about 280 bytes a picture. Raises InputError for a folder that does not exist or has no picture.
    """

    def __init__(self, path: str):
        self.path, self.several = path, 0
        self._places: dict[str, list[str]] = {}
        self._empty: set[str] = set()
        for place, empty in _listing(path):
            if place.lower().endswith(tuple(f".{ending}" for ending in ENDINGS)):
                self._places.setdefault(place.rpartition("/")[2], []).append(place)
                if empty:
                    self._empty.add(place)
        if not self._places:
            raise InputError(f"{path}: no pictures here (files ending in {', '.join(ENDINGS)}). Check `images`.")

    def find(self, places: Sequence[str]) -> Found:
        """The first of `places` that exists: paths below any folder of this one, or, with a slash in front, below it.

        Where several files fit one place, the one nearest to the top is taken, then the first by name; `several`
        counts them. A picture that is nowhere, or empty, has a problem, and the key of its first place.
        """
        for place in places:
            fits = [one for one in self._places.get(place.rpartition("/")[2], ()) if _fits(one, place)]
            if fits:
                self.several += len(fits) > 1
                found = min(fits, key=lambda one: (one.count("/"), one))
                return Found(found, f"{found} is an empty file" if found in self._empty else None)
        names = sorted({place.rpartition("/")[2] for place in places})
        return Found(places[0], f"{' or '.join(names)} is not in the image folder")


def _fits(path: str, place: str) -> bool:
    return path == place[1:] if place.startswith("/") else path == place or path.endswith(f"/{place}")


def coco_places(name: str) -> list[str]:
    """Where a picture of COCO may be, for a name such as COCO_train2014_000000262144.jpg or train2017/000000262144.jpg.

    LLaVA's place comes first, then the names of COCO's releases. That of 2017 holds the pictures of 2014 under other
    names: all of train2014 are in train2017; val2014 was divided between train2017 and val2017, so without a folder
    to look into, its pictures keep their names of 2014, as those of test2015 do.
    """
    folder, _, file = name.rpartition("/")
    old = _COCO.fullmatch(file)
    plain = f"{old[2]}.jpg" if old else file
    if old and not old[1].startswith("train"):
        places = [f"{old[1]}/{file}", *_RENAMED.get(old[1], ())]
    elif old:
        places = ["train2017/*", f"{old[1]}/{file}"]
    else:
        of_2014 = [f"{split}/COCO_{split}_*" for split in ("train2014", "val2014") if folder != "test2017"]
        places = [f"{folder}/*", *of_2014]
    places = [place.replace("*", plain) for place in places]
    return list(dict.fromkeys([f"coco/{places[0]}", *places, plain, file]))


def _listing(path: str) -> Iterator[tuple[str, bool]]:
    """(path in the folder, whether it is empty) of every file, in order."""
    fs, root = fsspec.core.url_to_fs(path)
    if not fs.isdir(root):
        raise InputError(f"{path}: no such folder. Check `images`: it is the folder that `import image_folder` takes.")
    for name, stamp in sorted(files_below(fs, root, [])):
        yield name, stamp.partition(" ")[0] == "0"
