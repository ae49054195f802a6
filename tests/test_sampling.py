"""The sampling loop, the engine and the pipeline on a small random model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.raws import write_test_dng
from helpers.tiny_model import load_model

from ldmsid_core.errors import ConfigError, NonFiniteError
from ldmsid_core.hosts.dtypes import choose_device, choose_dtype
from ldmsid_core.hosts.engine import ready_engine
from ldmsid_core.hosts.sampling import sample_latent
from ldmsid_core.hosts.schedule import SAMPLER_NAMES, make_scheduler, set_steps
from ldmsid_core.hosts.settings import SamplingSettings
from ldmsid_core.pipeline import enhance
from ldmsid_core.raw.loader import load_raw
from ldmsid_core.raw.packed_raw import PackedRaw
from ldmsid_core.sampling_grid import initial_noise, trailing_timesteps

CPU = torch.device("cpu")


def exact_noise_for(target: torch.Tensor) -> object:
    """A network that knows the clean latent: it returns exactly the noise in what it sees."""
    alphas = make_scheduler("ddim").alphas_cumprod

    def predict(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        alpha = alphas[timestep.long()][:, None, None, None]
        return (latent - alpha.sqrt() * target) / (1 - alpha).sqrt()

    return predict


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_a_perfect_network_gives_the_clean_latent(sampler: str) -> None:
    target = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    noise = initial_noise((2, 4, 8, 8), seed=1)
    found = sample_latent(exact_noise_for(target), noise, steps=10, sampler=sampler)  # type: ignore[arg-type]
    # The released DDIM neither starts at pure noise nor ends at none; the others do.
    assert torch.allclose(found, target, atol=0.25 if sampler == "ddim-released" else 1e-3)


def test_our_samplers_start_at_pure_noise_and_the_released_one_does_not() -> None:
    for name in ("dpmpp-2m", "unipc", "ddim"):
        scheduler = make_scheduler(name)
        scheduler.set_timesteps(5)
        assert int(scheduler.timesteps[0]) == 999
    released = make_scheduler("ddim-released")
    released.set_timesteps(5)
    assert released.timesteps.tolist() == [800, 600, 400, 200, 0]


def test_noise_comes_from_the_seed_alone() -> None:
    assert torch.equal(initial_noise((1, 4, 8, 8), 7), initial_noise((1, 4, 8, 8), 7))
    assert not torch.equal(initial_noise((1, 4, 8, 8), 7), initial_noise((1, 4, 8, 8), 8))


def test_bad_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="sampler"):
        make_scheduler("euler")
    with pytest.raises(ConfigError, match="1 to 1000"):
        sample_latent(lambda x, t: x, torch.zeros(1, 4, 8, 8), steps=0)
    with pytest.raises(ConfigError, match="device"):
        choose_device("warp")
    with pytest.raises(ConfigError, match="dtype"):
        choose_dtype("int8", CPU)


def test_nan_from_the_network_is_named_with_its_timestep() -> None:
    with pytest.raises(NonFiniteError, match="timestep 999"):
        sample_latent(lambda x, t: x * float("nan"), torch.zeros(1, 4, 8, 8), steps=2)


def test_nan_is_found_at_the_end_where_steps_are_not_checked() -> None:
    """As on a GPU: each look at a result would wait for the device."""
    asked, called = [], []

    def predict(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        called.append(int(timestep[0]))
        return latent * (float("nan") if int(timestep[0]) < 600 else 0.1)

    def culprit(latent: torch.Tensor, timestep: torch.Tensor) -> str:
        assert latent.isfinite().all()
        asked.append(int(timestep[0]))
        return "UNet: conv_in"

    inside: list[float] = []

    @contextmanager
    def around(timestep: float) -> Iterator[None]:
        inside.append(timestep)
        before = len(called) + len(asked)
        yield
        assert len(called) + len(asked) > before

    with pytest.raises(NonFiniteError, match="timestep 499, first in UNet: conv_in;"):
        sample_latent(
            predict, initial_noise((1, 4, 8, 8), 0), steps=4, check_steps=False, culprit=culprit,
            around=around,
        )  # fmt: skip
    assert asked == [499]
    assert called == inside == [999, 749, 499, 249, 999, 749, 499]


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_checking_every_step_changes_nothing(sampler: str) -> None:
    noise = initial_noise((1, 4, 8, 8), 2)
    found = [
        sample_latent(
            lambda x, t: 0.3 * x.tanh(), noise, steps=5, sampler=sampler, check_steps=check, seed=4
        )
        for check in (None, True, False)
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


OURS = [name for name in SAMPLER_NAMES if not name.endswith("-released")]


@pytest.mark.parametrize("sampler", OURS)
@pytest.mark.parametrize("start", [0.02, 0.4, 0.95])
def test_a_later_start_finds_the_clean_latent_too(sampler: str, start: float) -> None:
    target = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    begin = target + 0.2
    asked: list[int] = []
    clean = exact_noise_for(target)

    def predict(latent: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        asked.append(int(timestep[0]))
        return clean(latent, timestep)  # type: ignore[operator]

    noise = initial_noise((2, 4, 8, 8), seed=1)
    found = sample_latent(predict, noise, steps=6, sampler=sampler, begin=begin, start=start)
    assert asked == trailing_timesteps(6, start=start)
    assert torch.allclose(found, target, atol=1e-3)


@pytest.mark.parametrize("sampler", OURS)
def test_what_sampling_begins_with_is_the_picture_with_the_noise_of_its_timestep(
    sampler: str,
) -> None:
    begin, noise = torch.full((1, 4, 8, 8), 2.0), initial_noise((1, 4, 8, 8), 3)
    seen: list[torch.Tensor] = []

    def predict(latent: torch.Tensor, _timestep: torch.Tensor) -> torch.Tensor:
        seen.append(latent)
        return noise

    found = sample_latent(predict, noise, steps=2, sampler=sampler, begin=begin, start=0.3)
    alpha = make_scheduler("ddim").alphas_cumprod[299]
    torch.testing.assert_close(seen[0], alpha.sqrt() * begin + (1 - alpha).sqrt() * noise)
    assert torch.allclose(found, begin, atol=1e-4)


def test_start_1_ignores_a_picture_bit_for_bit() -> None:
    noise = initial_noise((1, 4, 8, 8), 3)
    found = [
        sample_latent(lambda x, t: 0.5 * x, noise, steps=3, **extra)
        for extra in ({}, {"start": 1.0}, {"start": 1.0, "begin": torch.ones(1, 4, 8, 8)})
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("sampler", ["ddim-released", "ddpm-released"])
def test_released_samplers_have_no_later_start(sampler: str) -> None:
    scheduler = make_scheduler(sampler)
    set_steps(scheduler, sampler, 4, start=1.0)
    with pytest.raises(ConfigError, match=rf"start 1 with the sampler {sampler}, found 0\.5"):
        set_steps(scheduler, sampler, 4, start=0.5)


def test_a_later_start_needs_a_picture() -> None:
    with pytest.raises(ConfigError, match=r"to begin with at start 0\.5, found none"):
        sample_latent(lambda x, t: x, torch.zeros(1, 4, 8, 8), steps=2, start=0.5)
    with pytest.raises(ConfigError, match="found 1\\.5"):
        sample_latent(lambda x, t: x, torch.zeros(1, 4, 8, 8), steps=2, start=1.5)


@pytest.fixture
def raw(tmp_path: Path) -> PackedRaw:
    write_test_dng(tmp_path / "a.dng", height=90, width=134, orientation=6)
    return load_raw(tmp_path / "a.dng")


def run(folder: Path, raw: PackedRaw, *, seed: int = 0, dtype: torch.dtype = torch.float32,
        sampler: str = "dpmpp-2m") -> torch.Tensor:  # fmt: skip
    host, taming = load_model(folder)
    settings = SamplingSettings(steps=3, sampler=sampler)
    with ready_engine(host, taming, device=CPU, dtype=dtype, settings=settings) as (s, d):
        result = enhance(
            raw, taming.header.input_recipe, exposure_ratio=5.0, seed=seed, sample=s, decode=d
        )
    return result.image


def test_size_orientation_and_range(tmp_path: Path, raw: PackedRaw) -> None:
    image = run(tmp_path, raw)
    # 90 x 134 on the sensor, half of that, turned by a quarter.
    assert image.shape == (1, 3, 67, 45)
    assert image.min() >= 0 and image.max() <= 1 and image.std() > 0
    upright = run(tmp_path, replace(raw, orientation=0))
    assert torch.equal(image, upright.flip(-2).transpose(-1, -2))


def test_seed_decides_and_inputs_stay(tmp_path: Path, raw: PackedRaw) -> None:
    before = raw.planes.clone()
    first, again, other = (run(tmp_path, raw, seed=s) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(raw.planes, before)


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler_runs(tmp_path: Path, raw: PackedRaw, sampler: str) -> None:
    assert run(tmp_path, raw, sampler=sampler).isfinite().all()


def test_bf16_is_near_fp32(tmp_path: Path, raw: PackedRaw) -> None:
    exact, coarse = run(tmp_path, raw), run(tmp_path, raw, dtype=torch.bfloat16)
    # bfloat16 has 8 bits of mantissa; three steps and a decode add up.
    assert float((exact - coarse).abs().mean()) < 0.03


def test_bf16_keeps_more_levels_than_bf16_has(tmp_path: Path, raw: PackedRaw) -> None:
    image = run(tmp_path, raw, dtype=torch.bfloat16)
    assert len(image.unique()) > 2000


def test_nan_weights_are_named_by_the_result(tmp_path: Path, raw: PackedRaw) -> None:
    host, taming = load_model(tmp_path)
    assert taming.decoder is not None
    taming.decoder.fusion(1).shift[0].bias.fill_(float("nan"))  # type: ignore[operator,union-attr]
    with (
        ready_engine(host, taming, device=CPU, dtype=torch.float32) as (sample, decode),
        pytest.raises(NonFiniteError, match=r"first in decoder taming: levels\.1\.shift\.0"),
    ):
        enhance(raw, taming.header.input_recipe, exposure_ratio=5.0, seed=0, sample=sample,
                decode=decode)  # fmt: skip
