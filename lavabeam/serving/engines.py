"""Table of external engines (vLLM, SGLang) and the options that each takes.

vLLM and SGLang pin other versions of torch and transformers than ours, so their Python is named, never imported.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

BASE = "base"
"""What a started server calls the weights that it was started with; adapters have separate names."""


@dataclass(frozen=True)
class Launch:
    """One start. `gpus`: numbers of GPUs, empty for what there is."""

    python: Path
    folder: Path
    port: int
    key: str
    lora: bool
    gpus: tuple[int, ...] = ()
    max_images: int = 16
    most_running: int = 32
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Engine:
    """`module`: what its environment must have. `load`, `unload`: routes that add and remove an adapter.
    `adapter`: what a request calls the adapter of that name."""

    module: str
    command: Callable[[Launch], list[str]]
    environment: Callable[[Launch], Mapping[str, str]]
    load: str
    unload: str
    adapter: str = "{name}"


def _vllm(launch: Launch) -> list[str]:
    """vLLM, `vllm serve` (docs.vllm.ai, "Engine Arguments" and "LoRA Adapters")."""
    words = [str(launch.python), "-m", "vllm.entrypoints.openai.api_server"]
    words += ["--model", str(launch.folder), "--served-model-name", BASE]
    words += ["--host", "127.0.0.1", "--port", str(launch.port)]
    words += ["--limit-mm-per-prompt", json.dumps({"image": launch.max_images})]
    words += ["--max-num-seqs", str(launch.most_running)]
    words += ["--tensor-parallel-size", str(len(launch.gpus))] if len(launch.gpus) > 1 else []
    words += ["--enable-lora", "--max-lora-rank", "128"] if launch.lora else []
    return [*words, *launch.arguments]


def _sglang(launch: Launch) -> list[str]:
    """SGLang, `sglang.launch_server` (docs.sglang.ai, "Server Arguments" and "LoRA Serving")."""
    words = [str(launch.python), "-m", "sglang.launch_server", "--model-path", str(launch.folder)]
    words += ["--served-model-name", BASE, "--host", "127.0.0.1", "--port", str(launch.port)]
    words += ["--api-key", launch.key, "--max-running-requests", str(launch.most_running)]
    words += ["--tp-size", str(len(launch.gpus))] if len(launch.gpus) > 1 else []
    words += ["--enable-lora", "--max-lora-rank", "128", "--lora-target-modules", "all"] if launch.lora else []
    return [*words, *launch.arguments]


def _environment(launch: Launch) -> dict[str, str]:
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, launch.gpus))} if launch.gpus else {}
    return {"HF_HUB_OFFLINE": "1", **visible}


def _vllm_environment(launch: Launch) -> dict[str, str]:
    own = {"VLLM_API_KEY": launch.key, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True", "VLLM_NO_USAGE_STATS": "1"}
    return {**_environment(launch), **own}


ENGINES: dict[str, Engine] = {
    "vllm": Engine("vllm", _vllm, _vllm_environment, "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    "sglang": Engine(
        "sglang", _sglang, _environment, "/load_lora_adapter", "/unload_lora_adapter", adapter=BASE + ":{name}"
    ),
}
