"""Small pictures and tar archives for tests."""

import io
import json
import tarfile

from PIL import Image


def png(color, width=6):
    buffer = io.BytesIO()
    Image.new("RGB", (width, 3), color).save(buffer, "PNG")
    return buffer.getvalue()


def archive(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, given in members:
            content = json.dumps(given).encode() if isinstance(given, dict | list) else given
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def all_rows(importer):
    return [row for part in importer.slices() for row in importer.rows(part).to_pylist()]
