"""Released-layout checkpoints, small: converted and run in the host's own classes.

What comes out must be what the released implementation computes with the same weights.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.samplers
import folder_paths
import released_scene as r
import torch
from runner import Pack
from scene import hook_count, raises, weights_checksum


@lru_cache(maxsize=8)
def tamed_unet(pack: Pack, config: str, variant: str) -> tuple[Any, Any]:
    """MODEL and TAMING of one released UNet file."""
    described = r.vectors(pack, "unet")
    unet_config = described.metadata["unet_config"][config]
    heads = r.encoder_heads(described.metadata["encoder_config"][config])
    state = r.unet_weights(pack, described.tag, config, variant)
    name = f"unet-{config}-{variant}"
    path = r.convert(pack, name, heads=heads, unet=r.save_checkpoint(name, state))
    return r.host_model(pack, state, unet_config), r.load(pack, path)


@lru_cache(maxsize=8)
def tamed_vae(pack: Pack, config: str, variant: str, own: bool) -> tuple[Any, Any]:
    """VAE and TAMING of one released decoder file; without `own` the VAE has other weights."""
    described = r.vectors(pack, "decoder_small")
    state = r.weights(pack, described.tag, r.manifest(pack, f"ckpt_vae_{config}"), variant)
    name = f"decoder-{config}-{variant}"
    path = r.convert(pack, name, decoder=r.save_checkpoint(name, state))
    ddconfig, embed_dim = described.metadata["ddconfig"][config], described.metadata["embed_dim"]
    vae = r.host_vae(pack, state if own else {}, ddconfig, int(embed_dim))
    return vae, r.load(pack, path)


def apply(pack: Pack, model: Any, taming: Any, bands: Any) -> Any:
    """A tamed MODEL."""
    return pack.run(
        "LDMSID_ApplyTaming", model=model, taming=taming, bands=bands,
        strength=1.0, start_percent=0.0, end_percent=1.0,
    )[0]  # fmt: skip


@r.one_thread()
def check_released_schedule_is_the_host_s(pack: Pack) -> None:
    alphas = r.vectors(pack, "schedule").tensors["alphas_cumprod"]
    model, _ = tamed_unet(pack, "small", "unit")
    sigmas = model.get_model_object("model_sampling").sigmas
    r.close(sigmas, ((1.0 - alphas.double()) / alphas.double()).sqrt(), "sigmas", 1e-5)


@r.one_thread()
def check_released_unet(pack: Pack) -> None:
    vectors = r.vectors(pack, "unet")
    alphas = r.vectors(pack, "schedule").tensors["alphas_cumprod"]
    for name, case in vectors.cases.items():
        part = vectors.part(name)
        model, taming = tamed_unet(pack, case["config"], case["variant"])
        bound = apply(pack, model, taming, r.coarse_bands(pack, part["in.struct_x"]))
        sampler = r.Ddim(part["in.t"][None], alphas)
        before = weights_checksum(model.model)
        r.guided(bound, part["in.context"], part["in.x"], sampler, torch.tensor([1.0, 0.0]))
        (eps,) = sampler.eps
        r.close(eps, part["out.eps"], f"unet {name}")
        assert hook_count(model.model) == 0 and weights_checksum(model.model) == before
        untamed = r.Ddim(part["in.t"][None], alphas)
        r.guided(model, part["in.context"], part["in.x"], untamed, torch.tensor([1.0, 0.0]))
        assert (untamed.eps[0] - eps).abs().max() > 0.1 * eps.abs().max(), "nothing was tamed"


@r.one_thread()
def check_released_decoder(pack: Pack) -> None:
    _decoder_cases(pack, own=True)


@r.one_thread()
def check_released_decoder_in_another_vae(pack: Pack) -> None:
    _decoder_cases(pack, own=False)


def _decoder_cases(pack: Pack, *, own: bool) -> None:
    vectors = r.vectors(pack, "decoder_small")
    for name, case in vectors.cases.items():
        part = vectors.part(name)
        vae, taming = tamed_vae(pack, case["config"], case["variant"], own)
        bands = r.bands_of(pack, part["in.raw"])
        found, image = r.decode(pack, vae, taming, bands, part["in.z"])
        wanted = part["out.image"]
        r.close(found, wanted, f"decoder {name}, {'its own' if own else 'another'} VAE")
        clipped = (wanted * 0.5 + 0.5).clamp(0.0, 1.0)
        # The same error, in units of the picture.
        limit = r.STRICT * 0.5 * float(wanted.abs().max())
        assert (image - clipped).abs().max() <= limit


def _pipeline(pack: Pack, *, own: bool) -> None:
    vectors = r.vectors(pack, "pipeline")
    alphas = r.vectors(pack, "schedule").tensors["alphas_cumprod"]
    for name, case in vectors.cases.items():
        part, variant = vectors.part(name), case.get("variant", "unit")
        model, taming = tamed_unet(pack, case["config"], variant)
        vae, decoder = tamed_vae(pack, case["config"], variant, own)
        bands = r.bands_of(pack, part["in.raw"])
        bound = apply(pack, model, taming, bands)
        timesteps = part["out.timesteps"]
        sampler = r.Ddim(timesteps[:, None].expand(-1, len(part["in.x_T"])), alphas)
        latent = r.guided(
            bound, part["in.context"], part["in.x_T"], sampler, torch.tensor([1.0, 0.0])
        )
        for index in range(len(timesteps)):
            r.close(sampler.eps[index], part["out.eps"][index], f"{name} eps {index}")
            r.close(sampler.latents[index], part["out.latents"][index], f"{name} latent {index}")
        r.close(latent * case["scale_factor"], part["out.latents"][-1], f"{name} unscaled")
        found, image = r.decode(pack, vae, decoder, bands, latent)
        r.close(found, part["out.image"], f"{name} image, {'its own' if own else 'another'} VAE")
        _check_bytes(image, part["out.rgb_u8"])


def _check_bytes(image: torch.Tensor, wanted: torch.Tensor) -> None:
    """The released 8-bit picture, which is cut and not rounded."""
    found = (image * 255.0).to(torch.uint8).movedim(1, -1).int()
    difference = (found - wanted.int()).abs()
    assert difference.max() <= 1 and (difference > 0).float().mean() <= 1e-3


@r.one_thread()
def check_released_pipeline(pack: Pack) -> None:
    _pipeline(pack, own=True)


@r.one_thread()
def check_released_pipeline_in_another_vae(pack: Pack) -> None:
    _pipeline(pack, own=False)


@r.one_thread()
def check_released_pipeline_by_nodes_and_native_ddim(pack: Pack) -> None:
    """One converted file with both halves, chosen by name; the host's own sampler and bands."""
    vectors, described = r.vectors(pack, "pipeline"), r.vectors(pack, "unet")
    alphas = r.vectors(pack, "schedule").tensors["alphas_cumprod"]
    for name, case in vectors.cases.items():
        part, variant, config = vectors.part(name), case.get("variant", "unit"), case["config"]
        model, _ = tamed_unet(pack, config, variant)
        vae, _ = tamed_vae(pack, config, variant, False)
        temp = Path(folder_paths.get_temp_directory())
        made = r.convert(
            pack, "both", heads=r.encoder_heads(described.metadata["encoder_config"][config]),
            unet=temp / f"unet-{config}-{variant}.ckpt",
            decoder=temp / f"decoder-{config}-{variant}.ckpt",
        )  # fmt: skip
        taming = _chosen_by_name(pack, made)
        raw = r.bands_of(pack, part["in.raw"]).raw
        bands = pack.run("LDMSID_SplitBands", raw=raw)[0]
        bound = apply(pack, model, taming, bands)
        levels = model.get_model_object("model_sampling").sigmas[part["out.timesteps"]]
        # The last step goes from timestep 0 to itself, and latents are scaled by their own level.
        sigmas = torch.cat([levels, levels[-1:]])
        noise = part["in.x_T"] * (1.0 + sigmas[0] ** 2).sqrt() / sigmas[0]
        sampler = comfy.samplers.sampler_object("ddim")
        latent = r.guided(bound, part["in.context"], noise, sampler, sigmas) * alphas[0].sqrt()
        wanted = part["out.latents"][-1] / case["scale_factor"]
        r.close(latent, wanted, f"{name} native ddim")
        found, image = r.decode(pack, vae, taming, bands, latent)
        r.close(found, part["out.image"], f"{name} native image")
        _check_bytes(image, part["out.rgb_u8"])


