"""Decoders with random weights, the same layers under the original names, bands to steer them."""

from __future__ import annotations

import copy

import torch
from helpers.released_layout import build_weights
from torch import Tensor, nn

from ldmsid_core.decoding.decode import FrameDecoder
from ldmsid_core.decoding.modules import find_decoder
from ldmsid_core.decoding.network import TamedDecoder
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.wavelet import SubBands, split_bands

CPU = torch.device("cpu")


def build_decoder(seed: int = 0) -> tuple[nn.Module, DecoderTaming]:
    """A VAE whose width changes on the way, and its taming; norms and biases away from 1 and 0."""
    weights = build_weights(seed=seed)
    return weights.vae, weights.decoder


def frame_decoder(
    vae: nn.Module, taming: DecoderTaming | None, *, strength: float = 1.0, **how: object
) -> FrameDecoder:
    """What decodes frames on the CPU in float32."""
    network = TamedDecoder(find_decoder(vae), taming, strength)
    return FrameDecoder(network, CPU, torch.float32, **how)  # type: ignore[arg-type]


def random_frame(height: int, width: int, *, seed: int = 0) -> tuple[Tensor, SubBands]:
    """An unscaled latent and the bands of a noisy scene with a bright and a dark half."""
    generator = torch.Generator().manual_seed(100 * height + width + seed)
    planes = torch.rand(1, 4, 8 * height, 8 * width, generator=generator) * 2 - 1
    planes *= torch.linspace(0.1, 1.0, 8 * width)
    return torch.randn(1, 4, height, width, generator=generator), split_bands(planes, multiple=8)


def _tree(**parts: nn.Module) -> nn.Module:
    module = nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    return module


def _block(block: nn.Module) -> nn.Module:
    parts = {name: block.get_submodule(name) for name in ("norm1", "conv1", "norm2", "conv2")}
    skip = getattr(block, "conv_shortcut", None)
    return _tree(**parts, **({} if skip is None else {"nin_shortcut": skip}))


def _as_convolution(linear: nn.Module) -> nn.Module:
    assert isinstance(linear, nn.Linear)
    conv = nn.utils.skip_init(nn.Conv2d, linear.in_features, linear.out_features, 1)
    conv.weight.data = linear.weight.data[:, :, None, None]
    conv.bias.data = linear.bias.data  # type: ignore[union-attr]
    return conv.requires_grad_(False)


def original_tree(vae: nn.Module) -> nn.Module:
    """The layers of a diffusers VAE's decoder in the original module tree, as ComfyUI has it."""
    vae = copy.deepcopy(vae)
    decoder = vae.get_submodule("decoder")
    middle = decoder.get_submodule("mid_block")
    attention = middle.get_submodule("attentions.0")
    projections = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    parts = {
        ours: _as_convolution(attention.get_submodule(theirs))
        for ours, theirs in projections.items()
    }
    stages = []
    for block in decoder.get_submodule("up_blocks").children():
        blocks = nn.ModuleList(_block(b) for b in block.get_submodule("resnets").children())
        own = dict(block.named_modules())
        doubling = own.get("upsamplers.0.conv")
        extra = {} if doubling is None else {"upsample": _tree(conv=doubling)}
        stages.insert(0, _tree(block=blocks, attn=nn.ModuleList(), **extra))
    middles = [_block(b) for b in middle.get_submodule("resnets").children()]
    return _tree(
        post_quant_conv=vae.get_submodule("post_quant_conv"),
        decoder=_tree(
            conv_in=decoder.get_submodule("conv_in"),
            mid=_tree(
                block_1=middles[0],
                attn_1=_tree(norm=attention.get_submodule("group_norm"), **parts),
                block_2=middles[1],
            ),
            up=nn.ModuleList(stages),
            norm_out=decoder.get_submodule("conv_norm_out"),
            conv_out=decoder.get_submodule("conv_out"),
        ),
    )


def assert_near(found: Tensor, wanted: Tensor, tolerance: float, what: str = "") -> None:
    """Largest difference within `tolerance` of the largest value."""
    assert found.shape == wanted.shape, what
    error = float((found - wanted).abs().max() / wanted.abs().max())
    assert error <= tolerance, f"{what}: {error:.3g} of max, allowed {tolerance}"


def psnr(found: Tensor, wanted: Tensor) -> float:
    """Of pictures in model range, as of the same in unit range."""
    error = (found.double() - wanted.double()).square().mean() / 4.0
    return float(-10.0 * error.log10())
