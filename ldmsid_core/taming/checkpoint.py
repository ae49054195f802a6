"""The taming checkpoint: one safetensors file with its whole description in the header.

Keys are `structure_encoder.*`, `unet_sft.<site>.*`, `decoder.<level>.*`, and `prompt_embedding`;
either half may be absent. Loading is strict: unknown or missing keys and wrong shapes are errors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from ..safetensors_file import read_safetensors, write_safetensors
from .configs import DecoderTamingConfig, UNetTamingConfig, config_from_dict
from .fusion import DecoderTaming
from .operations import PLAIN, Operations
from .unet_taming import UNetTaming

FORMAT_VERSION = 1
_HEADER_KEY = "ldmsid"
_DECODER = "decoder."
_PROMPT = "prompt_embedding"
WhiteBalanceRecipe = Literal["none", "as shot"]


@dataclass(frozen=True)
class InputRecipe:
    """What the planes had undergone in training, and must undergo now.

    Attributes:
        white_balance: `none` (released weights) or `as shot` (green 1; daylight, then none, where
            the file has no such multipliers).
        sensor: The camera that training data came from.
        packing: Order of the planes.
        clip: Range after the exposure ratio.
        output_scale: Output size over packed size.
    """

    white_balance: WhiteBalanceRecipe = "none"
    sensor: str = "Sony A7S II"
    packing: str = "R,G1,B,G2"
    clip: tuple[float, float] = (0.0, 1.0)
    output_scale: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what this version cannot apply."""
        if self.white_balance not in get_args(WhiteBalanceRecipe):
            raise ConfigError(
                f"Expected white_balance 'none' or 'as shot', found {self.white_balance!r}."
            )
        if self.packing != "R,G1,B,G2" or self.clip != (0.0, 1.0) or self.output_scale != 1.0:
            raise ConfigError(
                "Expected packing R,G1,B,G2, clip 0..1 and output scale 1, found "
                f"{self.packing}, {self.clip}, {self.output_scale}; a newer version is needed."
            )


@dataclass(frozen=True)
class TamingHeader:
    """Description of a taming checkpoint.

    Attributes:
        host_family: Host it was trained for, such as `sd21-base` or `tiny`.
        cross_attention_width: Of that host.
        prediction_type: Of that host.
        latent_scale: Latent as the UNet sees it over latent as the VAE gives it.
        decoder_latent_scale: `unscaled`: the tamed decoder takes latents divided by the latent
            scale; `scaled`: as the UNet sees them.
        input_recipe: What the planes undergo.
        unet: Shape of UNet taming; None if absent.
        decoder: Shape of decoder taming; None if absent.
        training: Free summary of the training.
        licence: Of the weights.
        host_sha256: Of the host's weight file, where known.
        format_version: Of this header.
    """

    host_family: str
    cross_attention_width: int
    prediction_type: str = "epsilon"
    latent_scale: float = 0.18215
    decoder_latent_scale: str = "unscaled"
    input_recipe: InputRecipe = InputRecipe()
    unet: UNetTamingConfig | None = None
    decoder: DecoderTamingConfig | None = None
    training: dict[str, Any] = field(default_factory=dict)
    licence: str = ""
    host_sha256: str | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Refuse what no version knows."""
        if self.decoder_latent_scale not in ("unscaled", "scaled"):
            raise ConfigError(
                "Expected decoder_latent_scale 'unscaled' or 'scaled', found "
                f"{self.decoder_latent_scale!r}; update LDM-SID."
            )
        if not 0.0 < self.latent_scale < float("inf"):
            raise ConfigError(f"Expected a latent_scale above 0, found {self.latent_scale}.")

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, source: str) -> TamingHeader:
        """Parse strictly.

        Raises:
            CheckpointError: If the header is no JSON, or of a newer version.
            ConfigError: If a setting is unknown or out of range.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{source}: its header is not readable JSON: {error}.") from error
        version = values.get("format_version") if isinstance(values, Mapping) else None
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{source}: expected taming format version {FORMAT_VERSION}, found {version}; "
                "update LDM-SID or use a file of that version."
            )
        ready = dict(values)
        recipe = config_from_dict(InputRecipe, values.get("input_recipe", {}), source=source)
        ready["input_recipe"] = recipe
        if values.get("unet") is not None:
            ready["unet"] = UNetTamingConfig.from_dict(values["unet"], source=source)
        if values.get("decoder") is not None:
            ready["decoder"] = config_from_dict(
                DecoderTamingConfig, values["decoder"], source=source
            )
        return config_from_dict(cls, ready, source=source)


