"""Options of `ldmsid enhance`, and what they mean for a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from .crop import Crop, parse_crop
from .errors import ConfigError
from .hosts.schedule import DEFAULT_SAMPLER
from .hosts.settings import SamplingSettings
from .released_recipe import TILE_SIZE, released_sampler
from .sampling_grid import DEFAULT_STEPS
from .tiling import DEFAULT_OVERLAP, default_overlap

_RELEASED_STEPS = 200
_RELEASED_TILE, _RELEASED_OVERLAP = 512, 256


@dataclass(frozen=True)
class EnhanceOptions:
    """Options of the command; see its help."""

    output: Path
    ratio: str = "auto"
    reference: Path | None = None
    output_format: str = "png"
    rounding: str = "nearest"
    sampler: str | None = None
    host: Path | None = None
    taming: Path | None = None
    keep_gps: bool = False
    steps: int | None = None
    strength: float = 1.0
    decoder_strength: float = 1.0
    tile: int = 0
    overlap: int | None = None
    tile_batch: int = 0
    start: float = 1.0
    decode: str = "auto"
    decode_tile: int = 0
    compile: bool = False
    crop: str | None = None
    dry_run: bool = False
    recipe: str = "default"
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    overwrite: bool = False
    quiet: bool = False

    @property
    def is_released(self) -> bool:
        """Whether the authors' recipe is asked for."""
        return self.recipe == "released"

    def region(self) -> Crop | None:
        """The part of the picture that is asked for; None is all of it.

        Raises:
            ConfigError: If it is no rectangle.
        """
        return None if self.crop is None else parse_crop(self.crop)

    def settings(self) -> SamplingSettings:
        """What the engine is told.

        Raises:
            ConfigError: If options are out of range or exclude each other.
        """
        if self.crop is not None and self.dry_run:
            raise ConfigError(
                "Expected --dry-run without --crop, found both; it tells what the whole picture "
                "takes."
            )
        if self.overlap is not None and self.tile == 0:
            raise ConfigError(
                "Expected --tile with --overlap, found none: name the side of a tile."
            )
        own = SamplingSettings(
            DEFAULT_STEPS if self.steps is None else self.steps,
            self.sampler or DEFAULT_SAMPLER,
            self.strength,
            self.decoder_strength,
            self.tile,
            self._overlap(),
            self.tile_batch,
            self.start,
            self.decode,
            self.decode_tile,
            compile=self.compile,
        )
        return self._released(own) if self.is_released else own

    def _overlap(self) -> int:
        if self.overlap is not None:
            return self.overlap
        return DEFAULT_OVERLAP if self.tile == 0 else default_overlap(self.tile)

    def _released(self, own: SamplingSettings) -> SamplingSettings:
        fixed = {
            "--sampler": self.sampler is not None,
            "--tile": self.tile != 0,
            "--start": self.start != 1.0,
            "--decode": self.decode != "auto",
            "--crop": self.crop is not None,
            "--dry-run": self.dry_run,
        }
        given = [name for name, is_given in fixed.items() if is_given]
        if given:
            raise ConfigError(
                f"Expected --recipe released without {', '.join(given)}, which it fixes itself; "
                "leave one of them out."
            )
        steps = _RELEASED_STEPS if self.steps is None else self.steps
        return replace(own, steps=steps, decode="exact")

    def for_size(self, settings: SamplingSettings, height: int, width: int) -> SamplingSettings:
        """The settings for a file: the authors' recipe depends on its size.

        Args:
            settings: From `settings`.
            height: Of the packed planes.
            width: Of the packed planes.
        """
        if not self.is_released:
            return settings
        sampler = released_sampler(height, width)
        if max(height, width) <= TILE_SIZE:
            return replace(settings, sampler=sampler, tile=2 * TILE_SIZE)
        return replace(
            settings, sampler=sampler, tile=_RELEASED_TILE, overlap=_RELEASED_OVERLAP,
            window="released",
        )  # fmt: skip
