"""LPIPS (Zhang et al., CVPR 2018), version 0.1, from weights that the user has.

The file holds a backbone under torchvision's names (`features.N.weight`, `features.N.bias` of
AlexNet or VGG16) and the linear heads under those of the package lpips (`linK.model.1.weight`,
K = 0..4, `(1, C, 1, 1)`). `classifier.*` may lie beside them and is not read. The widths of the
first convolution tell AlexNet from VGG16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import CheckpointError
from ..finite import is_finite
from ..weight_file import read_weights

# Of inputs in model range [-1, 1], as published with the weights.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPSILON = 1e-10


@dataclass(frozen=True)
class Backbone:
    """A convolutional network whose features are compared.

    Attributes:
        name: In reports.
        convolutions: Index in `features`, side of the kernel, output channels; per stage, and a
            stage ends where its features are compared.
        stride: Of the first convolution.
        padding: Of the first convolution.
        pools: Stages that begin with a maximum over windows of `pool`, 2 pixels apart.
        pool: Side of that window.
        smallest_side: Of pictures that reach the last stage.
    """

    name: str
    convolutions: tuple[tuple[tuple[int, int, int], ...], ...]
    stride: int
    padding: int
    pools: tuple[int, ...]
    pool: int
    smallest_side: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the file by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        stages = [layer for stage in self.convolutions for layer in stage]
        widths = [3, *(channels for _, _, channels in stages)]
        for (index, kernel, _), (inside, outside) in zip(stages, pairwise(widths), strict=True):
            shapes[f"features.{index}.weight"] = (outside, inside, kernel, kernel)
            shapes[f"features.{index}.bias"] = (outside,)
        for level, stage in enumerate(self.convolutions):
            shapes[f"lin{level}.model.1.weight"] = (1, stage[-1][2], 1, 1)
        return shapes


ALEX = Backbone(
    "AlexNet",
    (((0, 11, 64),), ((3, 5, 192),), ((6, 3, 384),), ((8, 3, 256),), ((10, 3, 256),)),
    4, 2, (1, 2), 3, 31,
)  # fmt: skip
VGG = Backbone(
    "VGG16",
    (
        ((0, 3, 64), (2, 3, 64)),
        ((5, 3, 128), (7, 3, 128)),
        ((10, 3, 256), (12, 3, 256), (14, 3, 256)),
        ((17, 3, 512), (19, 3, 512), (21, 3, 512)),
        ((24, 3, 512), (26, 3, 512), (28, 3, 512)),
    ),
    1, 1, (1, 2, 3, 4), 2, 16,
)  # fmt: skip
_FIRST = "features.0.weight"


def _backbone_of(state: Mapping[str, Tensor], path: Path) -> Backbone:
    for backbone in (ALEX, VGG):
        if _FIRST in state and tuple(state[_FIRST].shape) == backbone.shapes()[_FIRST]:
            return backbone
    found = tuple(state[_FIRST].shape) if _FIRST in state else "none"
    raise CheckpointError(
        f"Expected LPIPS weights with {_FIRST} of AlexNet (64, 3, 11, 11) or VGG16 (64, 3, 3, 3), "
        f"found {found} in {path}; join torchvision's backbone and the heads of the package lpips "
        "in one file."
    )


@dataclass(frozen=True)
class Lpips:
    """A loaded network.

    Attributes:
        backbone: Which one.
        state: Its tensors, float32.
    """

    backbone: Backbone
    state: Mapping[str, Tensor]

    @torch.inference_mode()
    def distance(self, found: Tensor, truth: Tensor) -> float | None:
        """LPIPS of two pictures.

        Args:
            found: `(1, 3, H, W)` unit range.
            truth: The same shape.

        Returns:
            At least 0 with published weights; None where a side is too short for the network.
        """
        if min(truth.shape[-2:]) < self.backbone.smallest_side:
            return None
        return sum(map(float, self._stages(found * 2.0 - 1.0, truth * 2.0 - 1.0)))

    def loss(self, found: Tensor, wanted: Tensor) -> Tensor:
        """LPIPS to be minimised, in float32 under autocast too; only `found` gets a gradient.

        Args:
            found: `(B, 3, H, W)` model range, sides of at least 31.
            wanted: The same shape.

        Returns:
            The mean over the samples.
        """
        with torch.autocast(found.device.type, enabled=False):
            return torch.stack(self._stages(found.float(), wanted.float())).sum()

    def to(self, device: torch.device) -> Lpips:
        """The same network elsewhere."""
        return Lpips(self.backbone, {name: t.to(device) for name, t in self.state.items()})

    def _stages(self, found: Tensor, truth: Tensor) -> list[Tensor]:
        """Mean weighted difference of each stage's features; both pictures in model range."""
        with torch.no_grad():
            wanted = self._features(truth)
        means = []
        for level, (first, second) in enumerate(zip(self._features(found), wanted, strict=True)):
            difference = (_unit(first) - _unit(second)).square()
            weights = self.state[f"lin{level}.model.1.weight"]
            means.append(functional.conv2d(difference, weights).mean())
        return means

    def _features(self, image: Tensor) -> list[Tensor]:
        shift, scale = (image.new_tensor(v)[None, :, None, None] for v in (_SHIFT, _SCALE))
        x = (image - shift) / scale
        kept = []
        for level, stage in enumerate(self.backbone.convolutions):
            if level in self.backbone.pools:
                x = functional.max_pool2d(x, self.backbone.pool, 2)
            for index, kernel, _ in stage:
                weight, bias = (self.state[f"features.{index}.{n}"] for n in ("weight", "bias"))
                stride, padding = (
                    (self.backbone.stride, self.backbone.padding)
                    if index == 0
                    else (1, kernel // 2)
                )
                x = functional.relu(functional.conv2d(x, weight, bias, stride, padding))
            kept.append(x)
        return kept


def _unit(features: Tensor) -> Tensor:
    """Each pixel's features divided by their length; where all are 0, so is the gradient."""
    squares = features.square().sum(dim=1, keepdim=True)
    silent = squares == 0.0
    # The square root's slope at 0 is infinite, and infinity times 0 is NaN.
    length = squares.masked_fill(silent, 1.0).sqrt().masked_fill(silent, 0.0)
    return features / (length + _EPSILON)


def load_lpips(path: Path) -> Lpips:
    """Read a weight file in the layout of this module.

    Raises:
        CheckpointError: If the file is missing, damaged, of another layout, or holds NaN.
    """
    state = {k: v for k, v in read_weights(path).items() if not k.startswith("classifier.")}
    backbone = _backbone_of(state, path)
    wanted = backbone.shapes()
    for name in sorted(wanted.keys() | state.keys()):
        shape = tuple(state[name].shape) if name in state else None
        if shape != wanted.get(name):
            raise CheckpointError(
                f"Expected LPIPS weights of {backbone.name}, but in {path} {name} is "
                f"{shape or 'missing'} instead of {wanted.get(name, 'absent')}; use the backbone "
                "of torchvision and the heads of the package lpips, version 0.1."
            )
        if not is_finite(state[name]):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; fetch the file again.")
    return Lpips(backbone, {name: state[name].float() for name in wanted})
