"""What most checks start from: the sample's bands, the embedded model, a quick sampler."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from runner import Pack


class Scene(NamedTuple):
    """A small piece of the packaged sample and the embedded model."""

    raw: Any
    bands: Any
    model: Any
    vae: Any
    conditioning: Any
    taming: Any


@lru_cache(maxsize=1)
def scene(pack: Pack) -> Scene:
    """Made once; checks must not change it, which the last check of a module sees to."""
    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file="[sample] dark")
    raw, _, _ = pack.run("LDMSID_ExposeRaw", raw=cut(raw, 128, 192), mode="by hand", ratio=250.0)
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=raw)
    return Scene(raw, bands, *pack.run("LDMSID_LoadEmbedded"))


def cut(raw: Any, height: int, width: int) -> Any:
    """The top left of a file's planes, as a file of its own."""
    from dataclasses import replace

    return replace(raw, planes=raw.planes[:, :, :height, :width].clone())


@lru_cache(maxsize=1)
def wide_scene(pack: Pack) -> Scene:
    """The whole sample beside its mirror image, 80x56 latents: more than a small frame."""
    from dataclasses import replace

    raw, _, _ = pack.run("LDMSID_LoadRaw", raw_file="[sample] dark")
    raw, _, _ = pack.run("LDMSID_ExposeRaw", raw=raw, mode="by hand", ratio=250.0)
    both = torch.cat([raw.planes, raw.planes.flip(-1)], dim=-1)
    raw = replace(raw, planes=both[..., :640].contiguous())
    bands, _, _ = pack.run("LDMSID_SplitBands", raw=raw)
    return scene(pack)._replace(raw=raw, bands=bands)


@lru_cache(maxsize=1)
def wide_expected(pack: Pack) -> dict[str, torch.Tensor]:
    """What the command line's engine makes of the wide frame."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = load_file(pack.settings["expected"])
    return found


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of two pictures in unit range, dB."""
    return float(-10.0 * (a.double() - b.double()).square().mean().clamp_min(1e-12).log10())


def apply(pack: Pack, s: Scene, model: Any = None, **changes: Any) -> tuple[Any, Any]:
    """`Apply taming` with its defaults."""
    inputs: dict[str, Any] = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    inputs |= {"model": model or s.model, "taming": s.taming, "bands": s.bands, **changes}
    bound, latent = pack.run("LDMSID_ApplyTaming", **inputs)
    return bound, latent


def ksample(
    model: Any, latent: Any, positive: Any, negative: Any = None, **changes: Any
) -> torch.Tensor:
    """The host's own KSampler, three steps."""
    import nodes

    inputs: dict[str, Any] = {
        "seed": 3, "steps": 3, "cfg": 1.0, "sampler_name": "dpmpp_2m", "scheduler": "sgm_uniform",
    } | changes  # fmt: skip
    with torch.inference_mode():
        found = nodes.common_ksampler(
            model, inputs["seed"], inputs["steps"], inputs["cfg"], inputs["sampler_name"],
            inputs["scheduler"], positive, positive if negative is None else negative, latent,
        )  # fmt: skip
    samples: torch.Tensor = found[0]["samples"]
    return samples.clone()


def decode(pack: Pack, s: Scene, latent: Any, **changes: Any) -> torch.Tensor:
    """`Tamed decode` with its defaults."""
    inputs = {"vae": s.vae, "taming": s.taming, "bands": s.bands, "strength": 1.0} | changes
    (image,) = pack.run("LDMSID_TamedDecode", latent=latent, **inputs)
    found: torch.Tensor = image
    return found


def sample(pack: Pack, s: Scene, **changes: Any) -> Any:
    """`Tamed sampler` with its defaults, few steps."""
    inputs: dict[str, Any] = {
        "seed": 7, "steps": 4, "sampler_name": "dpmpp_2m", "scheduler": "trailing", "strength": 1.0,
    } | changes  # fmt: skip
    fixed: dict[str, Any] = {"model": s.model, "taming": s.taming, "bands": s.bands}
    (latent,) = pack.run("LDMSID_TamedSampler", **(fixed | inputs))
    return latent


