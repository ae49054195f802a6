"""Batches of pairs: what is in them, that they repeat exactly, and what reading them costs."""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.datasets import truncate, write_pictures, write_sid
from helpers.raws import ROOT
from torch import Tensor

from ldmsid_core.errors import ConfigError, DatasetError
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.raw.packing import network_planes
from ldmsid_core.taming.header import InputRecipe
from ldmsid_core.training.data.bayer_flips import Flips, flip_planes, flip_truth
from ldmsid_core.training.data.paired_crops import PairedBatch, PairedCrops
from ldmsid_core.training.data.prefetch import Prefetcher
from ldmsid_core.training.data.prepare import prepare_dataset
from ldmsid_core.training.data.shard_format import Window, read_window
from ldmsid_core.training.data.shard_index import load_index


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    write_sid(folder / "sid", scenes=3, shorts=2)
    write_sid(folder / "sid", scenes=1, shorts=1, split="test", first=10034)
    prepare_dataset(folder / "sid", folder / "out", kind="sid")
    return folder / "sid", folder / "out"


def seen(path: Path, ratio: float, recipe: InputRecipe) -> Tensor:
    """What the network sees of a whole file, by the way that `enhance` goes."""
    raw = load_raw(path)
    gains = raw.white_balance if recipe.white_balance == "as shot" else (1.0, 1.0, 1.0)
    return network_planes(raw.planes, exposure_ratio=ratio, white_balance=gains)[0]


def truth_of(out: Path, name: str) -> Tensor:
    file, pair = next((f, p) for f, p in load_index(out).pairs if p.name == name)
    stored = read_window(out / file, pair.truth, Window(0, 0, pair.height, pair.width))
    return torch.from_numpy(stored).float() / 255.0


def same(first: PairedBatch, second: PairedBatch) -> bool:
    return (
        torch.equal(first.planes, second.planes)
        and torch.equal(first.truth, second.truth)
        and torch.equal(first.exposure_ratios, second.exposure_ratios)
        and first.names == second.names
    )


@pytest.mark.parametrize("white_balance", ["none", "as shot"])
def test_a_crop_is_the_same_place_of_planes_and_truth(
    prepared: tuple[Path, Path], white_balance: str
) -> None:
    sid, out = prepared
    recipe = InputRecipe(white_balance=white_balance)
    crops = PairedCrops(out, seed=3, recipe=recipe, flips="none")
    batch = crops.batch(0, count=6, crop=16)
    assert batch.planes.shape == (6, 4, 16, 16)
    assert batch.truth.shape == (6, 3, 16, 16)
    for planes, truth, ratio, name in zip(
        batch.planes, batch.truth, batch.exposure_ratios.tolist(), batch.names, strict=True
    ):
        windows = truth_of(out, name).unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4)
        ((top, left),) = (windows == truth).flatten(2).all(dim=2).nonzero().tolist()
        whole = seen(sid / name, ratio, recipe)
        # Counts pass through float32 alike on both ways; only the ratio's last bit may differ.
        torch.testing.assert_close(
            planes, whole[:, top : top + 16, left : left + 16], atol=1e-5, rtol=0
        )
    assert batch.planes.min() >= -1.0
    assert batch.planes.max() <= 1.0


@pytest.mark.parametrize("flips", ["cells", "bayer"])
def test_planes_and_truth_are_flipped_together(prepared: tuple[Path, Path], flips: Flips) -> None:
    sid, out = prepared
    crops, found = PairedCrops(out, seed=5, flips=flips), set()
    for step in range(12):
        batch = crops.batch(step, count=1, crop=16)
        name, ratio = batch.names[0], float(batch.exposure_ratios[0])
        planes, truth = seen(sid / name, ratio, InputRecipe()), truth_of(out, name)
        places = {
            (flipped, *place)
            for flipped in itertools.product((False, True), repeat=2)
            for place in same_places(
                flip_planes(planes, flipped, flips=flips, cfa="RGGB"),
                flip_truth(truth, flipped, flips=flips),
                batch,
            )
        }
        assert len(places) == 1
        found.add(places.pop()[0])
    assert len(found) == 4


def same_places(planes: Tensor, truth: Tensor, batch: PairedBatch) -> list[list[int]]:
    """Where in a whole picture both the planes and the truth of a crop lie."""
    fits = None
    for whole, part in ((planes, batch.planes[0]), (truth, batch.truth[0])):
        windows = whole.unfold(1, 16, 1).unfold(2, 16, 1).permute(1, 2, 0, 3, 4)
        # Float32 rounding of the amplified counts; a wrong place differs by whole counts.
        close = ((windows - part).abs() < 1e-5).flatten(2).all(dim=2)
        fits = close if fits is None else fits & close
    assert fits is not None
    return fits.nonzero().tolist()