def _chosen_by_name(pack: Pack, path: Path) -> Any:
    """TAMING by the node, from the folder where users put such files."""
    place = Path(folder_paths.get_folder_paths("ldmsid")[0]) / "released both.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    path.replace(place)
    try:
        assert place.name in pack.part("nodes.files").taming_choices()
        (taming,) = pack.run("LDMSID_LoadTaming", taming_file=place.name)
    finally:
        place.unlink()
    return taming


@r.one_thread()
def check_released_base_decoder_leaves_the_vae_alone(pack: Pack) -> None:
    part = r.vectors(pack, "decoder_small").part("main")
    vae, taming = tamed_vae(pack, "small", "unit", False)
    bands, z = r.bands_of(pack, part["in.raw"]), part["in.z"]
    plain = vae.decode(z)
    before = weights_checksum(vae.first_stage_model)
    first, _ = r.decode(pack, vae, taming, bands, z)
    for _ in range(2):
        assert torch.equal(vae.decode(z), plain), "the plain decode has changed"
        assert weights_checksum(vae.first_stage_model) == before
        assert torch.equal(r.decode(pack, vae, taming, bands, z)[0], first)
    assert torch.equal(vae.decode(z), plain)
    assert hook_count(vae.first_stage_model) == 0


@r.one_thread()
def check_released_base_decoder_is_not_saved_with_the_vae(pack: Pack) -> None:
    """`Save VAE` reads the weights as they lie there, without loading the VAE first."""
    part = r.vectors(pack, "decoder_small").part("main")
    vae, taming = tamed_vae(pack, "small", "unit", False)
    bands, z = r.bands_of(pack, part["in.raw"]), part["in.z"]
    vae.decode(z)
    before = {name: tensor.clone() for name, tensor in vae.get_sd().items()}
    r.decode(pack, vae, taming, bands, z)
    after = vae.get_sd()
    changed = [name for name, tensor in before.items() if not torch.equal(after[name], tensor)]
    assert not changed, f"{len(changed)} of {len(before)} are the taming file's: {changed[:3]}"


