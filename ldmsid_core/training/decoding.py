"""Stage 2: decoder taming on latents that the tamed UNet generated from dark RAWs (paper)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..taming.attach import Decode
from ..wavelet import BandKind, make_bands
from .generated import GeneratedPool
from .loop import LossFunction
from .losses import ReconstructionLoss
from .pairs import BatchPart


def decoder_taming_loss(
    decode: Decode,
    generated: GeneratedPool,
    measure: ReconstructionLoss,
    *,
    device: torch.device,
    bands: BandKind = "dwt",
) -> LossFunction:
    """Reconstruction error of the tamed decoder on generated latents.

    Args:
        decode: Of the tamed decoder.
        generated: Where latents come from.
        measure: The loss.
        device: Of the decoder.
        bands: What the planes are split into.
    """

    def loss(part: BatchPart) -> dict[str, Tensor]:
        group = generated.pick(part)
        split = make_bands(group.planes, bands).to(device, torch.float32)
        found = decode(group.latent.to(device), split)
        return measure(found, group.image.to(device) * 2.0 - 1.0)

    return loss