def test_batches_follow_from_seed_and_step_alone(prepared: tuple[Path, Path]) -> None:
    _, out = prepared
    crops = PairedCrops(out, seed=1)
    forward = [crops.batch(step, count=2, crop=16) for step in range(5)]
    backward = [PairedCrops(out, seed=1).batch(step, count=2, crop=16) for step in (4, 2, 0)]
    assert all(same(*both) for both in zip(forward[::-2], backward, strict=True))
    assert not same(forward[0], PairedCrops(out, seed=2).batch(0, count=2, crop=16))
    assert not same(forward[0], forward[3])  # the second epoch is another
    for threads in (1, 3):
        with Prefetcher(
            lambda step: crops.batch(step, count=2, crop=16), start=2, stop=5, threads=threads
        ) as ahead:
            assert all(same(*both) for both in zip(ahead, forward[2:], strict=True))


def test_each_epoch_goes_through_every_pair_once(prepared: tuple[Path, Path]) -> None:
    crops = PairedCrops(prepared[1], seed=1)
    orders = [
        [name for step in steps for name in crops.batch(step, count=2, crop=8).names]
        for steps in (range(0, 3), range(3, 6), range(6, 9))
    ]
    assert len(crops) == 6
    assert all(len(set(order)) == 6 for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_splits_and_flags(prepared: tuple[Path, Path]) -> None:
    _, out = prepared
    assert len(PairedCrops(out, seed=1, split="all")) == 6
    with pytest.raises(DatasetError, match=r"split test .*flags misaligned; splits there: test"):
        PairedCrops(out, seed=1, split="test")
    test = PairedCrops(out, seed=1, split="test", leave_out=())
    assert test.batch(0, count=1, crop=8).names == ("Sony/short/10034_00_0.04s.ARW",)


def test_too_large_crops_and_photographs_are_refused(
    prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"at most 24 pixels.*found 25"):
        PairedCrops(prepared[1], seed=1).batch(0, count=1, crop=25)
    with pytest.raises(ConfigError, match="one to spare"):
        PairedCrops(prepared[1], seed=1, flips="bayer").batch(0, count=1, crop=24)
    write_pictures(tmp_path / "in", count=1)
    prepare_dataset(tmp_path / "in", tmp_path / "out", kind="folder")
    with pytest.raises(DatasetError, match="found photographs"):
        PairedCrops(tmp_path / "out", seed=1)


def test_shards_that_break_meanwhile_are_listed_and_replaced_alike(tmp_path: Path) -> None:
    listed = write_sid(tmp_path / "sid", scenes=3, shorts=1)
    prepare_dataset(tmp_path / "sid", tmp_path / "out", kind="sid")
    crops, other = (PairedCrops(tmp_path / "out", seed=4) for _ in range(2))
    truncate(tmp_path / "out" / "shard-00001.safetensors")
    first = [crops.batch(step, count=3, crop=8) for step in range(4)]
    again = [other.batch(step, count=3, crop=8) for step in (3, 2, 1, 0)][::-1]
    assert all(same(*both) for both in zip(first, again, strict=True))
    assert [skip.name for skip in crops.skipped] == [listed[1][0]]
    assert "shard-00001" in crops.skipped[0].reason
    assert listed[1][0] not in {name for batch in first for name in batch.names}
    for number in (0, 2):
        truncate(tmp_path / "out" / f"shard-{number:05d}.safetensors")
    with pytest.raises(DatasetError, match="16 pairs in a row"):
        crops.batch(9, count=1, crop=8)


def test_damage_is_refused_when_asked_to_look(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    for path in prepared[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damaged = tmp_path / "shard-00002.safetensors"
    data = damaged.read_bytes()
    damaged.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DatasetError, match="another checksum"):
        PairedCrops(tmp_path, seed=1, whole_check=True)


def test_only_the_pages_of_a_crop_are_read(tmp_path: Path) -> None:
    # A sparse shard of 512 MiB: reading it whole would need as much memory.
    side = 8192
    size = 4 * side * side * 2
    header = {"planes.0": {"dtype": "U16", "shape": [4, side, side], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + size)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from ldmsid_core.training.data.shard_format import Window, read_window\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "piece = read_window(Path(sys.argv[1]), 'planes.0', Window(4000, 4000, 64, 64))\n"
        "assert piece.shape == (4, 64, 64) and not piece.any()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(path)], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    # 256 rows on a page each are 1 MiB; the kernel maps up to 16 pages around each: 16 MiB.
    assert int(done.stdout) < 32 * 1024
