"""From the kind of a dataset to its list of pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from .csv_pairs import list_csv_pairs
from .eld import list_eld
from .pairs import Kind, SourcePair
from .pictures import list_pictures
from .sid import list_sid

KINDS: Mapping[Kind, Callable[..., tuple[SourcePair, ...]]] = {
    "sid": list_sid,
    "eld": list_eld,
    "pairs": list_csv_pairs,
    "folder": list_pictures,
}


def list_pairs(folder: Path, *, kind: Kind, split: str = "all") -> tuple[SourcePair, ...]:
    """The pairs of a dataset folder as distributed, without opening a RAW.

    Args:
        folder: The dataset.
        kind: Its layout.
        split: `all`, or one that the layout knows.

    Raises:
        DatasetError: If the folder or a list is not as that layout has it, or holds no pairs.
    """
    return KINDS[kind](folder, split=split)
