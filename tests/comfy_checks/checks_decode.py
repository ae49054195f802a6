"""Tamed decoding and the tamed sampler: results, refusals, interrupts, lack of memory."""

from __future__ import annotations

from typing import Any

import torch
from runner import Pack
from scene import apply, cut, decode, hook_count, raises, sample, scene, weights_checksum


def check_equal_to_the_command_line(pack: Pack) -> None:
    """Same seed and settings as `expected`, computed outside by diffusers in float32."""
    from safetensors.torch import load_file

    expected = load_file(pack.settings["expected"])
    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file="[sample] dark")
    raw, ratio, _ = pack.run("LDMSID_ExposeRaw", raw=raw, mode="by hand", ratio=250.0)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=raw)
    s = scene(pack)._replace(bands=bands)
    assert ratio == 250.0
    latent = sample(pack, s, seed=5, steps=6)
    scale = s.taming.header.latent_scale
    error = (latent["samples"] * scale - expected["latent"]).abs().max()
    assert error < 1e-4 * max(1.0, float(expected["latent"].abs().max())), float(error)
    image = decode(pack, s, latent)
    assert image.dtype == torch.float32 and image.shape == (1, 448, 448, 3)
    assert (image.movedim(-1, 1) - expected["image"]).abs().max() < 1e-4


def check_our_grid_is_what_the_sampler_gets(pack: Pack) -> None:
    part = pack.part("nodes.tamed_sampler")
    s = scene(pack)
    sigmas = part.sampler_sigmas(s.model, "dpmpp_2m", "trailing", 12)
    table = s.model.get_model_object("model_sampling").sigmas
    assert len(sigmas) == 13 and float(sigmas[-1]) == 0.0
    assert torch.allclose(sigmas[0], table[-1].cpu()) and bool((sigmas[:-1] > sigmas[1:]).all())
    for scheduler in part.scheduler_choices():
        found = part.sampler_sigmas(s.model, "dpmpp_2m", scheduler, 5)
        assert len(found) >= 5 and float(found[-1]) == 0.0, scheduler


def check_seeds_and_choices(pack: Pack) -> None:
    s = scene(pack)
    first = sample(pack, s)["samples"]
    assert torch.equal(first, sample(pack, s)["samples"])
    assert not torch.equal(first, sample(pack, s, seed=8)["samples"])
    assert sample(pack, s, seed=2**64 - 1, steps=1)["samples"].isfinite().all()
    raises("ConfigError", lambda: sample(pack, s, sampler_name="nonsense"), "nonsense")
    raises("ConfigError", lambda: sample(pack, s, scheduler="nonsense"), "nonsense")
    raises("ConfigError", lambda: sample(pack, s, steps=0), "0")


def check_previews_show_true_colours(pack: Pack) -> None:
    import latent_preview
    from comfy.cli_args import LatentPreviewMethod, args

    s = scene(pack)
    samples = s.vae.encode(torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(0)))
    format_ = s.model.model.latent_format
    before, args.preview_method = args.preview_method, LatentPreviewMethod.Auto
    try:
        previewer = latent_preview.get_previewer(torch.device("cpu"), format_)
    finally:
        args.preview_method = before
    for colour in ((0.8, 0.2, 0.1), (0.1, 0.7, 0.2), (0.2, 0.3, 0.8)):
        flat = torch.tensor(colour).expand(1, 128, 192, 3)
        samples = format_.process_in(s.vae.encode(flat))
        picture = previewer.decode_latent_to_preview(samples)
        shown = torch.tensor(list(picture.resize((1, 1)).getpixel((0, 0)))) / 255.0
        assert int(shown.argmax()) == int(torch.tensor(colour).argmax()), (colour, shown)
        assert (shown - torch.tensor(colour)).abs().max() < 0.25, (colour, shown)


def check_nothing_given_is_changed(pack: Pack) -> None:
    s = scene(pack)
    state = torch.random.get_rng_state()
    latent = sample(pack, s)
    kept = latent["samples"].clone()
    planes, bands = s.raw.planes.clone(), s.bands.for_recipe(s.taming.header.input_recipe)
    ll = bands.ll[0].clone()
    decode(pack, s, latent)
    assert torch.equal(latent["samples"], kept) and torch.equal(s.raw.planes, planes)
    assert torch.equal(bands.ll[0], ll)
    assert torch.equal(torch.random.get_rng_state(), state), "a node drew from the global stream"


