"""Sample sheets while training runs: amplified | current result | truth, a row a sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..evaluation.sheet import save_sheet, to_float_image
from ..raw.simulate import linear_to_srgb
from ..taming.attach import Decode
from ..wavelet import BandKind, make_bands
from .generated import GeneratedGroup, MakeGroup
from .hosting import TamableHost
from .loop import DrawSheet

SHEET_SAMPLES = 2


def amplified_picture(planes: Tensor) -> Tensor:
    """Planes as a naive picture: no matrix, sRGB's curve alone.

    Args:
        planes: `(B, 4, h, w)` model range.

    Returns:
        `(B, 3, h, w)` unit range.
    """
    light = planes.float() * 0.5 + 0.5
    rgb = torch.stack([light[:, 0], 0.5 * (light[:, 1] + light[:, 3]), light[:, 2]], dim=1)
    return linear_to_srgb(rgb)


def write_sheet(path: Path, planes: Tensor, result: Tensor, truth: Tensor) -> None:
    """Write one sheet; an older one of the same step is replaced.

    Args:
        path: Ends in `.png`.
        planes: `(B, 4, h, w)` model range.
        result: `(B, 3, h, w)` model range.
        truth: `(B, 3, h, w)` unit range.

    Raises:
        OutputError: If it cannot be written.
    """
    unit = result.float().cpu() * 0.5 + 0.5
    columns = [amplified_picture(planes), unit.clamp(0.0, 1.0), truth]
    # Samples of a column one below the other: (B, 3, h, w) -> (1, 3, B * h, w).
    tall = [torch.cat(list(column), dim=1)[None] for column in columns]
    save_sheet(path, [to_float_image(column) for column in tall], overwrite=True)


def _first_samples(make: MakeGroup) -> GeneratedGroup:
    group = make(0)
    return GeneratedGroup(*(t[:SHEET_SAMPLES] for t in (group.image, group.planes, group.latent)))


def unet_sheet(make: MakeGroup, host: TamableHost) -> DrawSheet:
    """Sheets of UNet taming: sampled from the first pairs' planes, decoded untamed."""

    def draw(path: Path) -> None:
        group = _first_samples(make)
        result = host.vae.decode(group.latent.to(host.vae.device)).sample
        write_sheet(path, group.planes, result, group.image)

    return draw


def decoder_sheet(make: MakeGroup, decode: Decode, device: torch.device, bands: BandKind
                  ) -> Callable[[Path], None]:  # fmt: skip
    """Sheets of decoder taming: the first group's latents, sampled once, decoded tamed."""
    kept: list[GeneratedGroup] = []

    def draw(path: Path) -> None:
        if not kept:
            kept.append(_first_samples(make))
        group = kept[0]
        split = make_bands(group.planes, bands).to(device, torch.float32)
        result = decode(group.latent.to(device), split)
        write_sheet(path, group.planes, result, group.image)

    return draw
