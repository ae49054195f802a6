"""ELD (Wei et al., *A physics-based noise formation model …*, CVPR 2020): a test set of scenes.

Assumed layout, written down from knowledge of its published evaluation and checked against no copy
of the data: `CAMERA/scene-N/IMG_0001.EXT` to `IMG_0016.EXT`. Frames 1, 6, 11, 16 are references;
between them stand three groups of four dark frames at ISO 800, 1600 and 3200, each with the
ratios 1, 10, 100, 200. The reference of a dark frame is the one with the nearest number. EXIF's
ratio, time x ISO of the reference over that of the dark frame, is taken where both files have it.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import DatasetError
from ...raw.loader import RAW_EXTENSIONS
from .pairs import SourcePair, check_dataset_folder, select_split

REFERENCES = (1, 6, 11, 16)
RATIOS = (1.0, 10.0, 100.0, 200.0)
# First frame of each group, which follows a reference.
_GROUPS = (2, 7, 12)
_SCENE = re.compile(r"scene-(\d+)")
_FRAME = re.compile(r"IMG_(\d{4})(\.\w+)")


def _scenes(folder: Path) -> list[Path]:
    """Scene folders by their number."""
    found = [(m, p) for p in folder.iterdir() if p.is_dir() and (m := _SCENE.fullmatch(p.name))]
    return [path for _, path in sorted(found, key=lambda item: int(item[0][1]))]


def _camera_folder(folder: Path) -> Path:
    """The folder itself, or the only one in it that holds scenes.

    Raises:
        DatasetError: If there is none, or several: one set trains one sensor.
    """
    if _scenes(folder):
        return folder
    cameras = sorted(p for p in folder.iterdir() if p.is_dir() and _scenes(p))
    if not cameras:
        raise DatasetError(
            f"Expected folders scene-1, scene-2, … in {folder} or in a camera's folder there, "
            "found none; name the folder of one camera, such as ELD/SonyA7S2."
        )
    if len(cameras) > 1:
        names = " and ".join(camera.name for camera in cameras)
        raise DatasetError(
            f"Expected the scenes of one camera in {folder}, found those of {names}: weights are "
            f"trained for one sensor. Name one camera's folder, such as {cameras[0]}."
        )
    return cameras[0]


def _scene_pairs(scene: Path, root: Path) -> list[SourcePair]:
    frames: dict[int, str] = {}
    for path in sorted(scene.iterdir()):
        found = _FRAME.fullmatch(path.name)
        if found and found[2].lower() in RAW_EXTENSIONS:
            frames[int(found[1])] = path.relative_to(root).as_posix()
    ending = Path(next(iter(frames.values()))).suffix if frames else ".*"
    prefix = scene.relative_to(root).as_posix()

    def file_of(frame: int) -> str:
        return frames.get(frame, f"{prefix}/IMG_{frame:04d}{ending}")

    def pair_of(frame: int, ratio: float) -> SourcePair:
        reference = min(REFERENCES, key=lambda number: abs(number - frame))
        return SourcePair(
            file_of(frame), file_of(reference), ratio, "test", scene.name, prefers_exif=True
        )

    return [
        pair_of(first + place, ratio) for first in _GROUPS for place, ratio in enumerate(RATIOS)
    ]


def list_eld(folder: Path, *, split: str) -> tuple[SourcePair, ...]:
    """The pairs of all scenes of one camera; every one belongs to the split `test`.

    Args:
        folder: A camera's folder, or one that holds a single camera's folder.
        split: `test` or `all`.

    Raises:
        DatasetError: If there are no scenes, or those of several cameras.
    """
    check_dataset_folder(folder)
    camera = _camera_folder(folder)
    pairs = [pair for scene in _scenes(camera) for pair in _scene_pairs(scene, folder)]
    return select_split(pairs, split, folder)
