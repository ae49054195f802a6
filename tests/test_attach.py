"""Attaching taming to real diffusers classes and taking it off again."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_model import build_modules

from ldmsid_core.errors import HostMismatchError, ShapeError
from ldmsid_core.taming.attach import attach_decoder_taming, attach_unet_taming
from ldmsid_core.taming.configs import DecoderTamingConfig
from ldmsid_core.taming.fusion import DecoderTaming
from ldmsid_core.wavelet import split_bands


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


LATENT, CONTEXT, LL = draw(2, 4, 16, 8), draw(2, 77, 16), draw(2, 4, 16, 8, seed=1)
STEPS = torch.tensor([10, 900])


def _hooks(module: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@torch.no_grad()
def test_detached_unet_is_bit_identical() -> None:
    unet, _, taming, _ = build_modules()
    keys = list(unet.state_dict())
    before = unet(LATENT, STEPS, CONTEXT).sample
    with attach_unet_taming(unet, taming) as predict:
        tamed = predict(LATENT, STEPS, CONTEXT, LL)
        assert list(unet.state_dict()) == keys
    assert not torch.allclose(tamed, before)
    assert torch.equal(unet(LATENT, STEPS, CONTEXT).sample, before)
    assert _hooks(unet) == 0


@torch.no_grad()
def test_detached_decoder_is_bit_identical() -> None:
    _, vae, _, taming = build_modules()
    z, bands = draw(1, 4, 8, 8), split_bands(draw(1, 4, 64, 64).tanh())
    before = vae.decode(z).sample
    with attach_decoder_taming(vae, taming) as decode:
        tamed = decode(z, bands)
    assert tamed.shape == (1, 3, 64, 64)
    assert not torch.allclose(tamed, before)
    assert torch.equal(vae.decode(z).sample, before)
    assert _hooks(vae) == 0


@torch.no_grad()
def test_hooks_go_also_after_an_error() -> None:
    unet, vae, taming, decoder = build_modules()
    with (
        pytest.raises(ShapeError, match="different files or sizes"),
        attach_unet_taming(unet, taming) as predict,
    ):
        predict(LATENT, STEPS, CONTEXT, LL[:, :, :8])
    bands = split_bands(draw(1, 4, 128, 64).tanh())
    with (
        pytest.raises(ShapeError, match="different files or sizes"),
        attach_decoder_taming(vae, decoder) as decode,
    ):
        decode(draw(1, 4, 8, 8), bands)
    assert _hooks(unet) == _hooks(vae) == 0


@torch.no_grad()
def test_batched_equals_single() -> None:
    unet, _, taming, _ = build_modules()
    with attach_unet_taming(unet, taming) as predict:
        both = predict(LATENT, STEPS, CONTEXT, LL)
        for row in range(2):
            part = slice(row, row + 1)
            one = predict(LATENT[part], STEPS[part], CONTEXT[part], LL[part])
            # Batched convolutions sum in another order.
            assert torch.allclose(one, both[part], atol=1e-4)


def test_gradients_reach_every_taming_parameter_and_no_host_parameter() -> None:
    unet, vae, taming, decoder = build_modules()
    taming.requires_grad_(True)
    decoder.requires_grad_(True)
    bands = split_bands(draw(2, 4, 128, 64).tanh())
    with attach_unet_taming(unet, taming) as predict, attach_decoder_taming(vae, decoder) as decode:
        loss = predict(LATENT, STEPS, CONTEXT, LL).pow(2).mean()
        (loss + decode(LATENT, bands).pow(2).mean()).backward()
    for module in (taming, decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(p.grad is None for host in (unet, vae) for p in host.parameters())


def test_a_host_of_another_shape_is_refused_before_hooks_are_set() -> None:
    unet, vae, taming, _ = build_modules()
    with (
        pytest.raises(HostMismatchError, match=r"down_blocks\.0\.resnets\.0\.conv2"),
        attach_unet_taming(vae, taming),
    ):
        pass
    with torch.random.fork_rng(devices=[]):
        other = DecoderTaming(DecoderTamingConfig(widths=(64, 64, 64)))
    with (
        pytest.raises(HostMismatchError, match="Expected 64 channels"),
        attach_decoder_taming(vae, other),
    ):
        pass
    assert _hooks(unet) == _hooks(vae) == 0
