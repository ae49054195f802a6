"""How a frame is enhanced: steps, strengths, tiles, decode mode."""

from __future__ import annotations

from dataclasses import dataclass

from ..decoding.decode import check_decode
from ..errors import ConfigError
from ..sampling_grid import DEFAULT_STEPS, check_start
from ..tiling import DEFAULT_OVERLAP, WindowName, check_tile
from .schedule import DEFAULT_SAMPLER

MAX_STRENGTH = 2.0


@dataclass(frozen=True)
class SamplingSettings:
    """How a frame is enhanced.

    Attributes:
        steps: Network evaluations.
        sampler: One of `SAMPLER_NAMES`.
        strength: Of UNet taming; 1 tames fully, 0 not at all.
        decoder_strength: The same of decoder taming.
        tile: Side of the tiles that each step is computed in, pixels of the result; 0 chooses by
            work and free memory, a side as long as the frame computes it in one piece.
        overlap: Of neighbouring tiles, pixels of the result.
        tile_batch: Tiles computed in one call; 0 is 1 on a CPU, elsewhere chosen by free memory.
        start: Part of the noise schedule that sampling begins at; 1 is pure noise, less begins
            with the amplified low band.
        decode: One of `DECODE_MODES`.
        decode_tile: Side of the tiles of `bounded` decoding, pixels of the result; 0 chooses.
        window: How tiles are blended.
        compile: Run the UNet through `torch.compile`.
    """

    steps: int = DEFAULT_STEPS
    sampler: str = DEFAULT_SAMPLER
    strength: float = 1.0
    decoder_strength: float = 1.0
    tile: int = 0
    overlap: int = DEFAULT_OVERLAP
    tile_batch: int = 0
    start: float = 1.0
    decode: str = "auto"
    decode_tile: int = 0
    window: WindowName = "smooth"
    compile: bool = False

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: With the value and its range.
        """
        for name in ("strength", "decoder_strength"):
            if not 0.0 <= getattr(self, name) <= MAX_STRENGTH:
                raise ConfigError(
                    f"Expected {name} from 0 to {MAX_STRENGTH:g}, found {getattr(self, name)}."
                )
        if self.tile != 0:
            check_tile(self.tile, self.overlap)
        if self.tile_batch < 0:
            raise ConfigError(f"Expected at least 0 tiles a call, found {self.tile_batch}.")
        check_start(self.start)
        check_decode(self.decode, self.decode_tile)
