"""What to load and how, validated without torch: a checkpoint or an adapter, its precision, its devices."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from schemas.chat import get_template
from schemas.errors import InputError
from schemas.fingerprint import fingerprint
from trainer.models.adapterfolder import AdapterFolder, find_adapter
from trainer.models.folder import ModelFolder
from trainer.preflight import model_path
from trainer.runfolder import weights_digest

Load = Literal["4bit", "8bit"]
_DEVICE = re.compile(r"(cuda|mps|cpu)|cuda:(\d+(?:,\d+)*)")


@dataclass(frozen=True)
class Checkpoint:
    """`folder`: what is asked, with the template and image rule to use. `adapter`: where it is a LoRA on `folder`'s
    weights, which stay as they are."""

    folder: ModelFolder
    adapter: AdapterFolder | None = None

    @classmethod
    def open(cls, path: str | Path, base: str | Path | None = None) -> Checkpoint:
        """A llava-hf folder, a run folder, or the adapter of a LoRA run, whose `base` may have moved.

        Raises InputError for anything else, and for an adapter of another base.
        """
        if find_adapter(path) is not None and not (model_path(str(path)) / "config.json").is_file():
            adapter = AdapterFolder.open(path, base)
            return cls(adapter.model, adapter)
        return cls(ModelFolder.open(model_path(str(path))))

    def check(self, template: str | None, load: str | None, device: str | None) -> None:
        """Raise InputError for what can be seen before anything is loaded: `template`, `load` and `device`."""
        name = template or self.folder.template
        if name is None:
            raise InputError(f"{self.folder.path}: does not name the template it was trained with. Give one, e.g. v1.")
        get_template(name)
        self.folder.check_image_token()
        check_load(load)
        Devices.parse(device)

    @property
    def family(self) -> str:
        """As `llava/llama`: the model's type and its language model's."""
        return f"{self.folder.config['model_type']}/{self.folder.text.get('model_type', 'llama')}"

    @property
    def digest(self) -> str:
        """Of its weights and settings."""
        digest = weights_digest(self.folder.path)
        return digest if self.adapter is None else fingerprint(digest, weights_digest(self.adapter.path))


@dataclass(frozen=True)
class Devices:
    """`kind`: cuda, mps or cpu, or None for what there is. `numbers`: of GPUs; layers are spread over several."""

    kind: str | None = None
    numbers: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str | None) -> Devices:
        """`cuda`, `cuda:0`, `cuda:0,1`, `mps` or `cpu`; raises InputError for anything else."""
        if text is None:
            return cls()
        found = _DEVICE.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise InputError(f"device: found {text!r}; expected cpu, mps, cuda, cuda:0, or cuda:0,1 for several GPUs.")
        if found[1]:
            return cls(found[1])
        numbers = tuple(int(number) for number in found[2].split(","))
        if len(set(numbers)) < len(numbers):
            raise InputError(f"device: {text!r} names a GPU twice.")
        return cls("cuda", numbers)


def check_load(load: str | None) -> None:
    """Raise InputError for another precision than 4bit and 8bit, and where bitsandbytes is not installed."""
    if load is None:
        return
    if load not in get_args(Load):
        raise InputError(f"load: found {load!r}; expected {' or '.join(get_args(Load))}, or nothing for its own.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(f"load: {load} needs bitsandbytes, which is not installed: pip install 'lavabeam[qlora]'.")
