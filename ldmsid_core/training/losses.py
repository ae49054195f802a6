"""What a reconstruction is measured by: areas, edges, structure, perception, colour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigError

Perceptual = Callable[[Tensor, Tensor], Tensor]
_SSIM_WINDOW, _SSIM_SIGMA = 11, 1.5
_SSIM_C1, _SSIM_C2 = 0.01**2, 0.03**2
_GMSD_C = 0.0026
_TINY = 1e-8
_ANCHOR_BLOCK = 32


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of decoder taming's loss; a term of weight 0 is not computed.

    Attributes:
        l1: Mean absolute error in model range (paper).
        areas: `multiscale_l1`.
        edges: `gradient_l1`.
        ssim: 1 - SSIM.
        gmsd: Gradient magnitude similarity deviation.
        perceptual: The perceptual network handed to the run (paper: LPIPS); without one,
            `weight_free_perceptual` stands in.
        colour_anchor: `colour_anchor`.
    """

    l1: float = 0.0
    areas: float = 1.0
    edges: float = 0.3
    ssim: float = 0.0
    gmsd: float = 0.0
    perceptual: float = 0.0
    colour_anchor: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges."""
        weights = [getattr(self, f.name) for f in fields(self)]
        if min(weights) < 0.0 or not any(weights):
            raise ConfigError(f"Expected loss weights >= 0, one above 0, found {self}.")


def l1(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error."""
    return (found.float() - wanted.float()).abs().mean()


def multiscale_l1(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error at full size, a quarter and a sixteenth, and that of coarse colour.

    An L1 at full size lets the colour and brightness of areas go in favour of edges; the coarse
    terms weigh them, and the differences of channels weigh colour apart from brightness.

    Args:
        found: `(B, 3, H, W)`.
        wanted: The same shape; H and W multiples of 16.
    """
    difference = found.float() - wanted.float()
    total = difference.abs().mean()
    for factor in (4, 16):
        coarse = functional.avg_pool2d(difference, factor)
        total = total + coarse.abs().mean() + coarse.diff(dim=1).abs().mean()
    return total


def gradient_l1(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences: keeps edges sharp."""
    difference = found.float() - wanted.float()
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()


def _unit(image: Tensor) -> Tensor:
    return image.float() * 0.5 + 0.5


def _blurred(image: Tensor) -> Tensor:
    """The Gaussian window of SSIM, where it fits whole."""
    places = torch.arange(_SSIM_WINDOW, device=image.device) - _SSIM_WINDOW // 2
    line = torch.exp(-(places.float() ** 2) / (2.0 * _SSIM_SIGMA**2))
    line = line / line.sum()
    channels = image.shape[1]
    across = line.expand(channels, 1, 1, -1)
    rows = functional.conv2d(image, across, groups=channels)
    return functional.conv2d(rows, across.transpose(2, 3), groups=channels)


def ssim_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - SSIM (Wang et al., 2004: Gaussian of 1.5 pixels, K 0.01 and 0.03), all channels.

    Args:
        found: `(B, 3, H, W)` model range.
        wanted: The same shape; H and W at least 11.
    """
    x, y = _unit(found), _unit(wanted)
    with torch.autocast(x.device.type, enabled=False):
        mean_x, mean_y = _blurred(x), _blurred(y)
        spread_x = _blurred(x * x) - mean_x**2
        spread_y = _blurred(y * y) - mean_y**2
        shared = _blurred(x * y) - mean_x * mean_y
    similar = (2.0 * mean_x * mean_y + _SSIM_C1) * (2.0 * shared + _SSIM_C2)
    size = (mean_x**2 + mean_y**2 + _SSIM_C1) * (spread_x + spread_y + _SSIM_C2)
    return 1.0 - (similar / size).mean()


def _gradient_magnitude(luma: Tensor) -> Tensor:
    """Of Prewitt's filters; smooth at 0, so that its gradient exists."""
    kernel = luma.new_tensor([[1.0, 0.0, -1.0]] * 3)[None, None] / 3.0
    padded = functional.pad(luma, (1, 1, 1, 1), mode="replicate")
    across = functional.conv2d(padded, kernel)
    along = functional.conv2d(padded, kernel.transpose(2, 3))
    return (across**2 + along**2 + _TINY).sqrt()


def gmsd(found: Tensor, wanted: Tensor) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al., 2014) of the mean of the channels.

    Args:
        found: `(B, 3, H, W)` model range.
        wanted: The same shape; H and W even.
    """
    with torch.autocast(found.device.type, enabled=False):
        x, y = (
            _gradient_magnitude(functional.avg_pool2d(_unit(i).mean(dim=1, keepdim=True), 2))
            for i in (found, wanted)
        )
    similarity = (2.0 * x * y + _GMSD_C) / (x**2 + y**2 + _GMSD_C)
    return (similarity.flatten(1).var(dim=1, unbiased=False) + _TINY).sqrt().mean()


def weight_free_perceptual(found: Tensor, wanted: Tensor) -> Tensor:
    """Stands in for a perceptual network: 1 - SSIM at three scales, and GMSD.

    The mean of `ssim_distance` at full, half and quarter size, plus `gmsd`.

    Args:
        found: `(B, 3, H, W)` model range.
        wanted: The same shape; H and W multiples of 4, at least 44.
    """
    total = gmsd(found, wanted)
    for factor in (1, 2, 4):
        small = (functional.avg_pool2d(i.float(), factor) for i in (found, wanted))
        total = total + ssim_distance(*small) / 3.0
    return total


def _linear_light(image: Tensor) -> Tensor:
    """Linear light of model-range sRGB, continued outside the range."""
    value = _unit(image)
    curve = ((value.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(value <= 0.04045, value / 12.92, curve)


def colour_anchor(found: Tensor, wanted: Tensor) -> Tensor:
    """L1 of the means of 32 x 32 pixels in linear light: colour and brightness of areas.

    Free of texture, so that it pulls at colour casts alone (after DarkDiff's anchoring of
    low-pass colour).

    Args:
        found: `(B, 3, H, W)` model range.
        wanted: The same shape; H and W at least 32.
    """
    small = (functional.avg_pool2d(_linear_light(i), _ANCHOR_BLOCK) for i in (found, wanted))
    return l1(*small)


class ReconstructionLoss:
    """The weighted sum of a `LossConfig`'s terms."""

    def __init__(self, config: LossConfig, perceptual: Perceptual | None = None) -> None:
        """Choose the terms.

        Args:
            config: Their weights.
            perceptual: `(found, wanted)`, both `(B, 3, H, W)` model range -> a number that is a
                mean over samples; None takes `weight_free_perceptual`.
        """
        measures: dict[str, Perceptual] = {
            "l1": l1, "areas": multiscale_l1, "edges": gradient_l1, "ssim": ssim_distance,
            "gmsd": gmsd, "perceptual": perceptual or weight_free_perceptual,
            "colour_anchor": colour_anchor,
        }  # fmt: skip
        self._terms = [
            (name, getattr(config, name), measure)
            for name, measure in measures.items()
            if getattr(config, name)
        ]

    def __call__(self, found: Tensor, wanted: Tensor) -> dict[str, Tensor]:
        """The sum as `loss`, then every term by its name, unweighted."""
        values = {name: measure(found, wanted) for name, _, measure in self._terms}
        total: Tensor | None = None
        for name, weight, _ in self._terms:
            weighted = weight * values[name]
            total = weighted if total is None else total + weighted
        assert total is not None
        return {"loss": total, **values}
