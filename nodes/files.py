"""RAW files and taming files as ComfyUI finds them, never outside its own folders."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..ldmsid_core.errors import CheckpointError, UnsupportedRawError
from ..ldmsid_core.model_files import EMBEDDED, SAMPLE_RAW
from ..ldmsid_core.raw.loader import RAW_EXTENSIONS

SAMPLE_CHOICE = "[sample] dark"
EMBEDDED_CHOICE = "[embedded] tiny"
_MODEL_FOLDER = "ldmsid"
_TAMING_ENDINGS = {".safetensors"}


def register_model_folder() -> None:
    """Make `models/ldmsid` known, beside paths that the user has configured."""
    default = os.path.join(folder_paths.models_dir, _MODEL_FOLDER)
    folder_paths.add_model_folder_path(_MODEL_FOLDER, default)
    paths, endings = folder_paths.folder_names_and_paths[_MODEL_FOLDER]
    folder_paths.folder_names_and_paths[_MODEL_FOLDER] = (paths, set(endings) | _TAMING_ENDINGS)


class RawList:
    """RAW files under a folder, walked again only when one of its folders has changed."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._root = ""
        self._folders: dict[str, float] = {}
        self._raws: list[str] = []

    def names(self, root: str) -> list[str]:
        """Names relative to `root`, with `/`; links that leave ComfyUI's folders are left out."""
        if root != self._root or not self._folders or self._has_changed():
            files, folders = folder_paths.recursive_search(root)
            roots, inside = _allowed_roots(), {}
            self._raws = []
            for name in sorted(f for f in files if f.lower().endswith(RAW_EXTENSIONS)):
                path = os.path.join(root, name)
                place = path if os.path.islink(path) else os.path.dirname(path)
                if place not in inside:
                    real = os.path.realpath(place)
                    inside[place] = any(_is_inside(real, allowed) for allowed in roots)
                if inside[place]:
                    self._raws.append(name.replace(os.sep, "/"))
            self._root, self._folders = root, dict(folders)
        return list(self._raws)

    def _has_changed(self) -> bool:
        try:
            return any(os.path.getmtime(f) != when for f, when in self._folders.items())
        except OSError:
            return True


_RAW_LIST = RawList()


def raw_choices() -> list[str]:
    """RAW files under the input folder with their subfolders, then the packaged sample."""
    return [*_RAW_LIST.names(folder_paths.get_input_directory()), SAMPLE_CHOICE]


def _allowed_roots() -> list[str]:
    return [
        os.path.realpath(folder)
        for folder in (
            folder_paths.get_input_directory(),
            folder_paths.get_output_directory(),
            folder_paths.get_temp_directory(),
        )
    ]


def _is_inside(path: str, root: str) -> bool:
    try:
        return os.path.commonpath((root, path)) == root
    except ValueError:  # another drive
        return False


def resolve_raw(name: str) -> Path:
    """The file a choice stands for: the sample, or one in the input, output or temp folder.

    Args:
        name: As in the list; `[output]` or `[temp]` at its end name another folder.

    Raises:
        UnsupportedRawError: If the path leaves the three folders, or nothing is there.
    """
    if name == SAMPLE_CHOICE:
        return SAMPLE_RAW
    try:
        path = os.path.realpath(folder_paths.get_annotated_filepath(name))
    except ValueError as error:
        raise _outside(name) from error
    if not any(_is_inside(path, root) for root in _allowed_roots()):
        raise _outside(name)
    if not os.path.isfile(path):
        raise UnsupportedRawError(
            f"Expected a RAW file, but {name} is not in ComfyUI's input folder any more; upload it "
            "again or choose another."
        )
    return Path(path)


def _outside(name: str) -> UnsupportedRawError:
    return UnsupportedRawError(
        f"Expected a file inside ComfyUI's input, output or temp folder, but {name} is outside; "
        "upload it with the button on the node, or copy it into the input folder."
    )


def taming_choices() -> list[str]:
    """Taming files in `models/ldmsid`, then the embedded one."""
    return [*folder_paths.get_filename_list(_MODEL_FOLDER), EMBEDDED_CHOICE]


def resolve_taming(name: str) -> Path:
    """The taming file a choice stands for.

    Raises:
        CheckpointError: If it is not there.
    """
    if name == EMBEDDED_CHOICE:
        return EMBEDDED.taming
    path = folder_paths.get_full_path(_MODEL_FOLDER, name)
    if path is None:
        raise CheckpointError(
            f"Expected a taming file in models/{_MODEL_FOLDER}, but {name} is not there any more; "
            "put it back or choose another."
        )
    return Path(path)


def fingerprint(path: Path) -> str:
    """Changes when the file does; the host saves it in pictures, so it names no folder."""
    status = path.stat()
    return f"{path.name} {status.st_mtime_ns} {status.st_size}"
