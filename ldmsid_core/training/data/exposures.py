"""What the files of a set say of their camera and exposure, held against the list."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...errors import ConfigError, DatasetError, UnsupportedRawError
from ...raw.loader import load_metadata
from ...raw.packed_raw import RawMetadata
from ...raw.packing import check_exposure_ratio
from .pairs import SourcePair

RATIO_DIFFERS = "exif ratio differs"
# Nominal times are rounded: 1/30 s is called 0.033 s, and 1/3-stop steps differ by 26 %.
_TOLERANCE = 0.05


def check_one_camera(folder: Path, files: Iterable[str], cameras: dict[str, str]) -> None:
    """Refuse a set whose RAWs come from several cameras.

    Files that cannot be opened are passed over: they are listed when their turn comes.

    Args:
        folder: The dataset.
        files: RAWs to open.
        cameras: Camera -> an example file, already known; what is found is added.

    Raises:
        DatasetError: If there are two cameras.
    """
    for file in files:
        try:
            camera = load_metadata(folder / file).camera
        except UnsupportedRawError:
            continue
        cameras.setdefault(camera, file)
        if len(cameras) > 1:
            (first, one), (second, other) = list(cameras.items())[:2]
            raise DatasetError(
                f"Expected RAWs of one camera in {folder}, found {first or 'an unnamed one'} "
                f"({one}) and {second or 'an unnamed one'} ({other}): weights are trained for one "
                "sensor. Prepare the files of each camera into a folder of their own."
            )


def exif_ratio(short: RawMetadata, long: RawMetadata) -> float | None:
    """Time x ISO / f-number squared of the long exposure over the short one's; None unless told.

    ISO or aperture that only one of the files tells counts as equal.
    """
    if short.shutter_s is None or long.shutter_s is None:
        return None
    ratio = long.shutter_s / short.shutter_s
    if short.iso is not None and long.iso is not None:
        ratio *= long.iso / short.iso
    if short.aperture is not None and long.aperture is not None:
        ratio *= (short.aperture / long.aperture) ** 2
    return ratio


def settle_ratio(
    pair: SourcePair, short: RawMetadata, long: RawMetadata
) -> tuple[float, tuple[str, ...]]:
    """The exposure ratio of a pair, and flags where list and EXIF disagree by over 5 %.

    Raises:
        DatasetError: If neither tells a ratio.
        ConfigError: If it is below 1 or beyond all use.
    """
    told = exif_ratio(short, long)
    if told is not None:
        told = min(told, pair.largest_ratio)
        told = 1.0 if 1.0 - _TOLERANCE < told < 1.0 else told
    listed = pair.exposure_ratio
    ratio = told if listed is None or (pair.prefers_exif and told is not None) else listed
    if ratio is None:
        raise DatasetError(
            f"Expected an exposure ratio of {pair.name} in the list or exposure times in EXIF, "
            "found neither; add it to the list."
        )
    differs = told is not None and listed is not None and abs(told / listed - 1.0) > _TOLERANCE
    try:
        return check_exposure_ratio(ratio), (RATIO_DIFFERS,) if differs else ()
    except ConfigError as error:
        raise ConfigError(f"{pair.name} with {pair.long}: {error}") from error
