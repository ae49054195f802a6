"""The files that a command is given, and where their results go."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import LdmSidError, UnsupportedRawError
from .raw.loader import RAW_EXTENSIONS

Report = dict[str, Any]


def find_raws(names: Sequence[str]) -> tuple[list[Path], list[Report]]:
    """The files that names, folders and globs stand for, in order and without repeats.

    Returns:
        The files, and a report with an error for each folder or glob that holds none.
    """
    found: dict[Path, None] = {}
    reports: list[Report] = []
    for name in names:
        try:
            found.update(dict.fromkeys(_files_of(name)))
        except LdmSidError as error:
            reports.append({"raw": name, "error": " ".join(str(error).split())})
    return list(found), reports


def _files_of(name: str) -> list[Path]:
    """The files of one argument.

    Raises:
        UnsupportedRawError: If a folder or a glob holds no RAW file.
    """
    path = Path(name)
    if path.is_dir():
        try:
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in RAW_EXTENSIONS)
        except OSError as error:
            raise UnsupportedRawError(
                f"Cannot read the folder {path}: {error.strerror}; check its permissions."
            ) from error
        if not inside:
            raise UnsupportedRawError(
                f"Expected RAW files in the folder {path}, found none; known endings are "
                f"{' '.join(RAW_EXTENSIONS)}."
            )
        return inside
    if not path.exists() and glob.has_magic(name):
        inside = sorted(Path(p) for p in glob.glob(name))
        if not inside:
            raise UnsupportedRawError(f"Expected files that match {name}, found none; check it.")
        return inside
    return [path]


def output_paths(raws: list[Path], folder: Path, suffix: str) -> dict[Path, Path]:
    """One result per file; files that share a stem get their ending into the name."""
    stems = Counter(raw.stem.lower() for raw in raws)
    places: dict[Path, Path] = {}
    taken: set[str] = set()
    for raw in raws:
        stem = raw.stem if stems[raw.stem.lower()] == 1 else f"{raw.stem}_{raw.suffix[1:]}"
        name, number = stem, 2
        while name.lower() in taken:
            name, number = f"{stem}_{number}", number + 1
        taken.add(name.lower())
        places[raw] = folder / f"{name}{suffix}"
    return places
