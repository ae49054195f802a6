"""`index.json`: the shards of a folder with their checksums, sources and what was skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ConfigError, DatasetError
from ...output.atomic import written_atomically
from ...taming.configs import config_from_dict
from ...weight_file import sha256_of
from .shard_format import FORMAT, ShardPair, pair_from_dict
from .sources import SourceFile

INDEX_NAME = "index.json"


@dataclass(frozen=True)
class Skipped:
    """A pair that could not be prepared.

    Attributes:
        name: The pair.
        reason: Why.
        missing: Whether a file of it does not exist.
    """

    name: str
    reason: str
    missing: bool = False


@dataclass(frozen=True)
class ShardEntry:
    """One shard.

    Attributes:
        number: Its place in the plan.
        file: Its name in the folder; empty where every pair was skipped.
        size: In bytes.
        sha256: Of its bytes.
        pairs: What it holds.
        sources: The files it was made from, those of skipped pairs too.
        skipped: Pairs that it should hold and does not.
    """

    number: int
    file: str = ""
    size: int = 0
    sha256: str = ""
    pairs: tuple[ShardPair, ...] = ()
    sources: tuple[SourceFile, ...] = ()
    skipped: tuple[Skipped, ...] = ()


@dataclass(frozen=True)
class ShardIndex:
    """All shards of a folder.

    Attributes:
        kind: Layout of the dataset.
        split: What was chosen of it.
        plan: sha256 of the list of pairs and how they are dealt out to shards.
        complete: Whether every shard of the plan has been made.
        shards: By number.
    """

    kind: str
    split: str
    plan: str
    complete: bool = False
    shards: Mapping[int, ShardEntry] = field(default_factory=dict)

    @property
    def skipped(self) -> list[Skipped]:
        """All skipped pairs."""
        return [skip for number in sorted(self.shards) for skip in self.shards[number].skipped]

    @property
    def pairs(self) -> list[tuple[str, ShardPair]]:
        """All pairs with the name of their shard, in the plan's order."""
        entries = [self.shards[number] for number in sorted(self.shards)]
        return [(entry.file, pair) for entry in entries for pair in entry.pairs]


def save_index(folder: Path, index: ShardIndex) -> None:
    """Write the index in place of the one before; it appears whole or not at all.

    Raises:
        OutputError: If the disk does not take it.
    """
    values = {
        "format": FORMAT,
        **{k: getattr(index, k) for k in ("kind", "split", "plan", "complete")},
        "shards": [asdict(index.shards[number]) for number in sorted(index.shards)],
    }
    with written_atomically(folder / INDEX_NAME, overwrite=True) as partial:
        partial.write_text(json.dumps(values, indent=1), encoding="utf-8")


def _entry_from_dict(values: Any, source: str) -> ShardEntry:
    parts = {
        "pairs": tuple(pair_from_dict(pair, source=source) for pair in values["pairs"]),
        "sources": tuple(config_from_dict(SourceFile, s, source=source) for s in values["sources"]),
        "skipped": tuple(config_from_dict(Skipped, s, source=source) for s in values["skipped"]),
    }
    plain = {key: value for key, value in values.items() if key not in parts}
    entry = ShardEntry(**asdict(config_from_dict(ShardEntry, plain, source=source)) | parts)
    if Path(entry.file).name != entry.file:
        raise ConfigError(f"{source}: expected a shard's bare file name, found {entry.file!r}.")
    return entry


def load_index(folder: Path) -> ShardIndex:
    """Read the index of a folder of shards.

    Raises:
        DatasetError: If there is none, or it is damaged or of another version.
    """
    path = folder / INDEX_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DatasetError(
            f"Expected a folder of shards, but {path} cannot be read ({error.strerror}); make it "
            "with `ldmsid prepare`."
        ) from error
    except ValueError as error:
        raise DatasetError(f"Expected JSON in {path}, found something else: {error}.") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise DatasetError(
            f"Expected an index of format {FORMAT} in {path}, found another; prepare the shards "
            "again."
        )
    try:
        entries = [_entry_from_dict(entry, str(path)) for entry in values["shards"]]
        return ShardIndex(
            str(values["kind"]), str(values["split"]), str(values["plan"]),
            values["complete"] is True, {entry.number: entry for entry in entries},
        )  # fmt: skip
    except (ConfigError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"Expected an index as this version writes it in {path}, found another ({error}); "
            "prepare the shards again."
        ) from error


def check_shard(folder: Path, entry: ShardEntry, *, whole: bool) -> None:
    """See that a shard is the one that the index means.

    Args:
        folder: Of the shards.
        entry: Of the index.
        whole: Compare the checksum of all its bytes, not only its size.

    Raises:
        DatasetError: If it is missing or another.
    """
    if not entry.file:
        return
    path = folder / entry.file
    if not path.is_file():
        raise DatasetError(
            f"Expected the shard {path}, but it does not exist; run `ldmsid prepare` again."
        )
    size = path.stat().st_size
    if size != entry.size or (whole and sha256_of(path) != entry.sha256):
        what = f"{size} bytes instead of {entry.size}" if size != entry.size else "another checksum"
        raise DatasetError(
            f"Expected the shard {path} as the index describes it, found {what}: it is damaged. "
            "Delete it and run `ldmsid prepare` again."
        )


def load_complete_index(folder: Path, *, whole: bool = False) -> ShardIndex:
    """The index of a folder ready for training, with every shard checked.

    Args:
        folder: Of the shards.
        whole: Compare checksums, which reads every byte, not only sizes.

    Raises:
        DatasetError: If the folder is unfinished, or a shard missing or damaged.
    """
    index = load_index(folder)
    if not index.complete:
        raise DatasetError(
            f"Expected finished shards in {folder}, but `ldmsid prepare` was interrupted after "
            f"{len(index.shards)}; run it again, it goes on where it stopped."
        )
    for number in sorted(index.shards):
        check_shard(folder, index.shards[number], whole=whole)
    return index
