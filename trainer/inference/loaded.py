"""A checkpoint in memory: in its own precision or in 4 or 8 bits, on one device or several, with adapters."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from schemas.errors import InputError
from trainer.inference.checkpoint import Devices
from trainer.models.adapter import quantisation, without_peft_warnings
from trainer.models.adapterfolder import AdapterFolder
from trainer.models.folder import ModelFolder
from trainer.models.opening import from_folder

BASE = "__base__"
"""peft's name for rows that no adapter changes."""
_TOWERS = {"projector": "multi_modal_projector", "tower": "vision_tower"}


def precision(device: torch.device) -> torch.dtype:
    """What a device answers in: bfloat16 on a GPU that computes with it, float16 on any other (V100, T4, Apple's)."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32 if device.type == "cpu" else torch.float16


class Loaded:
    """The weights of `folder` for inference. Adapters share them; each row of a batch says which one it wants."""

    def __init__(self, folder: ModelFolder, load: str | None = None, device: str | None = None):
        """Raises InputError for devices that are not there, and for a folder that cannot be loaded."""
        import transformers

        transformers.utils.logging.disable_progress_bar()
        devices = available(Devices.parse(device))
        self.device = devices[0]
        dtype = precision(self.device)
        options: dict[str, Any] = {"dtype": dtype}
        if load is not None:
            # It writes a line for each layer and token that 8-bit layers multiply in float16, which they always do.
            logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
            options |= {"quantization_config": quantisation(int(load[0])), "device_map": {"": self.device}}
        if len(devices) > 1:
            free = {one.index: torch.cuda.mem_get_info(one)[0] for one in devices}
            options |= {"device_map": "balanced", "max_memory": free}
        model = from_folder(folder, **options)
        self.model = (model if "device_map" in options else model.to(self.device)).eval()
        # A checkpoint's generation_config.json may ask for 100,000 beams; it is ignored, answers here are greedy.
        self.model.generation_config = transformers.GenerationConfig()
        self.dtype, self.precision = dtype, load or str(dtype).removeprefix("torch.")
        self._whole: Any = self.model
        self._parts: dict[str, dict[str, Any]] = {}
        self._slots: dict[str, str] = {}
        """Name -> peft's name for it, which becomes part of a parameter's and may hold no dot."""
        self._numbers = itertools.count()
        self._lock = threading.RLock()
        """Held by each forward pass: an adapter is chosen by changing what all threads share."""

    @property
    def adapters(self) -> list[str]:
        return list(self._parts)

    def attach(self, name: str, adapter: AdapterFolder) -> None:
        """Load an adapter of this base under `name`. Raises InputError for weights that have no place in it."""
        from peft import PeftModel

        parts, slot = self._trained_parts(adapter), f"adapter{next(self._numbers)}"
        with without_peft_warnings():
            options: dict[str, Any] = {"autocast_adapter_dtype": False}
            if self._whole is self.model:
                self._whole = PeftModel.from_pretrained(self.model, str(adapter.path), slot, **options).eval()
            else:
                self._whole.load_adapter(str(adapter.path), slot, **options)
                self._whole.eval()
        self._parts[name], self._slots[name] = parts, slot

    def detach(self, name: str) -> None:
        """Forget an adapter; the base stays."""
        slot = self._slots.pop(name)
        del self._parts[name]
        if self._parts:
            self._whole.delete_adapter(slot)
        else:
            self._whole = self.model = self._whole.unload()

    def forward(self, adapters: Sequence[str], **inputs: Any) -> Any:
        """The model's outputs for a batch; adapters: one for each row; another name is the base."""
        with self._lock:
            if self._whole is self.model:
                return self.model(**inputs)
            return self._whole(adapter_names=[self._slots.get(name, BASE) for name in adapters], **inputs)

    @contextmanager
    def seen_by(self, adapter: str) -> Iterator[None]:
        """Pictures pass through the projector (and tower) that were trained beside `adapter`."""
        with self._lock:
            inner = self.model.model
            own = {name: getattr(inner, name) for name in self._parts.get(adapter, {})}
            for name in own:
                setattr(inner, name, self._parts[adapter][name])
            try:
                yield
            finally:
                for name, module in own.items():
                    setattr(inner, name, module)

    def _trained_parts(self, adapter: AdapterFolder) -> dict[str, Any]:
        """Copies of the projector and the tower with the weights that were trained beside an adapter."""
        import copy

        from safetensors.torch import load_file

        made = {}
        for file in adapter.in_full():
            name = _TOWERS[file.stem]
            module = copy.deepcopy(getattr(self.model.model, name))
            weights = {key.partition(f"{name}.")[2]: tensor for key, tensor in load_file(file).items()}
            wrong = module.load_state_dict(weights, strict=False)
            if wrong.unexpected_keys:
                raise InputError(
                    f"{file}: {adapter.base.path} has no weight {wrong.unexpected_keys[0]}: another model's file."
                )
            made[name] = module
        return made


def available(devices: Devices) -> list[torch.device]:
    """The devices to load on; raises InputError for those that are not there."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = devices.kind or ("cuda" if gpus else "cpu")
    if kind == "cpu":
        return [torch.device("cpu")]
    if kind == "mps":
        if not torch.backends.mps.is_available():
            raise InputError("device: mps is not available on this machine. Use cpu.")
        return [torch.device("mps")]
    missing = [number for number in devices.numbers or (0,) if number >= gpus]
    if missing:
        raise InputError(f"device: there is no GPU {missing[0]}; torch finds {gpus}. Use cpu, or another number.")
    return [torch.device("cuda", number) for number in devices.numbers or (0,)]
