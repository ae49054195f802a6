"""Released-layout checkpoints by recipe, converted, in the host's own UNet and VAE classes.

Weights, inputs and results come from the folder of reference vectors that the settings name.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

import comfy.ldm.models.autoencoder
import comfy.model_base
import comfy.model_detection
import comfy.samplers
import comfy.sd
import comfy.supported_models
import folder_paths
import torch
from runner import CheckSkippedError, Pack
from safetensors import safe_open

State = dict[str, torch.Tensor]
Keys = dict[str, list[int]]
UNET, ENCODER = "model.diffusion_model.", "structcond_stage_model."
# Two float32 implementations of the same formulas differ by about 5e-6 of the largest value.
STRICT = 2e-5
_CALLBACK = "pytorch_lightning.callbacks.model_checkpoint"
log = logging.getLogger("released")


class Vectors(NamedTuple):
    """One file of reference vectors."""

    tag: str
    metadata: dict[str, Any]
    tensors: State

    @property
    def cases(self) -> dict[str, dict[str, Any]]:
        return dict(self.metadata["cases"])

    def part(self, case: str) -> State:
        """The tensors of a case, without its name."""
        start = f"{case}."
        return {k[len(start) :]: v for k, v in self.tensors.items() if k.startswith(start)}


def _in_folder(pack: Pack, name: str) -> Path:
    folder = pack.settings.get("golden")
    if not folder or not (Path(folder) / name).exists():
        raise CheckSkippedError(f"no reference vectors: {name} in {folder} (set LDMSID_GOLDEN)")
    return Path(folder) / name


@lru_cache(maxsize=8)
def vectors(pack: Pack, name: str) -> Vectors:
    """A file of the folder; skips the check where there is none."""
    with safe_open(str(_in_folder(pack, f"vectors/{name}.safetensors")), "pt") as stored:
        texts = dict(stored.metadata())
        tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
    metadata = {k: json.loads(v) if v[:1] in "{[" else v for k, v in texts.items()}
    return Vectors(texts["tag"], metadata, tensors)


@lru_cache(maxsize=1)
def recipe(pack: Pack) -> ModuleType:
    """The folder's recipe of weights and inputs."""
    spec = importlib.util.spec_from_file_location("golden_recipe", _in_folder(pack, "recipe.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(pack: Pack, name: str) -> Keys:
    """Key -> shape of a released checkpoint."""
    return dict(json.loads(_in_folder(pack, f"manifests/{name}.json").read_text()))


def weights(pack: Pack, tag: str, keys: Keys, variant: str) -> State:
    """Weights by recipe, without copies."""
    made = recipe(pack).state_dict(tag, keys, variant)
    return {key: torch.from_numpy(value) for key, value in made.items()}


def unet_weights(pack: Pack, tag: str, config: str, variant: str) -> State:
    """A released UNet file's tensors; the reference's encoder has no `smallres` variant."""
    keys = manifest(pack, f"ckpt_unet_{config}")
    state = weights(pack, tag, keys, variant)
    if variant == "smallres":
        encoder = {k: v for k, v in keys.items() if k.startswith(ENCODER)}
        state.update(weights(pack, tag, encoder, "unit"))
    return state


def encoder_heads(config: dict[str, Any]) -> int:
    """Attention heads of the structure encoder, which its tensors do not show."""
    if config["num_head_channels"] != -1:
        raise CheckSkippedError("the reference's encoder has heads of a fixed width")
    return int(config["num_heads"])


def save_checkpoint(name: str, state: State) -> Path:
    """A file as Lightning 1.4 writes one: callbacks' classes are keys."""
    path = Path(folder_paths.get_temp_directory()) / f"{name}.ckpt"
    names = [".".join(_CALLBACK.split(".")[:n]) for n in (1, 2, 3)]
    kind = type("ModelCheckpoint", (), {"__module__": names[-1]})
    modules = {name: ModuleType(name) for name in names}
    modules[names[-1]].ModelCheckpoint = kind  # type: ignore[attr-defined]
    callbacks = {kind: {"best_model_path": "last.ckpt"}}
    content = {"state_dict": state, "epoch": 30, "global_step": 4000, "callbacks": callbacks}
    with patch.dict(sys.modules, modules):
        torch.save(content, path)
    return path


def convert(pack: Pack, name: str, *, heads: int = 4, **checkpoints: Path) -> Path:
    """`ldmsid convert` in the host's own environment, without loss."""
    output = Path(folder_paths.get_temp_directory()) / f"{name}.safetensors"
    made = pack.part("ldmsid_core.conversion.importing").convert_released(
        output, dtype=torch.float32, encoder_heads=heads, overwrite=True, **checkpoints
    )
    assert made.path == output and made.header.input_recipe.white_balance == "none"
    return output


def load(pack: Pack, path: Path) -> Any:
    """TAMING of a file."""
    return pack.part("nodes.taming_model").load_taming_model(path)


def host_model(pack: Pack, state: State, config: dict[str, Any]) -> Any:
    """MODEL with a released file's UNet, whose shape the host detects by itself."""
    base = {k: v for k, v in state.items() if k.startswith(UNET) and ".sft_layer." not in k}
    found = comfy.model_detection.detect_unet_config(base, UNET)
    described = comfy.supported_models.SD20(dict(found))
    # The class puts Stable Diffusion 2's own head width in.
    described.unet_config.update(found, num_head_channels=config["num_head_channels"])
    described.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(described, model_type=comfy.model_base.ModelType.EPS)
    bare = {key[len(UNET) :]: value for key, value in base.items()}
    model.diffusion_model.load_state_dict(bare)  # strictly
    model.diffusion_model.eval().requires_grad_(False)
    return pack.part("nodes.taming_model").as_patcher(model)


def host_vae(pack: Pack, state: State, ddconfig: dict[str, Any], embed_dim: int) -> Any:
    """VAE of a given shape; what `state` lacks comes from the recipe under another tag."""
    params = {"ddconfig": ddconfig, "embed_dim": embed_dim}
    shapes = comfy.ldm.models.autoencoder.AutoencoderKL(**params).state_dict()
    whole = weights(pack, "another", {k: list(v.shape) for k, v in shapes.items()}, "unit")
    own = {k: v for k, v in state.items() if ".fusion_layer_" not in k}
    assert not own.keys() - whole.keys()
    return comfy.sd.VAE(sd={**whole, **own}, config={"params": params}, dtype=torch.float32)


def bands_of(pack: Pack, planes: torch.Tensor, split: Any = None) -> Any:
    """BANDS of planes in model range, split without padding to 64; or the given ones."""
    raws = pack.part("ldmsid_core.raw.packed_raw")
    raw = raws.PackedRaw(
        planes=planes * 0.5 + 0.5, cfa="RGGB", black_level=(0.0, 0.0, 0.0, 0.0), white_level=1.0,
        white_balance=(2.0, 1.0, 1.5), white_balance_source="as shot", xyz_to_camera=None,
        orientation=0, metadata=raws.RawMetadata(), file_name="golden",
    )  # fmt: skip
    if split is None:
        split = pack.part("ldmsid_core.wavelet").split_bands(planes, multiple=8)
    return pack.part("ldmsid_core.pipeline").RawBands(raw, {("none", (0.0, 1.0), "dwt"): split})


def coarse_bands(pack: Pack, structure_input: torch.Tensor) -> Any:
    """BANDS of which only the level-3 low band is known."""
    batch, _, height, width = structure_input.shape
    fine = [torch.zeros(batch, 4, height * s, width * s) for s in (4, 2)]
    detail = [torch.zeros(batch, 12, height * s, width * s) for s in (4, 2, 1)]
    kind = pack.part("ldmsid_core.wavelet").SubBands
    split = kind((*fine, structure_input), tuple(detail), (height * 8, width * 8))
    return bands_of(pack, torch.zeros(1, 4, height * 8, width * 8), split)


@contextmanager
def one_thread() -> Iterator[None]:
    """Layers this small wait for each other's threads ten times longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def returned_by(unet: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Records what the host's UNet returns: eps, before the host makes a picture of it."""
    seen: list[torch.Tensor] = []
    handle = unet.register_forward_hook(lambda _m, _i, output: seen.append(output.clone()))
    try:
        yield seen
    finally:
        handle.remove()


class Ddim(comfy.samplers.Sampler):
    """DDIM without noise, as written down: one batch of timesteps after the other."""

    def __init__(self, timesteps: torch.Tensor, alphas: torch.Tensor) -> None:
        """Keep the `(steps, batch)` timesteps and alphas_cumprod; nothing is computed yet."""
        self.timesteps, self.alphas = timesteps, alphas
        self.eps: list[torch.Tensor] = []
        self.latents: list[torch.Tensor] = []

    def sample(self, guider: Any, _sigmas: Any, extra_args: Any, *args: Any) -> torch.Tensor:
        """Called by the host's guider with (callback, noise, ...)."""
        x: torch.Tensor = args[1]
        model = guider.inner_model
        gap = 1000 // len(self.timesteps)
        for timestep in self.timesteps:
            sigma = model.model_sampling.sigmas[timestep]
            scale = (1.0 + sigma**2).sqrt().view(-1, 1, 1, 1)  # the host divides by it
            with returned_by(model.diffusion_model) as seen:
                guider(x * scale, sigma, **extra_args)
            (eps,) = seen
            now = self.alphas[timestep].view(-1, 1, 1, 1)
            before = self.alphas[(timestep - gap).clamp(min=0)].view(-1, 1, 1, 1)
            clean = (x - (1.0 - now).sqrt() * eps) / now.sqrt()
            x = before.sqrt() * clean + (1.0 - before).sqrt() * eps
            self.eps.append(eps)
            self.latents.append(x)
        return x


def guided(
    model: Any, context: torch.Tensor, noise: torch.Tensor, sampler: Any, sigmas: Any
) -> Any:
    """Run the host's guider without guidance; a latent as the VAE takes it."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": [[context, {}]]})
    guider.set_cfg(1.0)
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)


def decode(
    pack: Pack, vae: Any, taming: Any, bands: Any, latent: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder returned, model range, and the node's picture, both `(B, 3, H, W)`."""
    module = pack.part("nodes.decoder_binding")
    finish, seen = module.finish_image, []

    def record(decoded: torch.Tensor, *args: Any) -> Any:
        seen.append(decoded.clone())
        return finish(decoded, *args)

    module.finish_image = record
    try:
        (image,) = pack.run(
            "LDMSID_TamedDecode",
            vae=vae, taming=taming, bands=bands, latent={"samples": latent}, strength=1.0,
        )  # fmt: skip
    finally:
        module.finish_image = finish
    (decoded,) = seen
    return decoded, image.movedim(-1, 1)


def close(found: torch.Tensor, wanted: torch.Tensor, what: str, limit: float = STRICT) -> None:
    """Largest difference within `limit` of the largest reference value."""
    assert found.shape == wanted.shape, (what, found.shape, wanted.shape)
    error = float((found.double() - wanted.double()).abs().max() / wanted.double().abs().max())
    log.info("%s: %.3g", what, error)
    assert error <= limit, f"{what}: {error:.3g} of max, allowed {limit}"