@r.one_thread()
def check_released_base_decoder_goes_when_decoding_fails(pack: Pack) -> None:
    part = r.vectors(pack, "decoder_small").part("main")
    vae, taming = tamed_vae(pack, "small", "unit", False)
    bands, z = r.bands_of(pack, part["in.raw"]), part["in.z"]
    plain = vae.decode(z)
    before = weights_checksum(vae.first_stage_model)
    fusion = taming.decoder.model.fusion(1).scale[0]

    def fail(_module: Any, _inputs: Any) -> None:
        raise RuntimeError("boom")

    handle = fusion.register_forward_pre_hook(fail)
    raises(RuntimeError, lambda: r.decode(pack, vae, taming, bands, z), "boom")
    handle.remove()
    assert hook_count(vae.first_stage_model) == 0
    assert torch.equal(vae.decode(z), plain)
    assert weights_checksum(vae.first_stage_model) == before


@r.one_thread()
def check_released_conversion_needs_no_diffusers(pack: Pack) -> None:
    tamed_unet(pack, "small", "unit")
    tamed_vae(pack, "small", "unit", False)
    assert "diffusers" not in sys.modules


@r.one_thread()
def check_released_files_are_no_taming_files(pack: Pack) -> None:
    from safetensors.torch import save_file

    tamed_vae(pack, "small", "unit", False)
    folder = Path(folder_paths.get_folder_paths("ldmsid")[0])
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = Path(folder_paths.get_temp_directory()) / "decoder-small-unit.ckpt"
    direct, renamed = folder / "released.ckpt", folder / "released renamed.safetensors"
    foreign = folder / "released layout.safetensors"
    for path in (direct, renamed):
        path.write_bytes(checkpoint.read_bytes())
    save_file(pack.part("ldmsid_core.weight_file").read_weights(checkpoint), foreign)
    try:
        choices = pack.part("nodes.files").taming_choices()
        assert direct.name not in choices and renamed.name in choices and foreign.name in choices
        for path in (direct, renamed, foreign):
            raises(
                "CheckpointError",
                lambda p=path: pack.run("LDMSID_LoadTaming", taming_file=p.name),
                path.name, "ldmsid convert",
            )  # fmt: skip
    finally:
        for path in (direct, renamed, foreign):
            path.unlink()
