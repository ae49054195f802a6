"""Which result belongs to which truth: by name, or by a list in a CSV file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..csv_table import read_csv_table
from ..errors import ConfigError
from ..raw.loader import RAW_EXTENSIONS
from ..raw.packing import check_exposure_ratio
from .pictures import PICTURE_ENDINGS

TRUTH_SUFFIX = "_truth"
_NEEDED, _OPTIONAL = ("result", "truth"), ("ratio", "group")
_ENDINGS = (*PICTURE_ENDINGS, *RAW_EXTENSIONS)
_SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """One dark picture and its truth.

    Attributes:
        image: Stem of the result or RAW.
        truth: The picture to compare with.
        exposure_ratio: None where the list does not say.
        group: Named group; None where the list does not say.
    """

    image: str
    truth: Path
    exposure_ratio: float | None = None
    group: str | None = None


@dataclass(frozen=True)
class Matching:
    """What was matched in one folder, and what was not.

    Attributes:
        files: By pair, those that are there.
        missing: Images of the list, or truths, without a file here.
        surplus: Files here without a truth.
    """

    files: Mapping[Pair, Path]
    missing: tuple[str, ...]
    surplus: tuple[str, ...]

    def sentences(self, route: str) -> list[str]:
        """What a report must say."""
        said = []
        for names, what in (
            (self.missing, "missing"), (self.surplus, "without a truth, not scored"),
        ):  # fmt: skip
            if names:
                said.append(f"{route}: {len(names)} {what}: {', '.join(names)}")
        return said


def list_files(folder: Path, endings: Iterable[str], what: str) -> dict[str, Path]:
    """Files of a folder by stem.

    Args:
        folder: The folder; those inside it are not looked into.
        endings: In small letters, with their dot.
        what: In errors: `PNG or TIFF results`.

    Raises:
        ConfigError: If there is no such folder, nothing in it, or a stem twice.
    """
    known = tuple(endings)
    try:
        inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    except OSError as error:
        raise ConfigError(
            f"Expected a folder with {what}, but {folder} cannot be read ({error.strerror}); "
            "check it."
        ) from error
    found: dict[str, Path] = {}
    for path in inside:
        if path.suffix.lower() not in known:
            continue
        if path.stem in found:
            raise ConfigError(
                f"Expected one file a name in {folder}, found {found[path.stem].name} and "
                f"{path.name}; move one of them away."
            )
        found[path.stem] = path
    if not found:
        raise ConfigError(
            f"Expected {what} in the folder {folder}, found none among {len(inside)} files; "
            f"endings read are {' '.join(known)}."
        )
    return found


def pairs_by_name(truths: Mapping[str, Path]) -> tuple[Pair, ...]:
    """One pair a truth: its image has the same stem, without `_truth` at its end.

    Raises:
        ConfigError: If two truths would serve one image.
    """
    pairs: dict[str, Pair] = {}
    for stem, path in truths.items():
        image = stem.removesuffix(TRUTH_SUFFIX) or stem
        if image in pairs:
            raise ConfigError(
                f"Expected one truth for {image}, found {pairs[image].truth} and {path}; move one "
                "of them away."
            )
        pairs[image] = Pair(image, path)
    return tuple(pairs.values())


def read_pair_list(path: Path, truths: Mapping[str, Path]) -> tuple[Pair, ...]:
    """The pairs of a CSV file with the columns result, truth and, if wanted, ratio and group.

    Names are file names or stems: `result` in each folder of results (or of RAW files), `truth`
    in the folder of truths. Empty cells of ratio and group are allowed.

    Raises:
        ConfigError: If the file, a column, a number or a truth is not there, or an image is twice.
    """
    pairs: dict[str, Pair] = {}
    rows = read_csv_table(path, needed=_NEEDED, optional=_OPTIONAL, what="a list of pairs")
    for line, row in rows:
        where = f"line {line} of {path}"
        image, stem = _stem(row["result"]), _stem(row["truth"])
        if not image or stem not in truths:
            raise ConfigError(
                f"Expected a result and a truth of the folder of truths in {where}, found "
                f"{row['result']!r} and {row['truth']!r}; check the names."
            )
        if image in pairs:
            raise ConfigError(f"Expected every result once, found {image} again in {where}.")
        exposure_ratio, group = _ratio(row["ratio"], where), row["group"] or None
        pairs[image] = Pair(image, truths[stem], exposure_ratio, group)
    if not pairs:
        raise ConfigError(f"Expected at least one pair in {path}, found none; list them.")
    return tuple(pairs.values())


def _stem(name: str) -> str:
    """Without a known ending; other dots belong to the name, as in `00001_00_0.1s`."""
    path = Path(name)
    return path.stem if path.suffix.lower() in _ENDINGS else path.name


def _ratio(text: str, where: str) -> float | None:
    if not text:
        return None
    try:
        return check_exposure_ratio(float(text))
    except ValueError as error:
        raise ConfigError(
            f"Expected an exposure ratio of at least 1 in {where}, found {text!r}; correct it."
        ) from error


def match(pairs: Sequence[Pair], files: Mapping[str, Path], folder: Path) -> Matching:
    """The files of a folder by pair.

    Raises:
        ConfigError: If none matches.
    """
    found = {pair: files[pair.image] for pair in pairs if pair.image in files}
    if not found:
        raise ConfigError(
            f"Expected files in {folder} named like the truths, found no match: results are "
            f"{_some(files)}, truths want {_some(pair.image for pair in pairs)}; rename them or "
            "list them with --pairs."
        )
    missing = tuple(pair.image for pair in pairs if pair.image not in files)
    wanted = {pair.image for pair in pairs}
    surplus = tuple(path.name for stem, path in files.items() if stem not in wanted)
    return Matching(found, missing, surplus)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
