"""Configurations of the taming modules; the defaults are the released model's.

Shapes follow the released implementation of LDM-ISP (arXiv 2312.01027) for Stable Diffusion 2.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeVar

from ..errors import ConfigError

SftKind = Literal["released", "identity"]
NORM_GROUPS = 32
_Config = TypeVar("_Config")


def _require_multiple(name: str, width: int) -> None:
    if width < NORM_GROUPS or width % NORM_GROUPS:
        raise ConfigError(
            f"Expected {name} to be a multiple of {NORM_GROUPS} (GroupNorm), found {width}."
        )


def _accepts(kind: str, value: object) -> bool:
    if kind.startswith("tuple"):
        numbers: tuple[type, ...] = (int, float) if "int" in kind or "float" in kind else (object,)
        items = (str,) if "str" in kind else numbers
        return isinstance(value, tuple) and all(
            isinstance(item, items) and not isinstance(item, bool) for item in value
        )
    allowed: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "str": (str,),
    }
    wanted = allowed.get(kind)
    if wanted is None:
        return True
    return isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))


def config_from_dict(kind: type[_Config], values: Mapping[str, Any], *, source: str) -> _Config:
    """A frozen configuration from JSON values; an unknown key is an error.

    Args:
        kind: The dataclass.
        values: Field name -> value; lists become tuples.
        source: Names the file in the error.

    Raises:
        ConfigError: If a key is unknown or missing, or a value out of range or of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: expected an object with settings, found {values!r}.")
    known = {f.name: str(f.type) for f in fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ConfigError(
            f"{source}: unknown setting {', '.join(unknown)}; expected among {sorted(known)}."
        )
    ready = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    for name, value in ready.items():
        if not _accepts(known[name], value):
            raise ConfigError(f"{source}: expected {name} as {known[name]}, found {value!r}.")
    try:
        return kind(**ready)
    except TypeError as error:
        raise ConfigError(f"{source}: {error}.") from error


@dataclass(frozen=True)
class StructureEncoderConfig:
    """Shape of the structure encoder.

    Attributes:
        in_channels: Planes of the level-3 `ll`.
        width: Channels of the finest level; each other is a multiple of it.
        multipliers: One per level, finest first.
        blocks: Residual blocks a level.
        attention_levels: Levels that have self-attention after each residual block.
        heads: Attention heads; 0 takes `head_width` instead.
        head_width: Channels of a head where `heads` is 0.
        features: Channels of the feature handed to each UNet level.
    """

    in_channels: int = 4
    width: int = 256
    multipliers: tuple[int, ...] = (1, 1, 2, 2)
    blocks: int = 2
    attention_levels: tuple[int, ...] = (0, 1, 2)
    heads: int = 4
    head_width: int = 0
    features: int = 256

    def __post_init__(self) -> None:
        """Check what GroupNorm and attention need."""
        _require_multiple("width", self.width)
        _require_multiple("features", self.features)
        if self.blocks < 1 or not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(f"Expected blocks and multipliers >= 1, found {self}.")
        if any(not 0 <= level < len(self.multipliers) for level in self.attention_levels):
            raise ConfigError(
                f"Expected attention_levels below {len(self.multipliers)}, "
                f"found {self.attention_levels}."
            )
        if (self.heads > 0) == (self.head_width > 0):
            raise ConfigError("Expected exactly one of heads and head_width above 0.")
        part = self.heads or self.head_width
        if any(self.width * m % part for m in self.multipliers):
            raise ConfigError(f"Expected every level's width to divide by {part}, found {self}.")


@dataclass(frozen=True)
class UNetTamingConfig:
    """Structure encoder and SFT layers for one UNet shape.

    Attributes:
        encoder: Of the structure encoder.
        widths: Channels of the UNet's levels, finest first.
        blocks: Residual blocks of a down level (an up level has one more).
        hidden: Width between the two convolutions of an SFT layer.
        kind: `released` (normalises first) or `identity` (starts as no change at all).
    """

    encoder: StructureEncoderConfig = StructureEncoderConfig()
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    blocks: int = 2
    hidden: int = 128
    kind: SftKind = "released"

    def __post_init__(self) -> None:
        """Check that every UNet level has a feature."""
        for width in self.widths:
            _require_multiple("UNet width", width)
        if len(self.widths) != len(self.encoder.multipliers):
            raise ConfigError(
                f"Expected one encoder level per UNet level, found {len(self.encoder.multipliers)} "
                f"and {len(self.widths)}."
            )
        if self.kind not in ("released", "identity"):
            raise ConfigError(f"Expected kind 'released' or 'identity', found {self.kind!r}.")
        if self.blocks < 1 or self.hidden < 1:
            raise ConfigError(f"Expected blocks and hidden >= 1, found {self}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str) -> UNetTamingConfig:
        """The configuration of JSON values; unknown keys are errors."""
        if not isinstance(values, Mapping) or not isinstance(values.get("encoder", {}), Mapping):
            raise ConfigError(f"{source}: expected an object with settings, found {values!r}.")
        inner = config_from_dict(
            StructureEncoderConfig, values.get("encoder", {}), source=f"{source}, encoder"
        )
        return config_from_dict(cls, {**values, "encoder": inner}, source=source)


@dataclass(frozen=True)
class DecoderTamingConfig:
    """Fusion modules at the inputs of the decoder's first three up stages.

    Attributes:
        widths: Channels of the decoder's feature at levels 3, 2 and 1 (latent size first).
        ll_channels: Planes of `ll`.
        detail_channels: Planes of `detail`.
    """

    widths: tuple[int, ...] = (512, 512, 512)
    ll_channels: int = 4
    detail_channels: int = 12

    def __post_init__(self) -> None:
        """Check what GroupNorm needs."""
        if len(self.widths) != 3:
            raise ConfigError(f"Expected three decoder widths, found {self.widths}.")
        for width in self.widths:
            _require_multiple("decoder width", width)
        if self.ll_channels < 1 or self.detail_channels < 1:
            raise ConfigError(f"Expected channels >= 1, found {self}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
