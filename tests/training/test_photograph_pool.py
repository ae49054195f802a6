"""Photographs as clean images: the interface of `ImagePool`, repeatable, and fit for `darken`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.datasets import scene_picture, truncate, write_pictures, write_sid
from PIL import Image

from ldmsid_core.errors import ConfigError, DatasetError
from ldmsid_core.training.darkness import DarknessConfig, darken
from ldmsid_core.training.data.photograph_pool import PhotographPool
from ldmsid_core.training.data.prepare import prepare_dataset


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_pictures(folder / "in", count=6)
    prepare_dataset(folder / "in", folder / "out", kind="folder")
    return folder / "out"


def test_batches_follow_from_seed_and_step_alone(shards: Path) -> None:
    pool = PhotographPool(shards, seed=2)
    batches = [pool.batch(step, count=3, crop=16) for step in range(4)]
    assert len(pool) == 6
    assert batches[0].shape == (3, 3, 16, 16)
    assert all(batch.min() >= 0.0 and batch.max() <= 1.0 for batch in batches)
    again = PhotographPool(shards, seed=2)
    assert all(torch.equal(again.batch(s, count=3, crop=16), batches[s]) for s in (3, 1, 0, 2))
    assert not torch.equal(batches[0], batches[1])
    assert not torch.equal(PhotographPool(shards, seed=3).batch(0, count=3, crop=16), batches[0])


def test_a_crop_at_full_size_is_the_photograph(shards: Path) -> None:
    wanted = [scene_picture(40, 48, seed=n).transpose(2, 0, 1) / 255.0 for n in range(6)]
    found = set()
    for image in PhotographPool(shards, seed=2).batch(0, count=8, crop=40).numpy():
        fits = {
            (number, mirrored)
            for number, whole in enumerate(wanted)
            for mirrored in (False, True)
            for left in range(9)
            if np.allclose(
                image[:, :, ::-1] if mirrored else image, whole[:, :, left : left + 40], atol=1e-6
            )
        }
        assert len(fits) == 1
        found |= fits
    assert {mirrored for _, mirrored in found} == {False, True}


def test_a_crop_as_large_as_the_photograph_is_not_scaled(tmp_path: Path) -> None:
    """64 is one of the sides whose logarithm's exponential is a little less."""
    picture = scene_picture(64, 64, seed=1)
    (tmp_path / "in").mkdir()
    Image.fromarray(picture).save(tmp_path / "in" / "one.png")
    prepare_dataset(tmp_path / "in", tmp_path / "out", kind="folder")
    (found,) = PhotographPool(tmp_path / "out", seed=2).batch(0, count=1, crop=64).numpy()
    wanted = picture.transpose(2, 0, 1) / 255.0
    # 8-bit values over 255 in float32 and in float64.
    assert any(np.allclose(way, wanted, atol=1e-6) for way in (found, found[:, :, ::-1]))


def test_noise_is_new_while_the_photograph_stays(shards: Path) -> None:
    image = PhotographPool(shards, seed=2).batch(0, count=2, crop=16)
    first, second = (darken(image, DarknessConfig(), seed=(1, step)) for step in (0, 1))
    assert first.shape == (2, 4, 16, 16)
    assert not torch.equal(first, second)


def test_photographs_smaller_than_the_crop_are_passed_over(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", count=1)
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "in" / "black.png")
    prepare_dataset(tmp_path / "in", tmp_path / "out", kind="folder")
    pool = PhotographPool(tmp_path / "out", seed=1)
    assert pool.batch(0, count=4, crop=64).max() == 0.0
    with pytest.raises(ConfigError, match=r"at most 200 pixels.*found 201"):
        pool.batch(0, count=1, crop=201)


def test_truths_of_pairs_serve_once_a_scene_and_by_split(tmp_path: Path) -> None:
    write_sid(tmp_path / "sid", scenes=2, shorts=2)
    write_sid(tmp_path / "sid", scenes=1, shorts=1, split="test", first=7)
    prepare_dataset(tmp_path / "sid", tmp_path / "out", kind="sid")
    assert len(PhotographPool(tmp_path / "out", seed=1)) == 2
    assert len(PhotographPool(tmp_path / "out", seed=1, split="all")) == 3
    with pytest.raises(DatasetError, match="split val"):
        PhotographPool(tmp_path / "out", seed=1, split="val")


def test_shards_that_break_meanwhile_are_listed_and_replaced_alike(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", count=6)
    prepare_dataset(tmp_path / "in", tmp_path / "out", kind="folder")
    pool, other = (PhotographPool(tmp_path / "out", seed=1) for _ in range(2))
    truncate(tmp_path / "out" / "shard-00001.safetensors")
    batches = [pool.batch(step, count=4, crop=16) for step in range(3)]
    again = [other.batch(step, count=4, crop=16) for step in (2, 1, 0)][::-1]
    assert all(torch.equal(*both) for both in zip(batches, again, strict=True))
    assert [skip.name for skip in pool.skipped] == ["photo4.png", "photo5.png"]
    truncate(tmp_path / "out" / "shard-00000.safetensors")
    with pytest.raises(DatasetError, match="16 photographs in a row"):
        pool.batch(9, count=1, crop=16)
