"""The description in a taming checkpoint's header: what it is for and what its input undergoes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from ..errors import CheckpointError, ConfigError
from ..wavelet import BandKind
from .configs import DecoderTamingConfig, UNetTamingConfig, config_from_dict

FORMAT_VERSION = 1
WhiteBalanceRecipe = Literal["none", "as shot"]

# Of amplified planes, 1 is saturation.
_WIDEST = 16.0


def check_clip(clip: tuple[float, float]) -> None:
    """Refuse a range of amplified planes that cuts into 0..1, or keeps hardly anything out.

    Raises:
        ConfigError: If it does.
    """
    low, high = clip
    if not (-_WIDEST <= low <= 0.0 and 1.0 <= high <= _WIDEST):
        raise ConfigError(
            f"Expected clip from -{_WIDEST:g}..0 to 1..{_WIDEST:g}, found {low:g} to {high:g}."
        )


@dataclass(frozen=True)
class InputRecipe:
    """What the planes had undergone in training, and must undergo now.

    Attributes:
        white_balance: `none` (released weights) or `as shot` (green 1; daylight, then none, where
            the file has no such multipliers).
        sensor: The camera that training data came from.
        packing: Order of the planes.
        clip: Range after the exposure ratio; holds 0..1, which released weights expect.
        output_scale: Output size over packed size.
        bands: What the planes are split into: `dwt`, or `rescale` of the paper's ablation.
    """

    white_balance: WhiteBalanceRecipe = "none"
    sensor: str = "Sony A7S II"
    packing: str = "R,G1,B,G2"
    clip: tuple[float, float] = (0.0, 1.0)
    output_scale: float = 1.0
    bands: BandKind = "dwt"

    def __post_init__(self) -> None:
        """Refuse what this version cannot apply."""
        if self.white_balance not in get_args(WhiteBalanceRecipe):
            raise ConfigError(
                f"Expected white_balance 'none' or 'as shot', found {self.white_balance!r}."
            )
        if self.bands not in get_args(BandKind):
            raise ConfigError(f"Expected bands 'dwt' or 'rescale', found {self.bands!r}.")
        check_clip(self.clip)
        if self.packing != "R,G1,B,G2" or self.output_scale != 1.0:
            raise ConfigError(
                "Expected packing R,G1,B,G2 and output scale 1, found "
                f"{self.packing}, {self.output_scale}; a newer version is needed."
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
        decoder_base: Names, in the original layout, of tensors of a fine-tuned base decoder that
            the file carries; they stand in for the host's while its decoder is tamed.
        decoder_base_sample: Some numbers of those that it leaves to the host, by name.
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
    decoder_base: tuple[str, ...] = ()
    decoder_base_sample: dict[str, list[float]] = field(default_factory=dict)
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
