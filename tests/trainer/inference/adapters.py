"""LoRA adapters without a training run: random weights, written as a run writes them."""

import torch

from trainer.models.adapter import add_lora, write_adapter
from trainer.models.folder import ModelFolder
from trainer.models.opening import from_folder
from trainer.sections import LoraConfig


def random_adapter(model, seed, output):
    """An adapter of the checkpoint `model` with a projector of its own, so strong that answers change."""
    folder = ModelFolder.open(model)
    tuned = add_lora(from_folder(folder, dtype=torch.float32), LoraConfig(rank=2, alpha=16, dropout=0.0))
    torch.manual_seed(seed)
    for name, parameter in tuned.named_parameters():
        parameter.requires_grad = "lora" in name or "projector" in name
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    weights = {name: tensor.detach() for name, tensor in tuned.named_parameters() if tensor.requires_grad}
    return write_adapter(tuned, weights, folder, output)