def check_the_vae_stays_as_it_was(pack: Pack) -> None:
    from dataclasses import replace

    s = scene(pack)
    latent = sample(pack, s)
    before = weights_checksum(s.vae.first_stage_model)
    plain = s.vae.decode(latent["samples"])
    tamed = decode(pack, s, latent)
    assert torch.equal(s.vae.decode(latent["samples"]), plain)
    assert (tamed - plain[:, :128, :192]).abs().max() > 0.05
    assert hook_count(s.vae.first_stage_model) == 0
    assert weights_checksum(s.vae.first_stage_model) == before
    half_model = replace(s.taming, decoder=None)
    untamed = decode(pack, s, latent, strength=0.0, taming=half_model)
    # Channels-last sums in another order.
    assert torch.allclose(untamed, plain[:, :128, :192], atol=1e-5)
    half = decode(pack, s, latent, strength=0.5)
    assert (half - untamed).abs().max() > 0.01 and (half - tamed).abs().max() > 0.01


def check_batches_turning_and_cropping(pack: Pack) -> None:
    from dataclasses import replace

    s = scene(pack)
    turned = replace(cut(s.raw, 70, 131), orientation=6)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=turned)
    t = s._replace(bands=bands)
    latent = sample(pack, t)
    assert tuple(latent["samples"].shape) == (1, 4, 16, 24)
    image = decode(pack, t, latent)
    assert image.shape == (1, 131, 70, 3)
    both = {**latent, "samples": torch.cat([latent["samples"], latent["samples"] * 0.5])}
    images = decode(pack, t, both)
    assert images.shape == (2, 131, 70, 3) and torch.equal(images[:1], image)


def check_what_does_not_belong_together_is_refused(pack: Pack) -> None:
    from dataclasses import replace

    s = scene(pack)
    latent = sample(pack, s)
    other = replace(s.raw, planes=s.raw.planes.flip(-1), file_name="OTHER.ARW")
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=other)
    raises("ShapeError", lambda: decode(pack, s, latent, bands=bands), "OTHER.ARW", "sample_dark")
    small, _, _ = pack.run("LDMSID_SplitBands", raw=cut(s.raw, 64, 64))
    raises("ShapeError", lambda: decode(pack, s, latent, bands=small), "(1, 4, 16, 24)", "8, 8")
    half = replace(s.taming, decoder=None)
    raises("HostMismatchError", lambda: decode(pack, s, latent, taming=half), "decoder taming")
    lonely = s._replace(taming=replace(s.taming, unet=None))
    raises("HostMismatchError", lambda: sample(pack, lonely), "UNet taming")
    unprompted = s._replace(taming=replace(s.taming, prompt_embedding=None))
    raises("HostMismatchError", lambda: sample(pack, unprompted), "prompt embedding")


def check_vae_of_another_kind_is_refused(pack: Pack) -> None:
    import comfy.sd

    s = scene(pack)
    state = s.vae.first_stage_model.state_dict()
    narrow = {k: v for k, v in state.items() if not k.startswith("decoder.up.3")}
    config = {"params": {"embed_dim": 4, "ddconfig": {
        "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
        "ch": 32, "ch_mult": [1, 2, 2, 2], "num_res_blocks": 1, "attn_resolutions": [],
        "dropout": 0.0}}}  # fmt: skip
    vae = comfy.sd.VAE(sd=_random_vae(config, narrow), config=config)
    raises(
        "HostMismatchError", lambda: decode(pack, s, sample(pack, s), vae=vae), "96 channels", "64"
    )


def _random_vae(config: Any, _like: Any) -> dict[str, torch.Tensor]:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    ddconfig = config["params"]["ddconfig"]
    model = AutoencoderKL(ddconfig=ddconfig, embed_dim=4)
    return {k: torch.zeros_like(v) for k, v in model.state_dict().items()}


def check_models_of_other_families_are_refused(pack: Pack) -> None:
    import comfy.model_base
    import comfy.supported_models as known

    s = scene(pack)
    small = dict(s.model.model.model_config.unet_config)
    as_patcher = pack.part("nodes.taming_model").as_patcher
    right, wrong = s.model.model.model_type, comfy.model_base.ModelType.EPS
    cases: list[tuple[Any, dict[str, Any], Any, tuple[str, ...]]] = [
        (known.SD15, {"context_dim": 768}, right, ("SD15", "768")),
        (known.SD20, {"in_channels": 9}, right, ("SD20", "9 input channels")),
        (known.SD20, {}, wrong, ("EPS",)),
        (known.SD20, {}, right, ("scaled by 0.18215",)),
        (known.SDXL, {"context_dim": 2048}, right, ("SDXL", "2048")),
        (known.SD20, {"channel_mult": (1, 2, 2, 2)}, right, ("128 channels",)),
    ]
    for kind, change, prediction, words in cases:
        config = kind(small | change)
        # All but the case about the scale have the right one.
        if "scaled" not in words[0]:
            config.latent_format = s.model.model.latent_format
        model = comfy.model_base.BaseModel(config, model_type=prediction)
        patcher = as_patcher(model)
        raises("HostMismatchError", lambda p=patcher: apply(pack, s, p), "tiny", *words)


