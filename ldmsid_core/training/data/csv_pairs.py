"""Any paired set: a file `pairs.csv` in its folder says which files belong together.

Columns `short` and `long` name the files from the folder on; `ratio` (empty: by EXIF), `split`
(empty: train) and `scene` (empty: the long exposure's name) may follow. It serves LRD and every
other set whose layout this package does not know.
"""

from __future__ import annotations

import csv
from pathlib import Path

from ...errors import ConfigError, DatasetError
from ...raw.packing import check_exposure_ratio
from .pairs import SourcePair, check_dataset_folder, select_split

LIST_NAME = "pairs.csv"
_NEEDED = ("short", "long")
_COLUMNS = (*_NEEDED, "ratio", "split", "scene")


def _ratio(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        return check_exposure_ratio(float(text))
    except ConfigError as error:
        raise DatasetError(f"{where}: {error}") from error
    except ValueError as error:
        raise DatasetError(
            f"Expected a number or nothing as ratio in {where}, found {text!r}."
        ) from error


def _parse_row(row: dict[str | None, str | None], where: str) -> SourcePair:
    values = {column: (row.get(column) or "").strip() for column in _COLUMNS}
    if None in row or not all(values[column] for column in _NEEDED):
        raise DatasetError(
            f"Expected {', '.join(_NEEDED)} and as many values as the first line has columns in "
            f"{where}, found {[v for v in row.values() if v]}."
        )
    return SourcePair(
        values["short"],
        values["long"],
        _ratio(values["ratio"], where),
        values["split"] or "train",
        values["scene"] or Path(values["long"]).stem,
    )


def list_csv_pairs(folder: Path, *, split: str) -> tuple[SourcePair, ...]:
    """The pairs of `pairs.csv`.

    Args:
        folder: Holds `pairs.csv`.
        split: One that the file names, or `all`.

    Raises:
        DatasetError: If the file is missing, a column is unknown or missing, or a ratio is none.
    """
    check_dataset_folder(folder)
    path = folder / LIST_NAME
    if not path.is_file():
        raise DatasetError(
            f"Expected the list {path}, but it does not exist; write one with the columns "
            f"{','.join(_COLUMNS)}, of which the last three may be left out."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            rows = [(reader.line_num, dict(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"Expected UTF-8 text with commas in {path}, found {error}.") from error
    strange = sorted(set(columns) - set(_COLUMNS)) + [c for c in _NEEDED if c not in columns]
    if strange:
        raise DatasetError(
            f"Expected the columns {','.join(_COLUMNS)} in {path}, of which the first two are "
            f"needed, found {','.join(columns)}; correct its first line."
        )
    pairs = [_parse_row(row, f"{LIST_NAME}, line {number}") for number, row in rows]
    return select_split(pairs, split, folder)
