"""Taming beside what else there is: every sampler, ControlNet, Deep Shrink, TiledDiffusion."""

from __future__ import annotations

from typing import Any

import torch
from runner import Pack
from scene import (
    apply,
    cut,
    decode,
    hook_count,
    ksample,
    memory_asked,
    raises,
    sample,
    scene,
    seen_by_encoder,
)


def check_every_sampler_of_the_host_runs(pack: Pack) -> None:
    import comfy.samplers

    s = scene(pack)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=cut(s.raw, 64, 64))
    small = s._replace(bands=bands)
    for name in comfy.samplers.KSampler.SAMPLERS:
        found = sample(pack, small, sampler_name=name, steps=3, bands=bands)["samples"]
        assert found.isfinite().all() and found.shape == (1, 4, 8, 8), name


def run_node(kind: Any, function: str, *inputs: Any) -> tuple[Any, ...]:
    """Outputs of one of the host's own nodes, of the old kind or the new."""
    if hasattr(kind, "define_schema"):
        return tuple(kind.execute(*inputs).result)
    return tuple(getattr(kind(), function)(*inputs))


def check_the_other_sampler_nodes_work_unchanged(pack: Pack) -> None:
    from comfy_extras import nodes_custom_sampler as custom

    import nodes

    s = scene(pack)
    bound, latent = apply(pack, s)
    expected = ksample(bound, latent, s.conditioning)
    (advanced,) = nodes.KSamplerAdvanced().sample(
        bound, "enable", 3, 3, 1.0, "dpmpp_2m", "sgm_uniform", s.conditioning, s.conditioning,
        latent, 0, 3, "disable",
    )  # fmt: skip
    assert torch.equal(advanced["samples"], expected)
    (noise,) = run_node(custom.RandomNoise, "get_noise", 3)
    (guider,) = run_node(custom.BasicGuider, "get_guider", bound, s.conditioning)
    (sampler,) = run_node(custom.KSamplerSelect, "get_sampler", "dpmpp_2m")
    (sigmas,) = run_node(custom.BasicScheduler, "get_sigmas", bound, "sgm_uniform", 3, 1.0)
    found = run_node(
        custom.SamplerCustomAdvanced, "sample", noise, guider, sampler, sigmas, latent
    )[0]
    assert torch.equal(found["samples"], expected)


def check_decoding_asks_for_the_fusions_memory(pack: Pack) -> None:
    s = scene(pack)
    latent = sample(pack, s)
    with memory_asked() as asked:
        for strength in (0.0, 1.0):
            decode(pack, s, latent, strength=strength)
    own = s.vae.memory_used_decode(latent["samples"].shape, s.vae.vae_dtype)
    # Eight tensors of 96 channels at half the picture's size, four bytes each.
    assert asked == [own, own + 8 * 96 * 64 * 96 * 4]


def small_controlnet(model: Any) -> Any:
    """A ControlNet for the embedded model, from the host's own classes, with random weights."""
    import comfy.controlnet
    import comfy.model_management as mm
    from comfy.cldm.cldm import ControlNet

    config = dict(model.model.model_config.unet_config)
    unwanted = ("out_channels", "transformer_depth_output", "use_temporal_attention", "dtype")
    for name in unwanted:
        config.pop(name, None)
    network = ControlNet(**config, hint_channels=3)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        fresh = torch.zeros_like(parameter) if name.endswith("bias") else (
            torch.ones_like(parameter) if parameter.ndim == 1
            else 0.05 * torch.randn(parameter.shape, generator=generator)
        )  # fmt: skip
        parameter.data = fresh
    device = mm.get_torch_device()
    return comfy.controlnet.ControlNet(network, load_device=device, manual_cast_dtype=None)


def check_controlnet(pack: Pack) -> None:
    import nodes

    s = scene(pack)
    bound, latent = apply(pack, s)
    plain = ksample(bound, latent, s.conditioning)
    hint = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(1))
    (positive,) = nodes.ControlNetApply().apply_controlnet(
        s.conditioning, small_controlnet(s.model), hint, 1.0
    )
    with seen_by_encoder(s) as seen:
        both = ksample(bound, latent, positive, negative=s.conditioning)
    assert len(seen) == 3 and both.isfinite().all()
    untamed = ksample(s.model, latent, positive, negative=s.conditioning)
    assert (both - plain).abs().max() > 1e-3, "the ControlNet did nothing"
    assert (both - untamed).abs().max() > 1e-3, "taming did nothing"
    assert torch.equal(ksample(bound, latent, s.conditioning), plain)


def check_deep_shrink_is_refused_by_name(pack: Pack) -> None:
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    s = scene(pack)
    bound, latent = apply(pack, s)
    inputs = (bound, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")
    (shrunk,) = run_node(PatchModelAddDownscale, "patch", *inputs)
    raises("ShapeError", lambda: ksample(shrunk, latent, s.conditioning), "Deep Shrink")
    assert hook_count(s.model.model) == 0


def check_tiled_diffusion_in_both_orders(pack: Pack) -> None:
    from dataclasses import replace

    from runner import CheckSkippedError, load_pack

    folder = pack.settings.get("tiled_diffusion")
    if not folder:
        raise CheckSkippedError("no checkout of TiledDiffusion found (set TILED_DIFFUSION_PATH)")
    tiler = load_pack(folder).NODE_CLASS_MAPPINGS["TiledDiffusion"]()
    s = scene(pack)
    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file="[sample] dark")
    raw, _, _ = pack.run("LDMSID_ExposeRaw", raw=cut(raw, 256, 320), mode="by hand", ratio=250.0)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=raw)
    moved = replace(raw, planes=raw.planes.roll((128, 160), dims=(2, 3)))
    shifted, _, _ = pack.run("LDMSID_SplitBands", raw=moved)
    structure = bands.for_recipe(s.taming.header.input_recipe).structure_input[0]
    for method in ("MultiDiffusion", "Mixture of Diffusers"):
        tile = {"method": method, "tile_width": 160, "tile_height": 160, "tile_overlap": 64,
                "tile_batch_size": 2}  # fmt: skip
        bound, latent = apply(pack, s, bands=bands)
        whole = ksample(bound, latent, s.conditioning)
        (tiled_after,) = tiler.apply(bound, **tile)
        (tiled_before,) = tiler.apply(s.model, **tile)
        before, _ = apply(pack, s, tiled_before, bands=bands)
        with seen_by_encoder(s) as seen:
            one = ksample(tiled_after, latent, s.conditioning)
        for ll, _ in seen:
            assert all(is_part_of(row, structure) for row in ll), "a tile saw another place's bands"
        other = ksample(before, latent, s.conditioning)
        assert torch.allclose(one, other, atol=1e-5)
        wrong = ksample(apply(pack, s, bands=shifted)[0], latent, s.conditioning)
        # Tiles see less of the picture; bands from the wrong place would change far more.
        assert (one - whole).abs().mean() < 0.7 * (wrong - whole).abs().mean(), method


def is_part_of(part: torch.Tensor, whole: torch.Tensor) -> bool:
    """Whether a tile is cut from the whole, at any place."""
    _, height, width = part.shape
    windows = whole.unfold(1, height, 1).unfold(2, width, 1)
    equal = (windows == part[:, None, None]).flatten(3).all(dim=3).all(dim=0)
    return height < whole.shape[1] and bool(equal.any())
