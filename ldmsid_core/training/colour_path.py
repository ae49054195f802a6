"""A first guess for a small VAE: the latent is the 8x8 mean of R, G and B, decoded smoothly.

GroupNorm takes the mean and the amplitude of a group of channels away just before the last
convolution. In a wide network some channels learn to be constant references, against which the
others keep brightness and colour; a narrow one learns grey pictures instead. Here the references
are put in: three groups of the trunk hold one colour each beside a constant +A and -A, and pass
through every residual block unchanged. Training refines everything from there.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from ..errors import ConfigError

_GROUPS = 32
_COLOURS = 3
_REFERENCE = 1.2
_SHIFT = 1.5
_LOG_VARIANCE = -6.0


def _pass_through(convolution: nn.Conv2d, kernel: Tensor, channels: int) -> None:
    """The first channels are filtered by a kernel, each by itself, and get nothing else."""
    with torch.no_grad():
        convolution.weight[:channels] = 0.0
        for channel in range(channels):
            convolution.weight[channel, channel] = kernel
        if convolution.bias is not None:
            convolution.bias[:channels] = 0.0


def _colour_in(convolution: nn.Conv2d, per_group: int) -> None:
    """Input k -> the first channel of group k, unfiltered."""
    with torch.no_grad():
        convolution.weight[: _COLOURS * per_group] = 0.0
        assert convolution.bias is not None
        convolution.bias[: _COLOURS * per_group] = 0.0
        for colour in range(_COLOURS):
            convolution.weight[colour * per_group, colour, 1, 1] = 1.0


def _norm_slope() -> tuple[float, float]:
    """Value and slope, at a colour of 0, of SiLU(norm(colour, A, -A) + shift).

    The norm takes a third of an image's mean colour away and none of its variation; the slope
    returned lies between the two.
    """
    colour = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([_REFERENCE, -_REFERENCE], dtype=torch.float64)
    group = torch.cat([colour, reference])
    normed = (group - group.mean()) / (group.var(unbiased=False) + 1e-6).sqrt()
    value = functional.silu(normed[0] + _SHIFT)
    value.backward()  # type: ignore[no-untyped-call]
    assert colour.grad is not None
    return float(value.detach()), float(colour.grad) * 1.5**0.5


def _colour_out(norm: nn.GroupNorm, convolution: nn.Conv2d, per_group: int) -> None:
    """The first channel of group k -> output k, the norm's effect undone."""
    value, slope = _norm_slope()
    with torch.no_grad():
        assert norm.bias is not None and convolution.bias is not None
        for colour in range(_COLOURS):
            norm.bias[colour * per_group] = _SHIFT
            convolution.weight[colour] = 0.0
            convolution.weight[colour, colour * per_group, 1, 1] = 1.0 / slope
            convolution.bias[colour] = -value / slope


def _keep_trunk(module: nn.Module, channels: int) -> None:
    """No residual branch adds to the first channels."""
    with torch.no_grad():
        for name, part in module.named_modules():
            if name.endswith(("conv2", "to_out.0")):
                part.weight[:channels] = 0.0
                part.bias[:channels] = 0.0


def _put_references(block: nn.Module, per_group: int) -> None:
    with torch.no_grad():
        for colour in range(_COLOURS):
            first = colour * per_group
            block.conv2.bias[first + 1] = _REFERENCE  # type: ignore[union-attr,operator]
            block.conv2.bias[first + 2] = -_REFERENCE  # type: ignore[union-attr,operator]


def start_as_colour_average(vae: AutoencoderKL) -> None:
    """Set a freshly built VAE so that it averages and interpolates colour.

    Args:
        vae: Of one width at all levels, at least three channels a norm group; changed in place.

    Raises:
        ConfigError: If its widths differ or are below 96.
    """
    widths = set(vae.config["block_out_channels"])
    per_group = min(widths) // _GROUPS
    if len(widths) != 1 or per_group < 3:
        raise ConfigError(
            f"Expected one VAE width of at least {3 * _GROUPS} at all levels, found {widths}."
        )
    kept = _COLOURS * per_group
    average = torch.zeros(3, 3)
    average[:2, :2] = 0.25  # diffusers pads right and bottom, so taps 0 and 1 are the cell
    smooth = torch.tensor([0.25, 0.5, 0.25])
    encoder, decoder = vae.encoder, vae.decoder
    for half, colour_in in ((encoder, encoder.conv_in), (decoder, decoder.conv_in)):
        _keep_trunk(half, kept)
        _colour_in(colour_in, per_group)
    for block in encoder.down_blocks[:-1]:
        _pass_through(block.downsamplers[0].conv, average, kept)
    for block in decoder.up_blocks[:-1]:
        _pass_through(block.upsamplers[0].conv, smooth[:, None] * smooth[None], kept)
    _put_references(encoder.mid_block.resnets[-1], per_group)
    _put_references(decoder.up_blocks[-1].resnets[-1], per_group)
    _colour_out(encoder.conv_norm_out, encoder.conv_out, per_group)
    _colour_out(decoder.conv_norm_out, decoder.conv_out, per_group)
    latent = vae.config["latent_channels"]
    with torch.no_grad():
        vae.quant_conv.weight[:] = torch.eye(2 * latent)[:, :, None, None]
        vae.quant_conv.bias[:] = 0.0
        encoder.conv_out.weight[latent:] = 0.0
        encoder.conv_out.bias[latent:] = _LOG_VARIANCE
        vae.post_quant_conv.weight[:] = torch.eye(latent)[:, :, None, None]
        vae.post_quant_conv.bias[:] = 0.0
