"""Generated latents: windows that processes share, the bounded folder, names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.training_runs import RandomPairs, random_group

from ldmsid_core.training.generated import (
    DiskGroups,
    GeneratedGroup,
    GeneratedPool,
    GenerationConfig,
    group_maker,
    slow_drift,
)
from ldmsid_core.training.pairs import BatchPart

CONFIG = GenerationConfig(window=3, group=2, renew_every=2, steps=1)


class _Counted:
    """Makes groups and remembers which."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, number: int) -> GeneratedGroup:
        self.made.append(number)
        return random_group(number)


def test_parts_make_up_the_whole_and_make_their_own_groups_alone() -> None:
    whole = GeneratedPool(random_group, CONFIG).pick(BatchPart(5, 4, 0, 4))
    for start in (0, 2):
        make = _Counted()
        found = GeneratedPool(make, CONFIG).pick(BatchPart(5, 4, start, start + 2))
        for name in ("image", "planes", "latent"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[start : start + 2])
        assert len(make.made) <= 2 and set(make.made) <= {2, 3, 4}


def test_groups_are_used_until_the_window_has_passed() -> None:
    make = _Counted()
    pool = GeneratedPool(make, CONFIG)
    for step in range(20):
        pool.pick(BatchPart(step, 4, 0, 4))
    assert len(make.made) == len(set(make.made)) <= 20 // 2 + 3


def test_names_are_those_of_the_pairs() -> None:
    plain = GeneratedPool(random_group, CONFIG).names(5, count=3)
    named = GeneratedPool(random_group, CONFIG, RandomPairs()).names(5, count=3)
    for place, name in zip(plain, named, strict=True):
        group, number = place.removeprefix("generated ").split("/")
        assert name == f"s{group}n{number}"


def _megabytes(groups: int) -> int:
    group = random_group(0)
    sizes = (t.numel() * 4 for t in (group.image, group.planes, group.latent))
    return 1 + groups * sum(sizes) // 1_000_000


def test_a_folder_gives_back_what_was_made(tmp_path: Path) -> None:
    make = _Counted()
    for _ in range(2):  # the second time as a resumed run
        groups = DiskGroups(make, tmp_path, megabytes=100, key="k")
        for number in (3, 4):
            found, wanted = groups(number), random_group(number)
            assert torch.equal(found.latent, wanted.latent)
            assert torch.equal(found.image, wanted.image)
    assert make.made == [3, 4]


def test_a_folder_keeps_to_its_room_and_drops_the_oldest(tmp_path: Path) -> None:
    room = _megabytes(2)
    groups = DiskGroups(random_group, tmp_path, megabytes=room, key="k")
    for number in range(6):
        groups(number)
    left = sorted(p.name for p in tmp_path.glob("group_*"))
    assert left and left[-1] == "group_000000005.safetensors"
    assert left == sorted(f"group_{n:09d}.safetensors" for n in range(6 - len(left), 6))
    assert sum(p.stat().st_size for p in tmp_path.glob("group_*")) <= room * 1_000_000


def test_groups_of_other_weights_are_made_again(tmp_path: Path) -> None:
    DiskGroups(random_group, tmp_path, megabytes=100, key="old")(1)
    make = _Counted()
    groups = DiskGroups(make, tmp_path, megabytes=100, key="new")
    assert not list(tmp_path.glob("group_*"))
    groups(1)
    groups.clear()
    groups(1)
    assert make.made == [1, 1]


@pytest.mark.parametrize("length", [0, 100])
def test_a_damaged_group_is_made_again(tmp_path: Path, length: int) -> None:
    groups = DiskGroups(random_group, tmp_path, megabytes=100, key="k")
    groups(1)
    path = next(tmp_path.glob("group_*"))
    path.write_bytes(path.read_bytes()[:length])
    assert torch.equal(groups(1).latent, random_group(1).latent)
    assert path.stat().st_size > 1000


def test_drift_is_slow_and_each_sample_has_its_own_strength() -> None:
    field = slow_drift((400, 4, 24, 24), 0.5, seed=3)
    strength = field.std(dim=(1, 2, 3))
    assert strength.min() < 0.1 < 0.35 < strength.max() < 0.8
    neighbours = field.diff(dim=-1).square().mean().sqrt()
    assert neighbours < 0.3 * field.std()
    assert torch.equal(field, slow_drift((400, 4, 24, 24), 0.5, seed=3))
    assert not torch.equal(field, slow_drift((400, 4, 24, 24), 0.5, seed=4))


def test_drift_is_added_to_what_was_generated() -> None:
    def make(drift: float) -> GeneratedGroup:
        return group_maker(
            lambda x, *_: 0.5 * x, RandomPairs(), torch.zeros(2, 8), latent_scale=0.5, crop=64,
            generation=replace(CONFIG, drift=drift),
        )(7)  # fmt: skip

    plain, moved = make(0.0), make(0.4)
    assert torch.equal(plain.image, moved.image)
    assert torch.equal(plain.planes, moved.planes)
    expected = plain.latent + slow_drift((2, 4, 8, 8), 0.4, seed=7)
    assert torch.equal(moved.latent, expected)
    assert not torch.equal(moved.latent, plain.latent)