def check_flux_is_refused(pack: Pack) -> None:
    import comfy.model_base
    import comfy.supported_models as known
    from comfy.ldm.flux.model import FluxParams

    s = scene(pack)
    newer = {"txt_ids_dims": []} if "txt_ids_dims" in FluxParams.__dataclass_fields__ else {}
    config = known.Flux(newer | {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 8,
        "context_in_dim": 8, "hidden_size": 32, "mlp_ratio": 2.0, "num_heads": 2, "depth": 1,
        "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "patch_size": 2,
        "qkv_bias": True, "guidance_embed": False,
    })  # fmt: skip
    model = comfy.model_base.Flux(config)
    patcher = pack.part("nodes.taming_model").as_patcher(model)
    raises("HostMismatchError", lambda: apply(pack, s, patcher), "Flux", "tiny")


def check_interrupts_escape_and_the_next_run_is_right(pack: Pack) -> None:
    import comfy.model_management as mm

    s = scene(pack)
    latent = sample(pack, s)
    right = decode(pack, s, latent)
    block = s.vae.first_stage_model.decoder.up[1].block[0].conv1
    for kind in (mm.InterruptProcessingException, RuntimeError):

        def fail(_module: Any, _inputs: Any, kind: Any = kind) -> None:
            raise kind("stop") if kind is RuntimeError else kind()

        handle = block.register_forward_pre_hook(fail)
        raises(kind, lambda: decode(pack, s, latent))
        handle.remove()
        assert hook_count(s.vae.first_stage_model) == 0
    mm.interrupt_current_processing(True)
    raises(mm.InterruptProcessingException, lambda: decode(pack, s, latent))
    mm.interrupt_current_processing(False)
    assert torch.equal(decode(pack, s, latent), right)


def check_lack_of_memory_is_one_clear_message(pack: Pack) -> None:
    import comfy.model_management as mm

    s = scene(pack)
    latent = sample(pack, s)
    right = decode(pack, s, latent)
    block = s.vae.first_stage_model.decoder.up[2].block[0].conv1
    for error in (
        mm.OOM_EXCEPTION("Allocation failed"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ):

        def fail(_module: Any, _inputs: Any, error: Any = error) -> None:
            raise error

        handle = block.register_forward_pre_hook(fail)
        raises("LdmSidError", lambda: decode(pack, s, latent), "memory", "192x128", "sample_dark")
        handle.remove()
    assert torch.equal(decode(pack, s, latent), right)


def check_not_a_number_is_named(pack: Pack) -> None:
    s = scene(pack)
    latent = sample(pack, s)
    right = decode(pack, s, latent)
    broken = {**latent, "samples": latent["samples"] * float("nan")}
    raises("NonFiniteError", lambda: decode(pack, s, broken), "sample_dark", "latent")
    damaged = (
        (s.vae.first_stage_model, "decoder.conv_out", lambda: decode(pack, s, latent)),
        (s.taming.decoder.model, "levels.2.scale.0", lambda: decode(pack, s, latent)),
        (s.model.model.diffusion_model, "middle_block.1.proj_in", lambda: sample(pack, s)),
        (s.taming.unet.model, "unet_sft.down_1_0.gamma", lambda: sample(pack, s)),
    )
    for network, path, run in damaged:
        weight = network.get_submodule(path).weight
        kept = weight.data.clone()
        weight.data.fill_(float("nan"))
        try:
            raises("NonFiniteError", run, "sample_dark", path, "--fp32-")
        finally:
            weight.data.copy_(kept)
    assert torch.equal(decode(pack, s, latent), right)


def check_more_than_256_levels_in_bf16(pack: Pack) -> None:
    s = scene(pack)
    latent = sample(pack, s)
    model = s.vae.first_stage_model
    before = s.vae.vae_dtype
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.to(torch.bfloat16)
    s.vae.vae_dtype = torch.bfloat16
    try:
        image = decode(pack, s, latent)
    finally:
        model.to(before)
        model.load_state_dict(kept)
        s.vae.vae_dtype = before
    bright = image[image > 0.5]
    assert len(bright.unique()) > 1000, "the picture has the levels of bfloat16"
