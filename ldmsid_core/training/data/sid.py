"""See-in-the-Dark, Sony part (Chen et al., *Learning to See in the Dark*, CVPR 2018).

As distributed: `Sony/short/*.ARW`, `Sony/long/*.ARW`, and beside `Sony` three lists with lines such
as `./Sony/short/10003_00_0.04s.ARW ./Sony/long/10003_00_10s.ARW ISO200 F8`. The names tell scene
and exposure time; the ratio is the quotient of the times, at most 300.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DatasetError
from .pairs import MISALIGNED, SourcePair, check_dataset_folder, select_split

SPLITS = ("train", "val", "test")
LARGEST_RATIO = 300.0
# Its authors found short and long exposures of these scenes to differ by a movement.
MISALIGNED_SCENES = frozenset({"10034", "10045", "10172"})
_NAME = re.compile(r"(\d+)_\d+_(\d+(?:\.\d+)?)s\.\w+")


def _parse_name(file: str, where: str) -> tuple[str, float]:
    """Scene and exposure time of a file by its name."""
    found = _NAME.fullmatch(Path(file).name)
    if found is None or float(found[2]) <= 0:
        raise DatasetError(
            f"Expected a name such as 10003_00_0.04s.ARW in {where}, found {file}; use the lists "
            "as distributed."
        )
    return found[1], float(found[2])


def _parse_line(line: str, split: str, where: str) -> SourcePair:
    words = line.split()
    if len(words) < 2:
        raise DatasetError(
            f"Expected a short and a long exposure in {where}, found {line.strip()!r}; use the "
            "lists as distributed."
        )
    short, long = (word.removeprefix("./") for word in words[:2])
    scene, short_s = _parse_name(short, where)
    long_scene, long_s = _parse_name(long, where)
    if scene != long_scene or long_s < short_s:
        raise DatasetError(
            f"Expected two exposures of one scene, the longer one second, in {where}, found "
            f"{short} and {long}; use the lists as distributed."
        )
    flags = (MISALIGNED,) if scene in MISALIGNED_SCENES else ()
    return SourcePair(
        short, long, min(long_s / short_s, LARGEST_RATIO), split, scene, flags,
        largest_ratio=LARGEST_RATIO,
    )  # fmt: skip


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"Expected lines of text in {path}, but it cannot be read ({error}); use the lists as "
            "distributed."
        ) from error


def list_sid(folder: Path, *, split: str) -> tuple[SourcePair, ...]:
    """The pairs of the lists `Sony_train_list.txt`, `Sony_val_list.txt`, `Sony_test_list.txt`.

    Args:
        folder: Holds the lists and `Sony`.
        split: One of them, or `all`: those lists that are there.

    Raises:
        DatasetError: If a list is missing, or a line is not as described above.
    """
    check_dataset_folder(folder)
    lists = {name: folder / f"Sony_{name}_list.txt" for name in SPLITS}
    if split in lists and not lists[split].is_file():
        raise DatasetError(
            f"Expected the list {lists[split]}, but it does not exist; name the folder that holds "
            "Sony and its lists."
        )
    if not any(path.is_file() for path in lists.values()):
        raise DatasetError(
            f"Expected Sony_train_list.txt, Sony_val_list.txt or Sony_test_list.txt in {folder}, "
            "found none; name the folder that holds Sony and its lists."
        )
    pairs = [
        _parse_line(line, name, f"{path.name}, line {number}")
        for name, path in lists.items()
        if path.is_file() and split in ("all", name)
        for number, line in enumerate(_lines(path), start=1)
        if line.strip()
    ]
    return select_split(pairs, split, folder)
