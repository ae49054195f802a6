"""Lists of the user as CSV files: named columns, of which some may be left out."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from .errors import ConfigError


def read_csv_table(
    path: Path, *, needed: Sequence[str], optional: Sequence[str], what: str
) -> list[tuple[int, dict[str, str]]]:
    """Rows with their line numbers; each has all columns, without spaces around, empty if absent.

    Args:
        path: UTF-8, commas, the first line names the columns in any order.
        needed: Columns that must be there; their cells may be empty.
        optional: Columns that may be.
        what: In errors: `a list of pairs`.

    Raises:
        ConfigError: If the file cannot be read, a column is missing, unknown or named twice, or a
            row has more cells than columns or lacks a needed one.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, skipinitialspace=True, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(
            f"Expected {what} as UTF-8 text with commas, but {path} cannot be read ({error}); "
            "check it."
        ) from error
    names = lines[0][1] if lines else []
    known = (*needed, *optional)
    if not set(needed) <= set(names) <= set(known) or len(names) != len(set(names)):
        raise ConfigError(
            f"Expected the columns {','.join(needed)} and, if wanted, {','.join(optional)} in "
            f"{path}, found {','.join(names) or 'none'}; name them in its first line."
        )
    fewest = 1 + max(names.index(name) for name in needed)
    for line, cells in lines[1:]:
        if not fewest <= len(cells) <= len(names):
            raise ConfigError(
                f"Expected {len(names)} cells in line {line} of {path}, found {len(cells)}; "
                "check it."
            )
    empty = dict.fromkeys(known, "")
    return [(line, empty | dict(zip(names, cells, strict=False))) for line, cells in lines[1:]]
