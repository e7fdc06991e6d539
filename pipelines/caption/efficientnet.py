"""EfficientNet-Lite0 for inference, with the parameter names of the published PyTorch weights.

Architecture: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (EfficientNet-B0
of arXiv:1905.11946, table 1, without squeeze-and-excitation and with ReLU6).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

IMAGE_SIZE = 224
CLASSES = 1000

STAGES = (  # (kernel, stride of the first block, expansion, channels, blocks)
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class EfficientNetLite0(nn.Module):
    """Pictures (batch, 3, 224, 224), scaled as `(pixel - 127) / 128` -> logits (batch, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, stride=2), _norm(32)
        self._blocks = nn.ModuleList(_blocks())
        self._conv_head, self._bn1 = _Conv(320, 1280, 1), _norm(1280)
        self._fc = nn.Linear(1280, CLASSES)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = functional.relu6(self._bn0(self._conv_stem(pictures)))
        for block in self._blocks:
            x = block(x)
        x = functional.relu6(self._bn1(self._conv_head(x)))
        return self._fc(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to the input where the shape stays."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        middle = inputs * expansion
        self.expands, self.adds = expansion > 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = _Conv(inputs, middle, 1), _norm(middle)
        self._depthwise_conv, self._bn1 = _Conv(middle, middle, kernel, stride, groups=middle), _norm(middle)
        self._project_conv, self._bn2 = _Conv(middle, outputs, 1), _norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class _Conv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: the odd pixel goes right and below."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        across, down = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in (x.shape[3], x.shape[2]))
        x = functional.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return super().forward(x)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _blocks() -> list[_Block]:
    blocks, inputs = [], 32
    for kernel, stride, expansion, outputs, count in STAGES:
        for number in range(count):
            blocks.append(_Block(inputs, outputs, kernel, stride if number == 0 else 1, expansion))
            inputs = outputs
    return blocks
