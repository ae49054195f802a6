"""Any paired set: a file `pairs.csv` in its folder says which files belong together.

Columns `short` and `long` name the files from the folder on; `ratio` (empty: by EXIF), `split`
(empty: train) and `scene` (empty: the long exposure's name) may follow. It serves LRD and every
other set whose layout this package does not know.
"""

from __future__ import annotations

from pathlib import Path

from ...csv_table import read_csv_table
from ...errors import ConfigError, DatasetError
from ...raw.packing import check_exposure_ratio
from .pairs import SourcePair, check_dataset_folder, select_split

LIST_NAME = "pairs.csv"
_NEEDED = ("short", "long")
_OPTIONAL = ("ratio", "split", "scene")


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


def _parse_row(values: dict[str, str], where: str) -> SourcePair:
    if not all(values[column] for column in _NEEDED):
        raise DatasetError(
            f"Expected a name as {' and '.join(_NEEDED)} in {where}, found "
            f"{[values[column] for column in _NEEDED]}; name both files."
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
            f"{','.join((*_NEEDED, *_OPTIONAL))}, of which the last three may be left out."
        )
    try:
        rows = read_csv_table(path, needed=_NEEDED, optional=_OPTIONAL, what="a list of pairs")
    except ConfigError as error:
        raise DatasetError(str(error)) from error
    pairs = [_parse_row(row, f"{LIST_NAME}, line {number}") for number, row in rows]
    return select_split(pairs, split, folder)
