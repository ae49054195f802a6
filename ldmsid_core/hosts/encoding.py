"""A picture as a latent to begin sampling with, through the host's own encoder."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ..enlarged import encode_enlarged


def encode_picture(vae: nn.Module, picture: Tensor, place: Callable[[Tensor], Tensor]) -> Tensor:
    """Enlarge a picture eightfold and encode it.

    Args:
        vae: diffusers' `AutoencoderKL`.
        picture: `(B, 3, h, w)` unit range, one pixel a latent.
        place: Brings a tensor to the VAE's device and dtype.

    Returns:
        Unscaled latent `(B, 4, h, w)` float32, the encoder's mean.
    """

    def encode(pixels: Tensor) -> Tensor:
        found: Tensor = vae.encode(place(pixels * 2.0 - 1.0)).latent_dist.mode()  # type: ignore[operator]
        return found

    return encode_enlarged(picture, encode)
