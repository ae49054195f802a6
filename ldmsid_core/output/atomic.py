"""Files that appear whole or not at all, and never in place of another unless asked."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import OutputError


def refuse_existing(path: Path, *, overwrite: bool) -> None:
    """Raise OutputError if a file is there that nobody allowed to replace, or a symbolic link."""
    if path.is_symlink():
        raise OutputError(
            f"Expected a file name for the result, but {path} is a symbolic link; name the file "
            "that it points to, or remove the link."
        )
    if path.is_dir():
        raise OutputError(f"Expected a file name for the result, but {path} is a folder.")
    if path.exists() and not overwrite:
        raise OutputError(
            f"{path} exists already and was kept; give --overwrite or another output name."
        )


@contextmanager
def written_atomically(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A temporary name in the same folder that becomes `path` when the block succeeds.

    Args:
        path: The final name; its folder is made if needed.
        overwrite: Replace an existing file.

    Yields:
        The temporary name, with the same ending.

    Raises:
        OutputError: If the file exists, or the folder or the disk takes no file.
    """
    refuse_existing(path, overwrite=overwrite)
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        refuse_existing(path, overwrite=overwrite)
        os.replace(partial, path)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(
            f"Cannot write {path}: {error.strerror or error}. Check that the folder exists, may be "
            "written to and has room."
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def touch_for_mode(path: Path) -> int:
    """Make an empty file as everything else here makes files, and say with which permissions.

    Libraries that write privately for safety ignore the umask, which only a new file tells safely.

    Returns:
        For `chmod` once the library has written.
    """
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)


def check_folder(folder: Path) -> None:
    """Make an output folder and see that it takes files, before long work starts.

    Raises:
        OutputError: If it cannot be made or written to.
    """
    probe = folder / f".{secrets.token_hex(4)}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"Cannot write into the folder {folder}: {error.strerror or error}. Choose another "
            "with -o."
        ) from error
