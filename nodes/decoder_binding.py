"""`Tamed decode`'s way in: what fits together, what the host loads and takes back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.model_management as mm
import torch
from torch import Tensor

from ..ldmsid_core.decoding.decode import check_decode
from ..ldmsid_core.errors import LdmSidError, NonFiniteError, ShapeError
from ..ldmsid_core.finite import is_finite
from ..ldmsid_core.pipeline import RawBands, finish_image
from ..ldmsid_core.wavelet import SubBands
from .frame_decode import FrameDecoding
from .host_check import check_vae
from .host_memory import is_out_of_memory
from .run_text import Tell
from .taming_model import TamingModel
from .unet_binding import KEY, PART_KEY


def _check_latent(latent: dict[str, Any], bands: RawBands, split: SubBands) -> None:
    """Refuse a latent of another size or made from another file."""
    samples, file_name = latent["samples"], bands.raw.file_name
    expected = tuple(split.structure_input.shape[-2:])
    if samples.ndim != 4 or samples.shape[1] != 4 or tuple(samples.shape[-2:]) != expected:
        raise ShapeError(
            f"Expected a latent of shape (B, 4, {expected[0]}, {expected[1]}), the size of the "
            f"bands of {file_name}, found {tuple(samples.shape)}; decode the latent that was "
            "sampled with these bands, without scaling it."
        )
    if not is_finite(samples):
        raise NonFiniteError(
            f"Expected a finite latent for {file_name}, found NaN or infinity: the sampler's model "
            "overflowed; start ComfyUI with --bf16-unet or --fp32-unet, and check the weights."
        )
    made_for = latent.get(KEY)
    if made_for is not None and made_for != bands.identity:
        raise ShapeError(
            f"Expected a latent sampled from {bands.identity} (file, checksum, ratio), the file of "
            f"the bands, found one of {made_for}; wire bands and latent from the same RAW."
        )
    part = latent.get(PART_KEY)
    if part is not None and (bands.region is None or tuple(bands.region) != tuple(part)):
        left, top, width, height = part
        raise ShapeError(
            f"Expected a latent of all of {file_name}, found one of which only a part of "
            f"{width}x{height} pixels at {left},{top} on the sensor was sampled; wire Tamed decode "
            "to the same Split bands as Tamed sampler, or sample again."
        )


def decode_tamed(
    vae: Any,
    taming: TamingModel,
    bands: RawBands,
    latent: dict[str, Any],
    *,
    strength: float,
    mode: str,
    tile: int,
    tell: Tell,
) -> Tensor:
    """Decode a LATENT to a finished picture.

    Args:
        vae: Left as it is.
        taming: With a decoder half that fits the VAE.
        bands: Of the file that the latent was sampled from; their region is what comes out.
        latent: LATENT, unscaled, any batch.
        strength: 1 tames fully, 0 decodes plainly.
        mode: One of `DECODE_MODES`.
        tile: Side of the tiles of `bounded`, in pixels; 0 chooses.
        tell: Shows a sentence to the user.

    Returns:
        `(B, 3, H, W)` unit range, cropped and upright, on the CPU.

    Raises:
        ConfigError: If mode or tile are out of range.
        HostMismatchError: If VAE and taming do not fit.
        ShapeError: If latent and bands do not fit.
        LdmSidError: If memory does not suffice.
    """
    check_decode(mode, tile)
    vae.throw_exception_if_invalid()
    if strength != 0.0:
        check_vae(vae, taming)
    split = bands.for_recipe(taming.header.input_recipe)
    _check_latent(latent, bands, split)
    samples = latent["samples"]
    if taming.header.decoder_latent_scale == "scaled":
        samples = samples * taming.header.latent_scale
    decoding = FrameDecoding(
        vae, taming, bands, split, samples, strength, mode, tile, PART_KEY in latent, tell
    )
    try:
        pictures = _decode_or_explain(decoding)
    finally:
        if taming.decoder_base and strength != 0.0:
            # Takes the file's own base decoder out again: a VAE may be saved without being loaded.
            mm.load_models_gpu([vae.patcher])
    if bands.region is not None:
        split = replace(split, content_size=(bands.region.height, bands.region.width))
    return finish_image(pictures, bands.raw, split)


def _decode_or_explain(decoding: FrameDecoding) -> Tensor:
    """Decode, with lack of memory as one clear message."""
    try:
        return decoding.run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
    # Outside the except block: the exception would keep the tensors alive.
    mm.soft_empty_cache()
    height, width = (8 * side for side in decoding.samples.shape[-2:])
    smaller = "" if decoding.vae.vae_dtype != torch.float32 else "start ComfyUI with --bf16-vae, "
    raise LdmSidError(
        f"Not enough memory to decode {decoding.bands.raw.file_name} at {width}x{height}, in "
        f"smaller tiles either ({message}); close other programs, {smaller}or choose mode bounded "
        "with tile 512."
    )
