"""Parts of a batch, accumulation, checkpointing, running means, schedules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from helpers.training_runs import (
    CROP,
    PROMPT,
    QUIET,
    RandomPairs,
    decoder_stage,
    largest_difference,
    losses_in,
    one_process,
    same_weights,
    settings,
    unet_stage,
)
from torch import Tensor, nn

from ldmsid_core.training.diffusion import NoisyLatents
from ldmsid_core.training.ema import WeightMean
from ldmsid_core.training.learning import build_optimiser
from ldmsid_core.training.loop import StageExtras, run_stage
from ldmsid_core.training.pairs import BatchPart, names_of, pairs_of
from ldmsid_core.training.stage import learning_rate_factor


@pytest.mark.parametrize(("processes", "accumulation", "batch"), [(1, 1, 4), (2, 2, 3), (3, 1, 1)])
def test_passes_of_all_processes_make_up_the_global_batch(
    processes: int, accumulation: int, batch: int
) -> None:
    config = settings(batch=batch, accumulation=accumulation)
    seen = []
    for number in range(accumulation):
        for process in range(processes):
            part = one_process(process, processes).part(config, 7, number)
            assert part.step == 7 and part.size == batch
            seen += range(part.start, part.stop)
    assert seen == list(range(part.count)) == list(range(config.global_batch(processes)))


def test_a_part_of_pairs_and_noise_is_a_part_of_the_whole() -> None:
    whole, half = BatchPart(3, 4, 0, 4), BatchPart(3, 4, 1, 3)
    latent = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for wanted, found in (
        (pairs_of(RandomPairs(), whole, crop=64), pairs_of(RandomPairs(), half, crop=64)),
        (
            NoisyLatents("epsilon").draw(latent, whole),
            NoisyLatents("epsilon").draw(latent[1:3], half),
        ),
    ):
        assert all(torch.equal(w[1:3], f) for w, f in zip(wanted, found, strict=True))
    assert names_of(RandomPairs(), half) == ("s3n1", "s3n2") and names_of(object(), half) == ()


def test_data_that_can_divide_themselves_make_their_part_alone() -> None:
    class Divided(RandomPairs):
        def batch(self, step: int, *, count: int, crop: int) -> tuple[Tensor, Tensor]:
            raise AssertionError("the whole batch was made")

        def part(self, step: int, *, count: int, crop: int, start: int, stop: int) -> Any:
            whole = RandomPairs().batch(step, count=count, crop=crop)
            return tuple(t[start:stop] for t in whole)

    part = BatchPart(3, 4, 1, 3)
    found = pairs_of(Divided(), part, crop=64)
    assert torch.equal(found[0], pairs_of(RandomPairs(), part, crop=64)[0])


def test_velocity_is_what_the_noise_schedule_says() -> None:
    latent = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    part = BatchPart(0, 2, 0, 2)
    noisy, timestep, noise = NoisyLatents("epsilon").draw(latent, part)
    _, same, velocity = NoisyLatents("v_prediction").draw(latent, part)
    assert torch.equal(timestep, same)
    # x = a z + s e and v = a e - s z with a**2 + s**2 = 1, so a x - s v = z and s x + a v = e.
    alpha = NoisyLatents("epsilon")._alphas[timestep][:, None, None, None]
    a, s = alpha.sqrt(), (1 - alpha).sqrt()
    torch.testing.assert_close(a * noisy - s * velocity, latent, atol=1e-5, rtol=0)
    torch.testing.assert_close(s * noisy + a * velocity, noise, atol=1e-5, rtol=0)


def test_accumulation_equals_a_large_batch(tmp_path: Path) -> None:
    large, _, _ = unet_stage(tmp_path / "a", settings(batch=4, optimiser="adamw"))
    small, _, _ = unet_stage(tmp_path / "b", settings(batch=1, accumulation=4))
    found, wanted = (losses_in(tmp_path / n / "s.csv") for n in "ba")
    # Sums of float32 in another order; Adam's first steps enlarge what is near zero.
    assert found == pytest.approx(wanted, rel=1e-4)
    # Adam hides the scale of gradients, their norm shows it: at first of the same weights, then
    # of weights as far apart as below.
    norms, large_norms = (losses_in(tmp_path / n / "s.csv", "gradient_norm") for n in "ba")
    assert norms[0] == pytest.approx(large_norms[0], rel=1e-4)
    assert norms == pytest.approx(large_norms, rel=0.05)
    assert largest_difference(large, small) < 2e-3


def test_a_launchers_variable_does_not_change_accumulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(steps=2, batch=1, accumulation=2)
    plain, _, _ = unet_stage(tmp_path / "a", config)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    launched, _, _ = unet_stage(tmp_path / "b", config)
    assert same_weights(plain, launched)
    # Adam hides the scale of gradients; their norm in the log shows it.
    assert (tmp_path / "a" / "s.csv").read_text() == (tmp_path / "b" / "s.csv").read_text()


def _saved_bytes(run: Callable[[], object]) -> int:
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(seen.values())


@pytest.mark.parametrize("stage", [unet_stage, decoder_stage])
def test_checkpointing_changes_memory_and_nothing_else(tmp_path: Path, stage: Any) -> None:
    modules, sizes = [], []
    for enabled in (False, True):
        config = settings(steps=2, batch=1, checkpointing=enabled)

        def run(config: Any = config, enabled: bool = enabled) -> None:
            modules.append(stage(tmp_path / str(enabled), config))

        sizes.append(_saved_bytes(run))
    assert same_weights(modules[0][0], modules[1][0])
    # What is recomputed inside a block is not saved by the forward pass.
    assert sizes[1] < 0.7 * sizes[0]
    host = modules[1][1]
    assert not any(getattr(m, "gradient_checkpointing", False) for m in host.modules())


def test_checkpointing_runs_the_host_again(tmp_path: Path) -> None:
    original, calls = nn.Conv2d.forward, {False: 0, True: 0}
    for enabled in calls:

        def counted(self: nn.Conv2d, x: Tensor, enabled: bool = enabled) -> Tensor:
            calls[enabled] += 1
            return original(self, x)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nn.Conv2d, "forward", counted)
            config = settings(steps=1, batch=1, checkpointing=enabled)
            unet_stage(tmp_path / str(enabled), config)
    # 22 residual blocks of two convolutions and three of an SFT layer each run twice.
    assert calls[True] - calls[False] >= 22 * 5


class _Weight(nn.Module):
    """One number, drawn from nothing."""

    def __init__(self, value: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))


def test_a_running_mean_by_hand() -> None:
    module = _Weight()
    mean = WeightMean(module, decay=0.5)
    start = float(module.weight.detach())
    wanted = start
    for number, value in enumerate((1.0, 2.0, 3.0)):
        with torch.no_grad():
            module.weight.fill_(value)
        mean.update(module)
        keep = min(0.5, (1 + number) / (10 + number))
        wanted = keep * wanted + (1 - keep) * value
    with mean.applied(module):
        assert float(module.weight.detach()) == pytest.approx(wanted, rel=1e-6)
    assert float(module.weight.detach()) == 3.0
    mean.copy_to(module)
    assert float(module.weight.detach()) == pytest.approx(wanted, rel=1e-6)


def test_a_stage_with_a_running_mean_hands_it_on(tmp_path: Path) -> None:
    plain, _, _ = unet_stage(tmp_path / "a", settings(steps=3))
    held, _, _ = unet_stage(tmp_path / "b", settings(steps=3, ema_decay=0.99))
    state = torch.load(tmp_path / "b" / "s.state.pt")
    assert losses_in(tmp_path / "a" / "s.csv") == losses_in(tmp_path / "b" / "s.csv")
    assert all(torch.equal(state["module"][k], v) for k, v in plain.state_dict().items())
    assert all(torch.equal(state["mean"]["mean"][k], v) for k, v in held.state_dict().items())
    assert not same_weights(plain, held)


def test_a_running_mean_leaves_out_the_steps_that_the_scaler_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, steps = _Weight(), iter([False, True, True, False])
    monkeypatch.setattr(Accelerator, "optimizer_step_was_skipped", property(lambda _: next(steps)))

    def loss(part: BatchPart) -> dict[str, Tensor]:
        return {"loss": module.weight.sum()}

    run_stage("e", module, loss, settings(steps=4, ema_decay=0.9), tmp_path, extras=QUIET)
    assert torch.load(tmp_path / "e.state.pt")["mean"]["updates"] == 2


def test_a_sheet_is_drawn_with_the_running_mean_and_training_goes_on(tmp_path: Path) -> None:
    module = _Weight()
    seen: list[tuple[str, float]] = []

    def loss(part: BatchPart) -> dict[str, Tensor]:
        return {"loss": module.weight.pow(2).sum()}

    def draw(path: Path) -> None:
        seen.append((path.name, float(module.weight.detach())))

    config = settings(steps=5, sample_every=2, ema_decay=0.9)
    run_stage("d", module, loss, config, tmp_path, extras=StageExtras(draw_sheet=draw, quiet=True))
    assert [name for name, _ in seen] == ["d_0000002.png", "d_0000004.png", "d_0000005.png"]
    assert seen[-1][1] == float(module.weight.detach())
    # A drawing that left the mean behind would slow the weights down.
    other = _Weight()
    other.load_state_dict(torch.load(tmp_path / "d.state.pt")["module"])
    assert float(other.weight.detach()) != float(module.weight.detach())


def test_schedules() -> None:
    config = settings(steps=10, warmup=2, schedule="constant")
    assert [learning_rate_factor(s, config) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]
    cosine = settings(steps=12, warmup=2)
    assert learning_rate_factor(7, cosine) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_optimisers(name: Any, kind: type) -> None:
    config = settings(optimiser=name, adam_betas=(0.5, 0.9), weight_decay=0.02, learning_rate=3e-4)
    found = build_optimiser(_Weight(), config)
    assert type(found) is kind
    group = found.param_groups[0]
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.5, 0.9), 0.02, 3e-4)


def test_gradients_are_scaled_down_to_the_norm(tmp_path: Path) -> None:
    module = _Weight()
    seen = []

    def loss(part: BatchPart) -> dict[str, Tensor]:
        module.weight.register_hook(lambda g: seen.append(float(g)))
        return {"loss": 100.0 * module.weight.sum()}

    config = settings(steps=1, max_gradient_norm=0.5)
    run_stage("c", module, loss, config, tmp_path, extras=QUIET)
    assert seen == [100.0] and float(module.weight.grad) == pytest.approx(0.5, rel=1e-5)


def test_the_shapes_of_a_prompt_and_a_crop_belong_together() -> None:
    assert PROMPT.shape == (77, 16) and CROP % 64 == 0
