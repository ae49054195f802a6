"""Training: determinism, exact resume, what learns and what must not, strict configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ldmsid_core.errors import CheckpointError, ConfigError, NonFiniteError
from ldmsid_core.hosts.host import load_host
from ldmsid_core.taming.checkpoint import load_taming
from ldmsid_core.training.autoencoder import build_tiny_vae
from ldmsid_core.training.config import load_training_config, parse_training_config
from ldmsid_core.training.context import RunOptions
from ldmsid_core.training.darkness import DarknessConfig, darken
from ldmsid_core.training.images import ImagePool
from ldmsid_core.training.loop import StageExtras, run_stage
from ldmsid_core.training.pairs import BatchPart, images_of
from ldmsid_core.training.photographs import (
    EVALUATION_PHOTOGRAPHS,
    TRAINING_PHOTOGRAPHS,
    load_photograph,
)
from ldmsid_core.training.procedural import procedural_image
from ldmsid_core.training.run import train_model
from ldmsid_core.training.stage import StageConfig, learning_rate_factor

TINY = Path(__file__).resolve().parents[1] / "ldmsid_core" / "training" / "configs" / "tiny.json"
QUIET = RunOptions(quiet=True)


def small_config(**changes: Any) -> dict[str, Any]:
    """The embedded model's configuration, cut down to seconds."""
    values = json.loads(TINY.read_text())
    for stage in values["stages"]:
        stage.update(steps=2, batch=1, crop=64, warmup=1)
    values["pool"].update(window=2, side=96, encoded=8)
    values["generation"] = {"window": 2, "group": 1, "renew_every": 1, "steps": 1}
    return {**values, **changes}


def changed_stage(number: int, **changes: Any) -> dict[str, Any]:
    """The same with one stage's settings changed."""
    values = small_config()
    values["stages"][number].update(changes)
    return {"stages": values["stages"]}


