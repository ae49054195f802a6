"""The files that a shard was made from, so that a change of them is seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...weight_file import sha256_of


@dataclass(frozen=True)
class SourceFile:
    """One file as it was.

    Attributes:
        path: From the dataset's folder.
        size: In bytes; -1 where it was missing.
        modified_ns: Time of its last change; -1 where it was missing.
        sha256: Of its bytes; empty where it was missing or not used.
    """

    path: str
    size: int
    modified_ns: int
    sha256: str = ""


def describe_source(folder: Path, file: str, *, used: bool) -> SourceFile:
    """The state of a file now; its bytes are read only if it is `used`."""
    path = folder / file
    if not path.is_file():
        return SourceFile(file, -1, -1)
    found = path.stat()
    digest = sha256_of(path) if used else ""
    return SourceFile(file, found.st_size, found.st_mtime_ns, digest)


def has_changed(folder: Path, source: SourceFile) -> bool:
    """Whether a file's bytes are no longer those it had.

    A used file that is gone has not changed: originals may be put away once shards are made. One
    that was not used has changed when its size or time has.
    """
    now = describe_source(folder, source.path, used=False)
    if (now.size, now.modified_ns) == (source.size, source.modified_ns):
        return False
    if not source.sha256:
        return True
    return now.size >= 0 and sha256_of(folder / source.path) != source.sha256
