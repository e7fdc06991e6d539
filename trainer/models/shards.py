"""Weights on disk: safetensors shards, read and written one tensor at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from schemas.errors import InputError
from schemas.modelfolder import INDEX, read_header, weight_files

SHARD_BYTES = 4 << 30
WORTH_SHARING = 64 << 20
"""Bytes from which weights get a separate file, so that a model which keeps them unchanged can share it."""
SINGLE = "model.safetensors"


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder; raises InputError when there is none."""
    if (folder / INDEX).is_file():
        return weight_files(folder)
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    raise InputError(
        f"{folder}: contains neither {SINGLE} nor {INDEX}. Give a folder with safetensors weights; "
        "`model.save_pretrained(folder)` converts older formats."
    )


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Every (name, tensor) of a checkpoint, one at a time."""
    for file in shard_files(folder):
        read_header(file)  # sizes that do not fit together are said in one line
        try:
            with safe_open(file, "pt") as shard:
                for name in shard.keys():  # noqa: SIM118 (a safe_open is no dict)
                    yield name, shard.get_tensor(name)
        except (SafetensorError, FileNotFoundError) as error:
            raise InputError(f"{file}: cannot be read as safetensors: {error}. Fetch the checkpoint again.") from error


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file with the permissions of any new file: safetensors makes it readable by its owner only.

    Raises OSError, as any write does; safetensors raises its own error for a full disk.
    """
    path.touch()
    permissions = path.stat().st_mode
    try:
        save_file({name: tensor.contiguous().cpu() for name, tensor in tensors.items()}, path, {"format": "pt"})
    except SafetensorError as error:
        full = "No space left" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
    path.chmod(permissions)


class ShardWriter:
    """Writes tensors in the given order, `shard_bytes` per file; `dtype` None converts all to the first tensor's."""

    def __init__(self, folder: Path, dtype: torch.dtype | None = None, shard_bytes: int = SHARD_BYTES):
        self.folder, self.dtype, self.shard_bytes = folder, dtype, shard_bytes
        self._held: dict[str, torch.Tensor] = {}
        self._bytes, self._total = 0, 0
        self._shards: list[list[str]] = []

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def put(self, name: str, tensor: torch.Tensor) -> None:
        self.dtype = self.dtype or tensor.dtype
        kept = tensor.detach().to("cpu", self.dtype).contiguous()
        size = kept.nbytes
        if self._held and self._bytes + size > self.shard_bytes:
            self._flush()
        self._held[name] = kept
        self._bytes += size
        self._total += size

    def split(self) -> None:
        """Begin another file, if the one before is worth sharing."""
        if self._bytes >= WORTH_SHARING:
            self._flush()

    def share(self, file: Path, tensors: list[str]) -> None:
        """Take over `file`, which holds `tensors`, as it is: by a hard link, or a copy where the disk has none."""
        self._flush()
        draft = self._draft(len(self._shards))
        try:
            os.link(file, draft)
        except OSError:
            shutil.copyfile(file, draft)
        self._shards.append(tensors)
        self._total += sum(one.bytes for one in read_header(file).values())

    def close(self) -> None:
        """Write what is held, give the files their final names, and write the index that lists them."""
        self._flush()
        count = len(self._shards)
        for old in {*self.folder.glob("model*.safetensors"), self.folder / INDEX}:
            old.unlink(missing_ok=True)
        names = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
        for number, name in enumerate(names):
            self._draft(number).rename(self.folder / name)
        if count > 1:
            where = {tensor: name for name, tensors in zip(names, self._shards, strict=True) for tensor in tensors}
            index = {"metadata": {"total_size": self._total}, "weight_map": where}
            (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    def _flush(self) -> None:
        if not self._held:
            return
        save_tensors(self._held, self._draft(len(self._shards)))
        self._shards.append(list(self._held))
        self._held, self._bytes = {}, 0

    def _draft(self, number: int) -> Path:
        return self.folder / f"shard-{number:05d}.part"