def test_images_follow_from_seed_and_number() -> None:
    first, again, other = (procedural_image(s, 3, size=48) for s in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (48, 48, 3) and first.dtype == np.uint8


def test_a_batch_follows_from_the_step_alone() -> None:
    def pool() -> ImagePool:
        return ImagePool(seed=1, window=3, side=80, renew_every=2, photograph_share=0.5)

    direct = pool().batch(5, count=3, crop=64)
    used = pool()
    for step in range(6):
        last = used.batch(step, count=3, crop=64)
    assert torch.equal(direct, last)
    assert direct.shape == (3, 3, 64, 64) and direct.min() >= 0 and direct.max() <= 1


@pytest.mark.parametrize("mosaic", [0.0, 0.5])
def test_a_part_of_the_pool_is_that_of_the_batch_and_makes_no_other_images(
    monkeypatch: pytest.MonkeyPatch, mosaic: float
) -> None:
    def pool() -> ImagePool:
        return ImagePool(
            seed=1, window=50, side=80, renew_every=2, photograph_share=0.3, mosaic=mosaic
        )

    whole = pool().batch(5, count=4, crop=64)
    made: list[int] = []

    def counted(seed: int, index: int, *, size: int) -> Any:
        made.append(index)
        return procedural_image(seed, index, size=size)

    monkeypatch.setattr("ldmsid_core.training.images.procedural_image", counted)
    pool().batch(5, count=4, crop=64)
    all_made, made[:] = made[:], []
    halves = [images_of(pool(), BatchPart(5, 4, start, start + 2), crop=64) for start in (0, 2)]
    assert torch.equal(torch.cat(halves), whole)
    assert made == all_made and len(made) >= 2
    assert mosaic or len(made) <= 4


def test_mosaics_show_four_crops() -> None:
    def edge(mosaic: float) -> float:
        """The step across the middle over that between other neighbours."""
        pool = ImagePool(
            seed=1, window=20, side=80, renew_every=2, photograph_share=0.0, mosaic=mosaic
        )
        images = pool.batch(0, count=24, crop=64)
        assert images.shape == (24, 3, 64, 64)
        steps = sum(images.diff(dim=dim).abs().movedim(dim, 0).flatten(1).mean(1) for dim in (2, 3))
        assert isinstance(steps, torch.Tensor)
        return float(steps[31] / steps.median())

    assert edge(0.0) < 1.5
    assert edge(1.0) > 3.0
    assert edge(0.0) < edge(0.5) < edge(1.0)


def test_evaluation_photographs_are_never_trained_on() -> None:
    assert not set(TRAINING_PHOTOGRAPHS) & set(EVALUATION_PHOTOGRAPHS)
    files = [entry[0] for entry in TRAINING_PHOTOGRAPHS.values()]
    assert not set(files) & {entry[0] for entry in EVALUATION_PHOTOGRAPHS.values()}
    with pytest.raises(ConfigError, match="nobody"):
        load_photograph("nobody")


def test_darkening_is_seeded_and_keeps_brightness() -> None:
    image = torch.full((2, 3, 32, 32), 0.6)
    mild = DarknessConfig(
        iso=(100, 100), exposure_ratio=(1, 1), dark_share=0.0, white_balance_spread=0.0,
        matrix_spread=0.0,
    )  # fmt: skip
    planes = darken(image, mild, seed=(1,))
    # 0.6 in sRGB is 0.3185 in linear light; grey stays grey in a balanced camera.
    assert float(planes.mean()) == pytest.approx(2 * 0.3185 - 1, abs=0.01)
    assert torch.equal(planes, darken(image, mild, seed=(1,)))
    assert not torch.equal(planes, darken(image, mild, seed=(2,)))


def test_black_stays_black_on_average_where_noise_is_not_clipped() -> None:
    black = torch.zeros(1, 3, 64, 64)
    dark = DarknessConfig(
        iso=(1600, 1600), exposure_ratio=(250, 250), dark_share=0.0, white_balance_spread=0.0,
        matrix_spread=0.0,
    )  # fmt: skip
    clipped, kept = (darken(black, dark, seed=(1,), clip=c) for c in ((0.0, 1.0), (-8.0, 8.0)))
    # Half of the noise is below black: without it the mean is 0.4 deviations too bright.
    spread = float(kept.std())
    assert float(clipped.mean()) + 1.0 == pytest.approx(0.4 * spread, rel=0.15)
    assert abs(float(kept.mean()) + 1.0) < 0.1 * spread
    assert torch.equal(kept.clamp(-1.0, 1.0), clipped)


class _Line(nn.Module):
    """Two numbers, one of them frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.learns = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def _run(folder: Path, steps: int, *, stop_at: int | None = None) -> _Line:
    module = _Line()

    def loss(part: BatchPart) -> dict[str, Tensor]:
        if part.step == stop_at:
            raise KeyboardInterrupt
        target = torch.randn(1, generator=torch.Generator().manual_seed(part.step))
        return {"loss": (module.learns + module.frozen - target).pow(2).sum()}

    config = StageConfig(steps=steps, crop=64, learning_rate=0.1, precision="no", save_seconds=0.0)
    run_stage("s", module, loss, config, folder, extras=StageExtras(quiet=True))
    return module


def test_an_interrupted_stage_resumes_exactly(tmp_path: Path) -> None:
    straight = _run(tmp_path / "a", 12)
    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path / "b", 12, stop_at=7)
    resumed = _run(tmp_path / "b", 12)
    assert torch.equal(straight.learns, resumed.learns)
    assert float(straight.frozen.detach()) == 1.0
    assert (tmp_path / "a" / "s.csv").read_text() == (tmp_path / "b" / "s.csv").read_text()


def test_a_loss_that_is_not_finite_stops_and_keeps_the_state(tmp_path: Path) -> None:
    _run(tmp_path, 3)
    before = (tmp_path / "s.state.pt").read_bytes()

    def loss(part: BatchPart) -> dict[str, Tensor]:
        return {"loss": torch.tensor(float("nan"), requires_grad=True)}

    config = StageConfig(steps=5, crop=64, learning_rate=0.1, precision="no")
    with pytest.raises(NonFiniteError, match="step 3"):
        run_stage("s", _Line(), loss, config, tmp_path, extras=StageExtras(quiet=True))
    assert (tmp_path / "s.state.pt").read_bytes() == before


def test_a_damaged_state_is_named_and_kept(tmp_path: Path) -> None:
    _run(tmp_path, 3)
    path = tmp_path / "s.state.pt"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"s\.state\.pt is damaged"):
        _run(tmp_path, 5)
    assert len(path.read_bytes()) == 200


def test_learning_rate_rises_and_falls() -> None:
    config = StageConfig(steps=100, warmup=10)
    factors = [learning_rate_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1) and max(factors) == pytest.approx(1.0)
    assert factors[-1] < 0.001 and factors[9] >= factors[8]


def test_a_fresh_vae_keeps_colour() -> None:
    vae = build_tiny_vae(0)
    colours = torch.tensor([[0.6, -0.4, -0.6], [-0.5, 0.3, -0.2], [-0.4, -0.3, 0.5]])
    flat = colours[:, :, None, None].expand(3, 3, 128, 128)
    picture = torch.cat([flat[:1], flat[1:2], flat[2:]], dim=-1)
    with torch.no_grad():
        found = vae.decode(vae.encode(picture).latent_dist.mean).sample
    for part, colour in enumerate(colours):
        middle = found[0, :, 40:88, 128 * part + 40 : 128 * part + 88].mean(dim=(1, 2))
        assert torch.equal(middle.argsort(), colour.argsort())
        assert float((middle - colour).abs().max()) < 0.5


@pytest.mark.slow
def test_every_stage_runs_exports_resumes_and_starts_warm(tmp_path: Path) -> None:
    config = parse_training_config(small_config(), source="test")
    files = train_model(config, tmp_path / "run", options=QUIET)
    host, taming = load_host(files.host), load_taming(files.taming)
    assert taming.header.host_sha256 == host.sha256
    assert taming.header.input_recipe.white_balance == "as shot"
    assert taming.unet is not None and taming.decoder is not None
    # Two steps have moved the zero-initialised layers of both halves.
    assert any(bool(p.any()) for n, p in taming.unet.named_parameters() if "gamma.weight" in n)
    assert bool(taming.decoder.fusion(1).shift[2].weight.any())  # type: ignore[union-attr]
    first = files.host.read_bytes(), files.taming.read_bytes()
    train_model(config, tmp_path / "run", options=QUIET)
    assert (files.host.read_bytes(), files.taming.read_bytes()) == first
    with pytest.raises(ConfigError, match="seed"):
        other = parse_training_config(small_config(seed=2), source="test")
        train_model(other, tmp_path / "run", options=QUIET)
    values = small_config(warm_start=str(tmp_path / "run"), prediction_type="v_prediction")
    values["stages"] = [stage for stage in values["stages"] if stage["kind"] != "vae"]
    warm = parse_training_config(values, source="test")
    again = train_model(warm, tmp_path / "warm", options=QUIET)
    assert load_host(again.host).header.prediction_type == "v_prediction"
    assert load_taming(again.taming).header.prediction_type == "v_prediction"
    kept, same = (load_host(f.host).vae.state_dict() for f in (files, again))
    assert all(torch.equal(kept[name], same[name]) for name in kept)
    start = host.unet.state_dict()["conv_in.weight"]
    moved = load_host(again.host).unet.state_dict()["conv_in.weight"]
    assert float((start - moved).abs().max()) < 0.05


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"surprise": 1}, "unknown setting surprise"),
        (changed_stage(1, surprise=1), "vae: unknown setting surprise"),
        (changed_stage(1, steps=0), "steps"),
        (changed_stage(1, steps="many"), "steps"),
        (changed_stage(1, crop=100), "multiple of 64"),
        (changed_stage(2, crop=128), "share their latents"),
        ({"pool": {"encoded": 12}}, "multiple of 8"),
        ({"stages": [3]}, "object with settings"),
        ({"darkness": {"dark_share": 2.0}}, "dark_share"),
        ({"pool": {"photograph_share": -1.0}}, "photograph_share"),
    ],
)
def test_bad_configurations_are_named(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_training_config(small_config(**change), source="c.json")


def test_configuration_file_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json"):
        load_training_config(tmp_path / "none.json")
    (tmp_path / "c.json").write_text("{oops")
    with pytest.raises(ConfigError, match=r"Expected JSON in .*c\.json"):
        load_training_config(tmp_path / "c.json")
    config = load_training_config(TINY)
    assert parse_training_config(json.loads(config.to_json()), source="x") == config
