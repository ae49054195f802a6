"""Single blocks of the reference vectors: constructor texts and the modulated residual block."""

from __future__ import annotations

from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from ldmsid_core.hosts.layout import RESIDUAL_NAMES
from ldmsid_core.taming import released
from ldmsid_core.taming.sft import SftLayer

from .golden import Golden
from .released_hosts import load_renamed


def constructor_arguments(text: str) -> dict[str, int]:
    """Keyword arguments of a constructor call written out, all whole numbers."""
    inside = text[text.index("(") + 1 : text.rindex(")")]
    return {k.strip(): int(float(v)) for k, v in (part.split("=") for part in inside.split(","))}


def residual_dual(
    ctor: dict[str, int],
    case: dict[str, object],
    vectors: Golden,
    name: str,
    state: dict[str, Tensor],
) -> Tensor:
    """A modulated UNet residual block: diffusers' own block with our SFT hooked in."""
    out = ctor.get("out_channels", ctor["channels"])
    block = ResnetBlock2D(
        in_channels=ctor["channels"],
        out_channels=out,
        temb_channels=ctor["emb_channels"],
        eps=1e-5,
    )
    prefix = f"{case['module']}."
    names = {
        f"{prefix}{old}.{end}": f"{new}.{end}"
        for old, new in RESIDUAL_NAMES.items()
        for end in ("weight", "bias")
    }
    load_renamed(block, state, names)
    hidden = state[f"{prefix}sft_layer.mlp_shared.0.bias"].shape[0]
    sft = SftLayer(out, features=ctor["semb_channels"], hidden=hidden, normalise=True)
    load_renamed(sft, state, released.sft_names(f"{prefix}sft_layer."))
    cond = vectors[f"{name}.in.cond"]
    block.conv2.register_forward_hook(lambda _m, _i, h: sft(h, cond))
    return block(vectors[f"{name}.in.x"], vectors[f"{name}.in.emb"])
