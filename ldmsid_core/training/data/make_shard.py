"""One shard from the files of a dataset: what each worker process does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import ConfigError, DatasetError, UnsupportedRawError
from ...raw.develop_libraw import develop_truth
from ...raw.loader import load_raw
from ...raw.packed_raw import PackedRaw, RawMetadata
from ...weight_file import sha256_of
from .exposures import settle_ratio
from .pairs import SourcePair, missing_files
from .pictures import read_picture
from .shard_format import RawFacts, ShardPair, write_shard
from .shard_index import ShardEntry, Skipped
from .sources import SourceFile, describe_source

# What is wrong with a file, not with the disk that takes the result.
_BAD_FILE = (UnsupportedRawError, DatasetError, ConfigError)
_Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ShardJob:
    """One shard to make.

    Attributes:
        number: Its place in the plan.
        dataset: Folder that the files are named from.
        output: Folder of the shards.
        pairs: Of one long exposure, or photographs.
        replaces: Whether a file of that name may be replaced.
        aside: Leave the shard under a temporary name, that of another being in use.
    """

    number: int
    dataset: Path
    output: Path
    pairs: tuple[SourcePair, ...]
    replaces: bool = False
    aside: bool = False

    @property
    def file(self) -> str:
        """Name of the shard."""
        return f"shard-{self.number:05d}.safetensors"

    @property
    def path(self) -> Path:
        """Where the shard is written."""
        return self.output / (
            self.file if not self.aside else f".{Path(self.file).stem}.partial.safetensors"
        )


def sensor_counts(raw: PackedRaw) -> NDArray[np.uint16]:
    """The counts that `load_raw` normalised, exactly: float32 keeps 16 bits and 8 more.

    Returns:
        `(4, h, w)`.
    """
    black = torch.tensor(raw.black_level)[:, None, None]
    counts = raw.planes[0] * (raw.white_level - black) + black
    return np.asarray(counts.round_().numpy().astype(np.uint16))


def _raw_facts(raw: PackedRaw) -> RawFacts:
    matrix = raw.xyz_to_camera or ()
    return RawFacts(
        cfa=raw.cfa,
        black_level=raw.black_level,
        white_level=raw.white_level,
        white_balance=raw.white_balance,
        white_balance_source=raw.white_balance_source,
        xyz_to_camera=tuple(value for row in matrix for value in row),
        camera=raw.metadata.camera,
        iso=raw.metadata.iso or 0.0,
        shutter_s=raw.metadata.shutter_s or 0.0,
    )


class _Shard:
    """A shard while it is filled."""

    def __init__(self, job: ShardJob) -> None:
        self.job = job
        self.tensors: _Tensors = {}
        self.pairs: list[ShardPair] = []
        self.skipped: list[Skipped] = []
        self._used: set[str] = set()

    def skip(self, pair: SourcePair, reason: Exception) -> None:
        missing = bool(missing_files(self.job.dataset, [pair]))
        self.skipped.append(Skipped(pair.name, " ".join(str(reason).split()), missing))

    def add(
        self, pair: SourcePair, truth: str, size: tuple[int, int], *,
        planes: str = "", ratio: float = 1.0, flags: tuple[str, ...] = (),
        raw: RawFacts | None = None,
    ) -> None:  # fmt: skip
        self._used.update(pair.files)
        self.pairs.append(
            ShardPair(
                pair.name, pair.long, truth, *size, planes, ratio, pair.split, pair.scene,
                (*pair.flags, *flags), raw,
            )
        )  # fmt: skip

    def sources(self) -> tuple[SourceFile, ...]:
        files = dict.fromkeys(file for pair in self.job.pairs for file in pair.files)
        folder = self.job.dataset
        return tuple(describe_source(folder, file, used=file in self._used) for file in files)


def make_shard(job: ShardJob) -> ShardEntry:
    """Read, develop and pack what a job names, and write its shard.

    Pairs whose files are missing, damaged or do not fit together are skipped with the reason.

    Returns:
        What the index says of the shard.

    Raises:
        OutputError: If the shard cannot be written.
    """
    shard = _Shard(job)
    if job.pairs[0].short is None:
        _add_pictures(shard)
    else:
        _add_exposures(shard)
    path = job.path
    if shard.pairs:
        write_shard(path, shard.tensors, tuple(shard.pairs), overwrite=job.replaces)
    return ShardEntry(
        number=job.number,
        file=job.file if shard.pairs else "",
        size=path.stat().st_size if shard.pairs else 0,
        sha256=sha256_of(path) if shard.pairs else "",
        pairs=tuple(shard.pairs),
        sources=shard.sources(),
        skipped=tuple(shard.skipped),
    )


def _add_pictures(shard: _Shard) -> None:
    for pair in shard.job.pairs:
        try:
            picture = read_picture(shard.job.dataset / pair.long)
        except _BAD_FILE as error:
            shard.skip(pair, error)
            continue
        key = f"truth.{len(shard.pairs)}"
        shard.tensors[key] = picture.transpose(2, 0, 1)
        shard.add(pair, key, (picture.shape[0], picture.shape[1]))


def _add_exposures(shard: _Shard) -> None:
    """The dark RAWs of one long exposure, which is developed once."""
    long_path = shard.job.dataset / shard.job.pairs[0].long
    try:
        long = load_raw(long_path)
        size = (long.planes.shape[-2], long.planes.shape[-1])
        truth = develop_truth(long_path, height=size[0], width=size[1])
    except _BAD_FILE as error:
        for pair in shard.job.pairs:
            shard.skip(pair, error)
        return
    for pair in shard.job.pairs:
        try:
            _add_short(shard, pair, size, long.metadata)
        except _BAD_FILE as error:
            shard.skip(pair, error)
    if shard.pairs:
        shard.tensors["truth.0"] = truth.transpose(2, 0, 1)


def _add_short(
    shard: _Shard, pair: SourcePair, size: tuple[int, int], long_metadata: RawMetadata
) -> None:
    short = load_raw(shard.job.dataset / pair.name)
    found = (short.planes.shape[-2], short.planes.shape[-1])
    if found != size:
        raise DatasetError(
            f"Expected {pair.name} and {pair.long} of one size, found packed planes of "
            f"{found[1]}x{found[0]} and {size[1]}x{size[0]}; take both with the same settings."
        )
    ratio, flags = settle_ratio(pair, short.metadata, long_metadata)
    key = f"planes.{len(shard.pairs)}"
    shard.tensors[key] = sensor_counts(short)
    shard.add(
        pair, "truth.0", size, planes=key, ratio=ratio, flags=flags, raw=_raw_facts(short)
    )  # fmt: skip
