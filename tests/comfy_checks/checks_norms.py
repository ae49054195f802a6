"""Tiles that are normalised by a frame's statistics, whatever the host does to the weights."""

from __future__ import annotations

from typing import Any

import torch
from runner import Pack
from scene import hook_count, in_dtype, little_loaded, sample, scene, wide_scene

TILES = {"tile": 256, "overlap": 64, "steps": 3}
NORM = "diffusion_model.input_blocks.1.0.in_layers.0."


def with_patched_norm(model: Any) -> Any:
    """A clone with a patch on the weight and bias of a norm."""
    patched, state = model.clone(), model.model.state_dict()
    values = {NORM + name: (0.3 * state[NORM + name].abs() + 0.3,) for name in ("weight", "bias")}
    assert len(patched.add_patches(values, 1.0)) == 2
    return patched


def error(found: torch.Tensor, right: torch.Tensor) -> float:
    return float((found - right).pow(2).mean().sqrt() / right.std())


def check_patched_norms_on_and_off_the_device(pack: Pack) -> None:
    s = wide_scene(pack)
    plain = sample(pack, s, **TILES)["samples"]
    patched = s._replace(model=with_patched_norm(s.model))
    right = sample(pack, patched, **TILES)["samples"]
    with little_loaded() as low:
        found = sample(pack, patched, **TILES)["samples"]
    assert ("UNetTaming", True) in low and ("BaseModel", True) in low, low
    assert error(found, right) < 1e-3 < 20 * 1e-3 < error(plain, right)
    assert hook_count(s.model.model.diffusion_model) == 0
    assert torch.equal(sample(pack, s, **TILES)["samples"], plain)


def check_norms_in_half_precision(pack: Pack) -> None:
    s = wide_scene(pack)
    right = sample(pack, s, **TILES)["samples"]
    for dtype, cast, limit in (
        (torch.float16, torch.float32, 0.03),
        (torch.float16, None, 0.03),
        (torch.bfloat16, None, 0.2),
    ):
        other = s._replace(model=in_dtype(pack, s, dtype, cast))
        found = sample(pack, other, **TILES)["samples"]
        assert found.isfinite().all() and error(found, right) < limit, (dtype, cast)


def check_weights_of_norms_are_what_the_layers_apply(pack: Pack) -> None:
    weights_of_norm = pack.part("nodes.normed_calls").weights_of_norm
    s = scene(pack)
    sample(pack, s, steps=1)
    networks = (
        s.model.model.diffusion_model, s.taming.unet.model,
        in_dtype(pack, s, torch.bfloat16, None).model.diffusion_model,
    )  # fmt: skip
    for network in networks:
        norms = [m for m in network.modules() if isinstance(m, torch.nn.GroupNorm)]
        assert len(norms) > 20
        for norm in norms:
            weight, bias = weights_of_norm(norm, torch.device("cpu"))
            assert torch.allclose(weight.float(), norm.weight.float(), atol=1e-5, rtol=1e-5)
            assert torch.allclose(bias.float(), norm.bias.float(), atol=1e-5, rtol=1e-5)


def check_samplers_that_choose_their_own_steps(pack: Pack) -> None:
    """Adaptive ones look at other noise levels in the frame than in its stand-in."""
    s = wide_scene(pack)
    measured, applied = [], []
    norms = pack.part("ldmsid_core.shared_norms").SharedNorms
    kept = norms.measured, norms.applied

    def measure(self: Any, timestep: float) -> Any:
        measured.append(timestep)
        return kept[0](self, timestep)

    def apply(self: Any, timestep: float) -> Any:
        applied.append(timestep)
        return kept[1](self, timestep)

    norms.measured, norms.applied = measure, apply
    try:
        found = sample(pack, s, **TILES, sampler_name="dpm_adaptive", scheduler="karras")
    finally:
        norms.measured, norms.applied = kept
    assert found["samples"].isfinite().all() and min(len(measured), len(applied)) > 3
    assert hook_count(s.model.model.diffusion_model) == 0
