"""What tests of question-answer sets share: files written, rows read."""

import json

from schemas.chat.llava_json import to_llava


def written(folder, name, content):
    """The path of a new file with `content` as JSON."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def imported(importer):
    """All rows of an importer's source."""
    return [row for part in importer.slices() for row in importer.rows(part).to_pylist()]


def talk(row):
    """The texts of a row's turns as LLaVA's JSON has them."""
    return [turn["value"] for turn in to_llava(row["messages"], row["image_keys"])["conversations"]]
