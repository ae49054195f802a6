"""What the bands alone determine of a decode, kept while the same bands are decoded again."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..ldmsid_core.decoding.bands import HalfCache

_PARTS_OF_A_LEVEL = 4
_SHARE = 4


def halves_bytes(height: int, width: int, widths: Sequence[int], element: int) -> int:
    """Memory that the halves of one frame take.

    Args:
        height: In latents.
        width: In latents.
        widths: Of the decoder's features at levels 3, 2 and 1.
        element: Bytes of a number.
    """
    positions = (height * width * 4**place for place in range(len(widths)))
    sizes = (w * p for w, p in zip(widths, positions, strict=True))
    return _PARTS_OF_A_LEVEL * element * sum(sizes)


@dataclass
class KeptHalves:
    """One entry: the halves of the bands that were decoded last, gone with the bands.

    Attributes:
        key: Recipe, device and dtype that they were made with.
        kept: The halves; None before the second decode.
    """

    key: Any = None
    kept: HalfCache | None = None
    _bands: weakref.ref[Any] | None = field(default=None, repr=False)

    def take(self, bands: Any, key: Any) -> HalfCache | None:
        """Where the halves of some bands are put and found; None at their first decode.

        Args:
            bands: What the halves depend on; not kept alive.
            key: What else they depend on.
        """
        known = self._bands is not None and self._bands() is bands and self.key == key
        if not known:
            self.drop()
            self.key, self._bands = key, weakref.ref(bands, lambda _gone: self.drop())
            return None
        if self.kept is None:
            self.kept = {}
        return self.kept

    def drop(self) -> None:
        """Let the memory go."""
        self.key = self.kept = self._bands = None


def fits(needed: int, free: int) -> bool:
    """Whether halves leave memory for the rest."""
    return needed < free // _SHARE


def element_size(dtype: torch.dtype) -> int:
    """Bytes of a number."""
    return torch.empty(0, dtype=dtype).element_size()
