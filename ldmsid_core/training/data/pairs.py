"""What a dataset folder holds: pairs of a short and a long exposure, or pictures alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...errors import DatasetError

Kind = Literal["sid", "eld", "pairs", "folder"]
MISALIGNED = "misaligned"
_NAMED = 3


@dataclass(frozen=True)
class SourcePair:
    """One pair as a dataset lists it; files are named from the dataset's folder.

    Attributes:
        short: The dark RAW; None where a picture stands alone and noise is simulated.
        long: The long exposure, or the picture.
        exposure_ratio: What the list says; None leaves it to EXIF.
        split: `train`, `val`, `test`, or another name from a list.
        scene: Pairs of one scene show the same thing.
        flags: What is known to be wrong with the pair, such as `misaligned`.
        prefers_exif: EXIF's ratio is taken where both files have one, the list's otherwise.
        largest_ratio: Of EXIF's ratio, as the dataset's authors cap it.
    """

    short: str | None
    long: str
    exposure_ratio: float | None = None
    split: str = "train"
    scene: str = ""
    flags: tuple[str, ...] = ()
    prefers_exif: bool = False
    largest_ratio: float = float("inf")

    @property
    def name(self) -> str:
        """What messages call the pair: its dark RAW, else its picture."""
        return self.long if self.short is None else self.short

    @property
    def files(self) -> tuple[str, ...]:
        """All files of the pair."""
        return (self.long,) if self.short is None else (self.short, self.long)


def name_some(names: Sequence[str]) -> str:
    """The first few names, then how many more there are."""
    text = ", ".join(names[:_NAMED])
    rest = len(names) - _NAMED
    return f"{text} and {rest} more" if rest > 0 else text


def check_dataset_folder(folder: Path) -> None:
    """Raise DatasetError unless `folder` is one."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise DatasetError(f"Expected the folder of a dataset, but {folder} {what}; check it.")


def missing_files(folder: Path, pairs: Sequence[SourcePair]) -> list[str]:
    """Files that the list names and the folder lacks, each once, in the list's order."""
    wanted = dict.fromkeys(file for pair in pairs for file in pair.files)
    return [file for file in wanted if not (folder / file).is_file()]


def select_split(pairs: Sequence[SourcePair], split: str, folder: Path) -> tuple[SourcePair, ...]:
    """The pairs of one split; `all` keeps every one.

    Raises:
        DatasetError: If there are none.
    """
    chosen = tuple(pair for pair in pairs if split in ("all", pair.split))
    if not chosen:
        known = ", ".join(sorted({pair.split for pair in pairs})) or "none"
        raise DatasetError(
            f"Expected pairs of the split {split} in {folder}, found those of: {known}; choose "
            "another with --split, or leave it out."
        )
    return chosen
