"""The training configuration: one JSON file, strict, saved beside what it produced."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..taming.configs import DecoderTamingConfig, UNetTamingConfig, config_from_dict
from .darkness import DarknessConfig
from .decoding import GenerationConfig
from .loop import StageConfig

STAGES = ("vae_small", "vae", "unet", "unet_taming", "decoder_taming", "decoder_taming_large")


@dataclass(frozen=True)
class PoolConfig:
    """Where clean images come from.

    Attributes:
        window: Procedural images held at a time.
        side: Their side in pixels.
        renew_every: Steps after which the oldest is replaced.
        photograph_share: Share of crops from bundled photographs.
        encoded: Crops encoded once for the two diffusion stages, a multiple of 8.
    """

    window: int = 300
    side: int = 320
    renew_every: int = 4
    photograph_share: float = 0.2
    encoded: int = 1600

    def __post_init__(self) -> None:
        """Check ranges."""
        if min(self.window, self.side, self.renew_every, self.encoded) < 1:
            raise ConfigError(f"Expected all pool settings >= 1, found {self}.")
        if self.encoded % 8:
            raise ConfigError(f"Expected encoded as a multiple of 8, found {self.encoded}.")
        if not 0.0 <= self.photograph_share <= 1.0:
            raise ConfigError(f"Expected photograph_share in 0..1, found {self.photograph_share}.")


@dataclass(frozen=True)
class TrainingConfig:
    """Everything a training run depends on.

    Attributes:
        vae_small: Stage 0a on small crops.
        vae: Stage 0a on full crops.
        unet: Stage 0b, the host's UNet.
        unet_taming: Stage 1.
        decoder_taming: Stage 2 on small crops.
        decoder_taming_large: Stage 2 on large crops, whose norms see more of a picture.
        unet_modules: Shape of UNet taming.
        decoder_modules: Shape of decoder taming.
        seed: Of images, initial weights and prompt; noise follows from the step alone.
        pool: Clean images.
        darkness: Dark RAWs.
        generation: Latents for stage 2.
        warm_start: Folder with `host.safetensors` and `taming.safetensors` whose weights the
            stages start from; empty starts anew, `embedded` is the bundled model.
        licence: Of the weights that come out.
    """

    vae_small: StageConfig
    vae: StageConfig
    unet: StageConfig
    unet_taming: StageConfig
    decoder_taming: StageConfig
    decoder_taming_large: StageConfig
    unet_modules: UNetTamingConfig
    decoder_modules: DecoderTamingConfig
    seed: int = 1
    pool: PoolConfig = PoolConfig()
    darkness: DarknessConfig = field(default_factory=DarknessConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    warm_start: str = ""
    licence: str = "Apache-2.0"

    def __post_init__(self) -> None:
        """Check what the stages share."""
        if self.unet.crop != self.unet_taming.crop:
            raise ConfigError(
                "Expected one crop for unet and unet_taming, which share their latents, found "
                f"{self.unet.crop} and {self.unet_taming.crop}."
            )

    def to_json(self) -> str:
        """Every setting, defaults included."""
        return json.dumps(asdict(self), indent=2)


def parse_training_config(values: Mapping[str, Any], *, source: str) -> TrainingConfig:
    """A configuration from JSON values.

    Raises:
        ConfigError: If a setting is unknown, missing or out of range.
    """
    ready = dict(values)
    kinds: dict[str, type] = dict.fromkeys(STAGES, StageConfig)
    kinds.update(
        decoder_modules=DecoderTamingConfig, pool=PoolConfig, darkness=DarknessConfig,
        generation=GenerationConfig,
    )  # fmt: skip
    for name, kind in kinds.items():
        if name in ready:
            ready[name] = config_from_dict(kind, ready[name], source=f"{source}, {name}")
    if "unet_modules" in ready:
        ready["unet_modules"] = UNetTamingConfig.from_dict(
            ready["unet_modules"], source=f"{source}, unet_modules"
        )
    return config_from_dict(TrainingConfig, ready, source=source)


def load_training_config(path: Path) -> TrainingConfig:
    """Read a JSON configuration; unknown keys are errors.

    Raises:
        ConfigError: If the file is missing, no JSON, or holds an unknown or bad setting.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"Expected JSON in {path}, found something else: {error}.") from error
    if not isinstance(values, Mapping):
        raise ConfigError(f"Expected an object with settings in {path}.")
    return parse_training_config(values, source=str(path))