@dataclass(frozen=True)
class Taming:
    """A loaded taming checkpoint: modules in evaluation mode, frozen.

    Attributes:
        header: Its description.
        unet: UNet taming; None if the file has none.
        decoder: Decoder taming; None if the file has none.
        prompt_embedding: `(tokens, width)`; None if the file has none.
        name: Of the file.
    """

    header: TamingHeader
    unet: UNetTaming | None
    decoder: DecoderTaming | None
    prompt_embedding: Tensor | None
    name: str


def taming_state(
    unet: UNetTaming | None, decoder: DecoderTaming | None, prompt_embedding: Tensor | None
) -> dict[str, Tensor]:
    """All tensors of a checkpoint under its keys."""
    state: dict[str, Tensor] = {}
    if unet is not None:
        state.update(unet.state_dict())
    if decoder is not None:
        state.update({f"{_DECODER}{k[7:]}": v for k, v in decoder.state_dict().items()})
    if prompt_embedding is not None:
        state[_PROMPT] = prompt_embedding
    return state


def save_taming(
    path: Path,
    header: TamingHeader,
    state: dict[str, Tensor],
    *,
    dtype: torch.dtype,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint; the file appears whole or not at all.

    Raises:
        OutputError: If it exists or cannot be written.
    """
    cast = {name: tensor.detach().to(dtype) for name, tensor in state.items()}
    write_safetensors(path, cast, {_HEADER_KEY: header.to_json()}, overwrite=overwrite)


def _load_part(
    module: nn.Module, wanted: dict[str, Tensor], state: dict[str, Tensor], source: str
) -> None:
    missing = sorted(set(wanted) - set(state))
    unknown = sorted(set(state) - set(wanted))
    if missing or unknown:
        raise CheckpointError(
            f"{source}: expected the keys its header describes; missing {len(missing)} "
            f"({', '.join(missing[:3])}), unknown {len(unknown)} ({', '.join(unknown[:3])})."
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape:
            raise CheckpointError(
                f"{source}: expected {name} of shape {tuple(wanted[name].shape)}, "
                f"found {tuple(tensor.shape)}."
            )
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def _build(
    header: TamingHeader, operations: Operations
) -> tuple[UNetTaming | None, DecoderTaming | None]:
    """The modules a header describes, without weights."""
    unet, decoder = None, None
    with torch.device("meta"):
        if header.unet is not None:
            unet = UNetTaming(header.unet, operations=operations)
        if header.decoder is not None:
            decoder = DecoderTaming(header.decoder, operations=operations)
    return unet, decoder


def load_taming(
    path: Path,
    *,
    operations: Operations = PLAIN,
    dtype: torch.dtype | None = torch.float32,
) -> Taming:
    """Read a taming checkpoint strictly.

    Args:
        path: The file.
        operations: What the layers are built from.
        dtype: Of the weights; None keeps the stored one.

    Raises:
        CheckpointError: If the file is missing, damaged, no taming checkpoint, does not hold what
            its header says, or holds NaN.
        ConfigError: If the header has an unknown setting or one out of range.
    """
    state, metadata = read_safetensors(path, dtype=dtype)
    if _HEADER_KEY not in metadata:
        raise CheckpointError(
            f"Expected a taming checkpoint with an '{_HEADER_KEY}' header, but {path} has none; "
            "is it a host or a LoRA? Choose a file written by `ldmsid train` or the converter."
        )
    header = TamingHeader.from_json(metadata[_HEADER_KEY], source=str(path))
    prompt = state.pop(_PROMPT, None)
    decoder_state = {
        f"levels.{k[len(_DECODER) :]}": v for k, v in state.items() if k.startswith(_DECODER)
    }
    unet_state = {k: v for k, v in state.items() if not k.startswith(_DECODER)}
    unet, decoder = _build(header, operations)
    # Shapes come from plain layers: a runtime's own may make their parameters only on loading.
    plain = _build(header, PLAIN)
    parts = zip((unet, decoder), plain, (unet_state, decoder_state), strict=True)
    for module, twin, part in parts:
        if module is not None and twin is not None:
            _load_part(module, twin.state_dict(), part, str(path))
        elif part:
            raise CheckpointError(
                f"{path}: holds {len(part)} tensors that its header does not describe, such as "
                f"{next(iter(part))}."
            )
    width = header.cross_attention_width
    if prompt is not None and (prompt.ndim != 2 or prompt.shape[1] != width):
        raise CheckpointError(
            f"{path}: expected {_PROMPT} of shape (tokens, {width}), found {tuple(prompt.shape)}."
        )
    return Taming(header, unet, decoder, prompt, path.name)
