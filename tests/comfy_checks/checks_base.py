"""A taming file's own base decoder in a VAE that is not the one it was converted against."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from runner import Pack
from scene import Scene, decode, raises, sample, scene, weights_checksum

LAST = "decoder.conv_out.weight"


def carrying(s: Scene, base: dict[str, torch.Tensor], sampled: dict[str, list[float]]) -> Scene:
    """The scene with a taming file that carries these tensors and knows these of the host."""
    header = replace(s.taming.header, decoder_base=tuple(sorted(base)), decoder_base_sample=sampled)
    return s._replace(taming=replace(s.taming, header=header, decoder_base=base))


def first_numbers(s: Scene, name: str, change: float = 0.0) -> dict[str, list[float]]:
    """What a header keeps of one of the VAE's tensors."""
    weight = s.vae.first_stage_model.state_dict()[name]
    return {name: [float(v) + change for v in weight.reshape(-1)[:8]]}


def check_base_of_another_vae_is_refused(pack: Pack) -> None:
    s = scene(pack)
    latent = sample(pack, s)
    right = decode(pack, s, latent)
    fitting = carrying(s, {}, first_numbers(s, "decoder.conv_in.weight"))
    assert torch.equal(decode(pack, fitting, latent), right)
    other = carrying(s, {}, first_numbers(s, "decoder.conv_in.weight", 0.5))
    raises(
        "HostMismatchError", lambda: decode(pack, other, latent),
        "decoder.conv_in.weight", "converted against",
    )  # fmt: skip
    assert torch.equal(decode(pack, other, latent, strength=0.0),
                       decode(pack, s, latent, strength=0.0))  # fmt: skip
    odd = carrying(s, {LAST: torch.ones(1)}, {})
    raises("HostMismatchError", lambda: decode(pack, odd, latent), LAST, "(1,)")


def check_base_reaches_the_precise_last_convolution(pack: Pack) -> None:
    s = scene(pack)
    latent, before = sample(pack, s), s.vae.vae_dtype
    model: Any = s.vae.first_stage_model
    darker = carrying(s, {LAST: 0.5 * model.state_dict()[LAST].clone()}, {})
    exact = decode(pack, darker, latent)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checksum = weights_checksum(model)
    model.to(torch.bfloat16)
    s.vae.vae_dtype = torch.bfloat16
    try:
        coarse, plain = decode(pack, darker, latent), decode(pack, s, latent)
    finally:
        model.to(before)
        model.load_state_dict(kept)
        s.vae.vae_dtype = before
    assert (exact - coarse).abs().mean() < 0.02 < (exact - plain).abs().mean()
    assert len(coarse[coarse > 0.25].unique()) > 1000, "the picture has the levels of bfloat16"
    assert weights_checksum(model) == checksum
