"""The baseline: a U-Net that maps amplified planes to a picture by regression, without a host.

After Chen et al., *Learning to see in the dark*, CVPR 2018: five levels of two 3x3 convolutions
with LeakyReLU 0.2, maxima over 2x2 going down, transposed convolutions and concatenated skips
going up. Their network ends at the sensor's size; this one ends at that of the packed planes, as
the model that it is compared with does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError, NonFiniteError
from ..finite import is_finite
from ..wavelet import pad_to_multiple

LEVELS = 5
_PLANES, _COLOURS = 4, 3
_SLOPE = 0.2
_SMALLEST = 1 << (LEVELS - 1)


@dataclass(frozen=True)
class RegressionConfig:
    """How large the baseline is.

    Attributes:
        parameters: Its number of parameters, met as closely as whole widths allow; 0 takes those
            of the host and the taming modules that the configuration names.
    """

    parameters: int = 0

    def __post_init__(self) -> None:
        """Check the range."""
        if self.parameters and self.parameters < parameter_count(_widths(_SMALLEST)):
            raise ConfigError(
                f"Expected parameters of 0 or at least {parameter_count(_widths(_SMALLEST))}, "
                f"found {self.parameters}."
            )


def _widths(coarsest: int) -> tuple[int, ...]:
    """Channels of all levels, finest first: each about half of the next."""
    return tuple(round(coarsest / 2**level) for level in reversed(range(LEVELS)))


def parameter_count(widths: tuple[int, ...]) -> int:
    """Parameters of a `RegressionNet` of these widths."""
    count = 9 * _PLANES * widths[0] + widths[0]
    for width in widths:
        count += 9 * width * width + width
    for fine, coarse in pairwise(widths):
        count += 9 * fine * coarse + coarse  # first convolution of the coarser level
        count += 4 * coarse * fine + fine  # transposed convolution
        count += 9 * 2 * fine * fine + fine + 9 * fine * fine + fine
    return count + _COLOURS * widths[0] + _COLOURS


def regression_widths(parameters: int) -> tuple[int, ...]:
    """The widths, finest first, whose network has the number of parameters nearest to this.

    Args:
        parameters: At least as many as of the smallest network, of width 1 at the finest level.
    """
    coarsest = _SMALLEST
    while parameter_count(_widths(coarsest + 1)) <= parameters:
        coarsest += 1
    return min(
        (_widths(coarsest), _widths(coarsest + 1)),
        key=lambda widths: abs(parameter_count(widths) - parameters),
    )


def _two_convolutions(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1), nn.LeakyReLU(_SLOPE),
        nn.Conv2d(outside, outside, 3, padding=1), nn.LeakyReLU(_SLOPE),
    )  # fmt: skip


class RegressionNet(nn.Module):
    """Planes `(B, 4, h, w)` -> picture `(B, 3, h, w)`, both model range; h, w multiples of 16."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        """Build it, freshly initialised.

        Args:
            widths: Channels of the five levels, finest first.
        """
        super().__init__()
        inside = (_PLANES, *widths[:-1])
        self.down = nn.ModuleList(map(_two_convolutions, inside, widths))
        steps = list(pairwise(widths))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(c, f, 2, stride=2) for f, c in steps)
        self.up = nn.ModuleList(_two_convolutions(2 * fine, fine) for fine, _ in steps)
        self.out = nn.Conv2d(widths[0], _COLOURS, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.out:
                nn.init.kaiming_normal_(module.weight, a=_SLOPE)

    def forward(self, planes: Tensor) -> Tensor:
        """The picture; not clipped."""
        x, skips = planes, []
        for level, convolutions in enumerate(self.down):
            x = convolutions(functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for enlarge, convolutions in zip(reversed(self.enlarge), reversed(self.up), strict=True):
            x = convolutions(torch.cat([enlarge(x), skips.pop()], dim=1))
        return self.out(x)

    def picture(self, planes: Tensor) -> Tensor:
        """The picture of planes of any size.

        Args:
            planes: `(B, 4, h, w)` model range, on the network's device and in its dtype.

        Returns:
            `(B, 3, h, w)` unit range, float32.

        Raises:
            NonFiniteError: If the network returns NaN or infinity.
        """
        height, width = planes.shape[-2:]
        found = self(pad_to_multiple(planes, _SMALLEST))[:, :, :height, :width]
        if not is_finite(found):
            raise NonFiniteError(
                "The regression baseline returned NaN or infinity; use --dtype bf16 or fp32."
            )
        return (found.float() * 0.5 + 0.5).clamp(0.0, 1.0)


def build_regression(widths: tuple[int, ...], *, seed: int) -> RegressionNet:
    """A fresh network; the global generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RegressionNet(widths)
