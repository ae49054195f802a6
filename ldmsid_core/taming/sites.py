"""Where taming acts in a Stable Diffusion: one table for diffusers and for ComfyUI.

UNet sites are the second convolutions of all residual blocks, before the skip is added: 22 in
Stable Diffusion. Decoder sites are the inputs of the first three up stages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UNetSite:
    """One residual block of a UNet.

    Attributes:
        name: Key of the SFT layer in a taming checkpoint.
        channels: Of the block's output.
        level: Spatial level, 0 is the latent's own size; picks the structure feature.
        diffusers_path: Of the block's second convolution in `UNet2DConditionModel`.
        original_path: Of the residual block in the original layout, which ComfyUI keeps.
    """

    name: str
    channels: int
    level: int
    diffusers_path: str
    original_path: str


@dataclass(frozen=True)
class DecoderSite:
    """The input of one up stage of a VAE decoder.

    Attributes:
        level: Band level that is fused here; also the stage's number in the original layout.
        diffusers_path: Of the stage's first residual block in `AutoencoderKL`.
        original_path: The same in the original layout, which ComfyUI keeps.
    """

    level: int
    diffusers_path: str
    original_path: str


def unet_sites(widths: tuple[int, ...], blocks: int) -> tuple[UNetSite, ...]:
    """All sites of a UNet, in the order of its forward pass.

    Args:
        widths: Channels of the levels, finest first.
        blocks: Residual blocks of a down level; an up level has one more.
    """
    last = len(widths) - 1
    sites = []
    for level, channels in enumerate(widths):
        for block in range(blocks):
            sites.append(
                UNetSite(
                    f"down_{level}_{block}",
                    channels,
                    level,
                    f"down_blocks.{level}.resnets.{block}.conv2",
                    f"input_blocks.{level * (blocks + 1) + block + 1}.0",
                )
            )
    for block in range(2):
        sites.append(
            UNetSite(
                f"middle_{block}",
                widths[last],
                last,
                f"mid_block.resnets.{block}.conv2",
                f"middle_block.{2 * block}",
            )
        )
    for step, channels in enumerate(reversed(widths)):
        for block in range(blocks + 1):
            sites.append(
                UNetSite(
                    f"up_{step}_{block}",
                    channels,
                    last - step,
                    f"up_blocks.{step}.resnets.{block}.conv2",
                    f"output_blocks.{step * (blocks + 1) + block}.0",
                )
            )
    return tuple(sites)


DECODER_SITES = tuple(
    DecoderSite(level, f"decoder.up_blocks.{3 - level}.resnets.0", f"decoder.up.{level}.block.0")
    for level in (3, 2, 1)
)
