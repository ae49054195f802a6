"""Released-layout checkpoints at full size, about 4 GB, in the host's Stable Diffusion 2.1."""

from __future__ import annotations

import logging
import resource
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.supported_models
import folder_paths
import released_scene as r
import torch
from checks_released import apply
from runner import Pack
from scene import weights_checksum

# Weights are 3.9 GB; building, saving and loading must not multiply them.
_MEMORY_GB = 14.0
log = logging.getLogger("released")


@lru_cache(maxsize=1)
def full(pack: Pack) -> tuple[Any, Any]:
    """MODEL from the released UNet file itself, TAMING with both halves."""
    described = r.vectors(pack, "full")
    heads = r.encoder_heads(described.metadata["encoder_config"])
    keys = r.manifest(pack, "ckpt_unet_full")
    keys = {k: v for k, v in keys.items() if k.startswith((r.UNET, r.ENCODER))}
    unet = r.save_checkpoint("full-unet", r.weights(pack, described.tag, keys, "unit"))
    decoder = r.save_checkpoint("full-decoder", decoder_weights(pack))
    try:
        taming = r.load(pack, r.convert(pack, "full", heads=heads, unet=unet, decoder=decoder))
        model = comfy.sd.load_checkpoint_guess_config(
            str(unet), output_vae=False, output_clip=False, model_options={"dtype": torch.float32}
        )[0]
    finally:
        for path in (unet, decoder):
            path.unlink()
        Path(folder_paths.get_temp_directory(), "full.safetensors").unlink(missing_ok=True)
    return model, taming


def decoder_weights(pack: Pack) -> r.State:
    """A released decoder file's tensors, with the encoder, loss and so on of a real one."""
    tag = r.vectors(pack, "decoder_full").tag
    return r.weights(pack, tag, r.manifest(pack, "ckpt_vae_full"), "unit")


def check_released_full_host_is_stable_diffusion_2(pack: Pack) -> None:
    model, taming = full(pack)
    assert type(model.model.model_config) is comfy.supported_models.SD20
    assert taming.header.host_family == "sd21-base" and len(taming.decoder_base) == 140
    unet = sum(p.numel() for p in taming.unet.model.parameters())
    decoder = sum(p.numel() for p in taming.decoder.model.parameters())
    # Method: 52.49 + 53.02 million, and 3 x 21.07 million.
    assert round(unet / 1e6, 1) == 105.5 and round(decoder / 1e6, 1) == 63.2, (unet, decoder)


def check_released_full_unet(pack: Pack) -> None:
    vectors = r.vectors(pack, "full")
    alphas = r.vectors(pack, "schedule").tensors["alphas_cumprod"]
    model, taming = full(pack)
    part = vectors.tensors
    shape = (len(part["in.x"]), 77, vectors.metadata["unet_config"]["context_dim"])
    context = torch.from_numpy(r.recipe(pack).data(vectors.tag, "full.context", shape))
    r.close(context[:, :1], part["in.context_head"], "context", 1e-7)
    bound = apply(pack, model, taming, r.coarse_bands(pack, part["in.struct_x"]))
    sampler = r.Ddim(part["in.t"][None], alphas)
    r.guided(bound, context, part["in.x"], sampler, torch.tensor([1.0, 0.0]))
    r.close(sampler.eps[0], part["out.eps"], "full unet")


def check_released_full_decoder(pack: Pack) -> None:
    _, taming = full(pack)
    vectors = r.vectors(pack, "decoder_full")
    released = decoder_weights(pack)
    parts = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
    own = {k: v for k, v in released.items() if k.startswith(parts) and ".fusion_layer_" not in k}
    keys = {k: list(v.shape) for k, v in own.items()}
    del released
    for what, state in (("its own", own), ("another", r.weights(pack, "another", keys, "unit"))):
        vae = comfy.sd.VAE(sd=state, dtype=torch.float32)
        for name in vectors.cases:
            part = vectors.part(name)
            bands, z = r.bands_of(pack, part["in.raw"]), part["in.z"]
            plain = vae.decode(z)
            before = weights_checksum(vae.first_stage_model)
            found, _ = r.decode(pack, vae, taming, bands, z)
            r.close(found, part["out.image"], f"full decoder {name}, {what} VAE")
            assert torch.equal(vae.decode(z), plain)
            assert weights_checksum(vae.first_stage_model) == before


def check_released_full_memory(pack: Pack) -> None:
    """Last: the most that this process has held, in whole GB of 10^9 bytes."""
    full(pack)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    log.info("most memory: %.1f GB", used)
    assert used < _MEMORY_GB, f"{used:.1f} GB"