@contextmanager
def seen_by_encoder(s: Scene) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Records what the structure encoder is given, call by call."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    encoder = s.taming.unet.model.structure_encoder

    def hook(_module: Any, inputs: Scene) -> None:
        seen.append((inputs[0].clone(), inputs[1].clone()))

    handle = encoder.register_forward_pre_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


@contextmanager
def memory_asked() -> Iterator[list[float]]:
    """Records the memory that models are loaded with, call by call."""
    import comfy.model_management as mm

    asked: list[float] = []
    load = mm.load_models_gpu

    def record(models: Any, memory_required: float = 0, **kwargs: Any) -> Any:
        asked.append(memory_required)
        return load(models, memory_required=memory_required, **kwargs)

    mm.load_models_gpu = record
    try:
        yield asked
    finally:
        mm.load_models_gpu = load


def structure_of(s: Scene) -> torch.Tensor:
    """The level-3 low band of the scene."""
    found: torch.Tensor = s.bands.for_recipe(s.taming.header.input_recipe).structure_input
    return found


def hook_count(module: torch.nn.Module) -> int:
    """Forward hooks, pre-hooks and replaced forward passes left anywhere in a module."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m))
        for m in module.modules()
    )


def weights_checksum(module: torch.nn.Module) -> float:
    """Changes when any weight does."""
    import zlib

    total = 0
    for name, tensor in sorted(module.state_dict().items()):
        total = zlib.crc32(name.encode(), total)
        total = zlib.crc32(tensor.detach().cpu().contiguous().view(torch.uint8).numpy(), total)
    return total


def raises(kind: type[BaseException] | str, call: Any, *words: str) -> None:
    """The call fails with this kind of error, whose message holds the words."""
    try:
        call()
    except BaseException as error:  # noqa: BLE001  the host's interrupt is no Exception
        name = kind if isinstance(kind, str) else kind.__name__
        names = [base.__name__ for base in type(error).__mro__]
        assert name in names, f"expected {name}, found {type(error).__name__}: {error}"
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in: {error}"
    else:
        raise AssertionError(f"expected {kind}, but nothing failed")


@contextmanager
def little_loaded() -> Iterator[list[tuple[str, bool]]]:
    """As where memory is short: weights stay off the device; which model was loaded so."""
    import comfy.model_management as mm
    from comfy.model_patcher import ModelPatcher

    mm.unload_all_models()
    load, low = ModelPatcher.load, []

    def load_little(self: Any, device_to: Any = None, *args: Any, **kwargs: Any) -> Any:
        kwargs |= {"lowvram_model_memory": 64, "full_load": False}
        found = load(self, device_to, *args[1:], **kwargs)
        low.append((type(self.model).__name__, bool(self.model.model_lowvram)))
        return found

    ModelPatcher.load = load_little  # type: ignore[method-assign]
    try:
        yield low
    finally:
        ModelPatcher.load = load  # type: ignore[method-assign]
        mm.unload_all_models()


def in_dtype(pack: Pack, s: Scene, dtype: torch.dtype, cast: torch.dtype | None) -> Any:
    """The scene's model with weights of a dtype, computing in another where one is given."""
    import comfy.model_base
    import comfy.supported_models

    old = s.model.model
    config = comfy.supported_models.SD20({})
    config.unet_config = {**old.model_config.unet_config, "dtype": None}
    config.latent_format = old.latent_format
    config.set_inference_dtype(dtype, cast)
    model = comfy.model_base.BaseModel(config, model_type=old.model_type)
    weights = {k: v.to(dtype) for k, v in old.diffusion_model.state_dict().items()}
    model.diffusion_model.load_state_dict(weights)
    return pack.part("nodes.taming_model").as_patcher(model)
