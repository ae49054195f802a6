"""A Stable Diffusion's decoder as a list of its layers, in either layout of the module tree.

Only the order of the layers is known here; every layer is the host's own, with its weights, casts
and hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from ..errors import HostMismatchError
from ..taming.sites import DECODER_SITES

_FACTOR = 8


@dataclass(frozen=True)
class Residual:
    """GroupNorm, SiLU, Conv3x3, twice, plus a 1x1 skip where the width changes."""

    norm1: nn.Module
    conv1: nn.Module
    norm2: nn.Module
    conv2: nn.Module
    skip: nn.Module | None


@dataclass(frozen=True)
class Attention:
    """Self-attention over all positions; projections are linear layers or 1x1 convolutions."""

    norm: nn.Module
    query: nn.Module
    key: nn.Module
    value: nn.Module
    out: nn.Module


@dataclass(frozen=True)
class Stage:
    """An up stage.

    Attributes:
        level: Band level that is fused into its input, 3 to 1; None at full size.
        blocks: Its residual blocks.
        upsample: The convolution after doubling the size; None in the last stage.
    """

    level: int | None
    blocks: tuple[Residual, ...]
    upsample: nn.Module | None


@dataclass(frozen=True)
class Decoder:
    """From an unscaled latent to a picture."""

    post_quant: nn.Module
    conv_in: nn.Module
    before: Residual
    attention: Attention
    after: Residual
    stages: tuple[Stage, ...]
    norm_out: nn.Module
    conv_out: nn.Module

    def residuals(self) -> Iterator[Residual]:
        """All residual blocks in order."""
        yield self.before
        yield self.after
        for stage in self.stages:
            yield from stage.blocks


def _is_plain(skip: nn.Module | None) -> bool:
    return skip is None or isinstance(skip, nn.Identity)


def residual_of(block: nn.Module) -> Residual:
    """A residual block of a host in either layout, or of a taming module."""
    for name in ("conv_shortcut", "nin_shortcut", "skip"):
        skip = getattr(block, name, None)
        if not _is_plain(skip):
            break
    else:
        skip = None
    norm1, conv1, norm2, conv2 = map(block.get_submodule, ("norm1", "conv1", "norm2", "conv2"))
    return Residual(norm1, conv1, norm2, conv2, skip)


def _level(place: int) -> int | None:
    return DECODER_SITES[place].level if place < len(DECODER_SITES) else None


def _diffusers(vae: nn.Module) -> Decoder:
    decoder = vae.get_submodule("decoder")
    middle = decoder.get_submodule("mid_block")
    attention = middle.get_submodule("attentions.0")
    parts = ("group_norm", "to_q", "to_k", "to_v", "to_out.0")
    stages = []
    for place, block in enumerate(decoder.get_submodule("up_blocks").children()):
        own = dict(block.named_modules())
        stages.append(
            Stage(
                _level(place),
                tuple(residual_of(r) for r in block.get_submodule("resnets").children()),
                own.get("upsamplers.0.conv"),
            )
        )
    return Decoder(
        vae.get_submodule("post_quant_conv"),
        decoder.get_submodule("conv_in"),
        residual_of(middle.get_submodule("resnets.0")),
        Attention(*(attention.get_submodule(part) for part in parts)),
        residual_of(middle.get_submodule("resnets.1")),
        tuple(stages),
        decoder.get_submodule("conv_norm_out"),
        decoder.get_submodule("conv_out"),
    )


def _original(vae: nn.Module) -> Decoder:
    decoder = vae.get_submodule("decoder")
    attention = decoder.get_submodule("mid.attn_1")
    parts = ("norm", "q", "k", "v", "proj_out")
    stages = []
    # The original layout counts its stages from full size.
    for place, stage in enumerate(reversed(list(decoder.get_submodule("up").children()))):
        own = dict(stage.named_modules())
        stages.append(
            Stage(
                _level(place),
                tuple(residual_of(r) for r in stage.get_submodule("block").children()),
                own.get("upsample.conv"),
            )
        )
    return Decoder(
        vae.get_submodule("post_quant_conv"),
        decoder.get_submodule("conv_in"),
        residual_of(decoder.get_submodule("mid.block_1")),
        Attention(*(attention.get_submodule(part) for part in parts)),
        residual_of(decoder.get_submodule("mid.block_2")),
        tuple(stages),
        decoder.get_submodule("norm_out"),
        decoder.get_submodule("conv_out"),
    )


def find_decoder(vae: nn.Module) -> Decoder:
    """The layers of a VAE's decoder.

    Args:
        vae: diffusers' `AutoencoderKL`, or an `AutoencoderKL` in the original layout.

    Raises:
        HostMismatchError: If it is neither.
    """
    try:
        layout = _diffusers if hasattr(vae.get_submodule("decoder"), "mid_block") else _original
        found = layout(vae)
    except AttributeError as error:
        raise HostMismatchError(
            f"Expected the decoder of a Stable Diffusion 1.x or 2.x, found another: {error}."
        ) from error
    doublings = sum(stage.upsample is not None for stage in found.stages)
    if 2**doublings != _FACTOR:
        raise HostMismatchError(
            f"Expected a decoder that enlarges {_FACTOR} times, found {2**doublings} times."
        )
    return found
