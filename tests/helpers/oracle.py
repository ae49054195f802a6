"""The taming modules as plain functions, written from the method's formulas alone.

Nothing here uses the package or `torch.nn`: convolutions are unfolded matrix products, norms and
attention are spelled out, all in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

State = dict[str, Tensor]


def conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """Zero-padded convolution as a matrix product of patches."""
    size = weight.shape[-1]
    patches = torch.nn.functional.unfold(x, size, padding=size // 2, stride=stride)
    height, width = ((n - 1) // stride + 1 for n in x.shape[-2:])
    out = weight.reshape(len(weight), -1) @ patches + bias[:, None]
    return out.reshape(len(x), len(weight), height, width)


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """32 groups, population variance."""
    flat = x.reshape(len(x), 32, -1)
    centred = flat - flat.mean(dim=-1, keepdim=True)
    normed = centred / (centred.pow(2).mean(dim=-1, keepdim=True) + eps).sqrt()
    shape = (1, -1) + (1,) * (x.ndim - 2)
    return normed.reshape(x.shape) * weight.reshape(shape) + bias.reshape(shape)


def silu(x: Tensor) -> Tensor:
    """X times its logistic."""
    return x / (1 + torch.exp(-x))


def part(state: State, prefix: str) -> State:
    """The tensors below a prefix."""
    return {k[len(prefix) + 1 :]: v for k, v in state.items() if k.startswith(prefix + ".")}


def timed_residual(x: Tensor, time: Tensor, s: State) -> Tensor:
    """The structure encoder's residual block."""
    h = conv(silu(group_norm(x, s["norm1.weight"], s["norm1.bias"], 1e-5)),
             s["conv1.weight"], s["conv1.bias"])  # fmt: skip
    h = h + (silu(time) @ s["time.weight"].T + s["time.bias"])[:, :, None, None]
    h = conv(silu(group_norm(h, s["norm2.weight"], s["norm2.bias"], 1e-5)),
             s["conv2.weight"], s["conv2.bias"])  # fmt: skip
    skip = conv(x, s["skip.weight"], s["skip.bias"]) if "skip.weight" in s else x
    return skip + h


def attention(x: Tensor, s: State, heads: int) -> Tensor:
    """ADM attention: heads first, then q, k, v; q and k each scaled by d**-1/4."""
    batch, channels = x.shape[:2]
    flat = x.reshape(batch, channels, -1)
    normed = group_norm(flat, s["norm.weight"], s["norm.bias"], 1e-5)
    qkv = s["qkv.weight"] @ normed + s["qkv.bias"][:, None]
    d = channels // heads
    mixed = []
    for head in range(heads):
        q, k, v = qkv[:, head * 3 * d : (head + 1) * 3 * d].split(d, dim=1)
        weight = torch.softmax((q * d**-0.25).transpose(1, 2) @ (k * d**-0.25), dim=-1)
        mixed.append(v @ weight.transpose(1, 2))
    out = s["out.weight"] @ torch.cat(mixed, dim=1) + s["out.bias"][:, None]
    return (flat + out).reshape(x.shape)


def time_embedding(timestep: Tensor, s: State, width: int) -> Tensor:
    """Sinusoid, cosines first, then two linear layers."""
    half = width // 2
    frequency = torch.tensor([10000.0 ** (-i / half) for i in range(half)], dtype=torch.float64)
    angle = timestep.double()[:, None] * frequency
    x = torch.cat([angle.cos(), angle.sin()], dim=1)
    x = silu(x @ s["time.0.weight"].T + s["time.0.bias"])
    return x @ s["time.2.weight"].T + s["time.2.bias"]


def structure_encoder(
    ll: Tensor, timestep: Tensor, s: State, *, width: int, levels: int, blocks: int,
    attention_levels: tuple[int, ...], heads: int,
) -> list[Tensor]:  # fmt: skip
    """Features just before each downsampling and after the middle, through their own heads."""
    time = time_embedding(timestep, s, width)
    x = conv(ll, s["conv_in.weight"], s["conv_in.bias"])
    tapped = []
    for level in range(levels):
        for block in range(blocks):
            x = timed_residual(x, time, part(s, f"levels.{level}.blocks.{block}"))
            if level in attention_levels:
                x = attention(x, part(s, f"levels.{level}.attentions.{block}"), heads)
        if level < levels - 1:
            tapped.append(x)
            down = part(s, f"levels.{level}.down")
            x = conv(x, down["weight"], down["bias"], stride=2)
    x = timed_residual(x, time, part(s, "middle_in"))
    x = attention(x, part(s, "middle_attention"), heads)
    tapped.append(timed_residual(x, time, part(s, "middle_out")))
    return [timed_residual(f, time, part(s, f"feature_heads.{i}")) for i, f in enumerate(tapped)]


def sft(h: Tensor, structure: Tensor, s: State) -> Tensor:
    """`GroupNorm(h) * (1 + gamma) + beta`; without a norm where the state has none."""
    shared = conv(structure, s["shared.weight"], s["shared.bias"]).clamp(min=0)
    gamma = conv(shared, s["gamma.weight"], s["gamma.bias"])
    beta = conv(shared, s["beta.weight"], s["beta.bias"])
    if "norm.weight" in s:
        h = group_norm(h, s["norm.weight"], s["norm.bias"], 1e-5)
    return h * (1 + gamma) + beta


def residual(x: Tensor, s: State) -> Tensor:
    """The fusion's residual block, with norms where the state has them."""
    h = x
    for index in (1, 2):
        if f"norm{index}.weight" in s:
            h = group_norm(h, s[f"norm{index}.weight"], s[f"norm{index}.bias"], 1e-6)
        h = conv(silu(h), s[f"conv{index}.weight"], s[f"conv{index}.bias"])
    return conv(x, s["skip.weight"], s["skip.bias"]) + h


def fusion(h: Tensor, ll: Tensor, detail: Tensor, s: State) -> Tensor:
    """Scale from the low band, shift from the high ones."""

    def affine(x: Tensor, t: State) -> Tensor:
        x = conv(x, t["0.weight"], t["0.bias"])
        x = torch.where(x > 0, x, 0.1 * x)
        return conv(x, t["2.weight"], t["2.bias"])

    low = residual(torch.cat([residual(ll, part(s, "ll_in")), h], 1), part(s, "ll_joint"))
    joined = torch.cat([residual(detail, part(s, "detail_in")), h], 1)
    high = residual(joined, part(s, "detail_joint"))
    return h * (1 + affine(low, part(s, "scale"))) + affine(high, part(s, "shift"))


def haar_loop(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ll, hl, lh, hh of one plane by a plain loop over 2x2 blocks."""
    height, width = x.shape
    bands = [torch.zeros(height // 2, width // 2, dtype=x.dtype) for _ in range(4)]
    for y in range(height // 2):
        for z in range(width // 2):
            a, c = x[2 * y, 2 * z], x[2 * y, 2 * z + 1]
            b, d = x[2 * y + 1, 2 * z], x[2 * y + 1, 2 * z + 1]
            values = (a + b + c + d, -a - b + c + d, -a + b - c + d, a - b - c + d)
            for band, value in zip(bands, values, strict=True):
                band[y, z] = value / 2
    first, second, third, fourth = bands
    return first, second, third, fourth
