"""Exact resume, states kept twice, stops that lose nothing, logs without duplicates."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_runs import QUIET, losses_in, one_process, same_weights, settings, unet_stage
from torch import Tensor, nn

from ldmsid_core.errors import CheckpointError, ConfigError, NonFiniteError, OutputError
from ldmsid_core.training.loop import StageExtras, run_stage
from ldmsid_core.training.pairs import BatchPart
from ldmsid_core.training.states import StateFiles
from ldmsid_core.training.step_log import check_log, open_log


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_an_interrupted_taming_stage_goes_on_bit_for_bit(tmp_path: Path, ema_decay: float) -> None:
    config = settings(steps=5, save_steps=2, accumulation=2, batch=1, ema_decay=ema_decay)
    straight, _, _ = unet_stage(tmp_path / "a", config)
    with pytest.raises(KeyboardInterrupt):
        # Steps 0 to 2 are done, the state is of step 2: step 2 runs twice.
        unet_stage(tmp_path / "b", config, stop_at=3)
    assert len(losses_in(tmp_path / "b" / "s.csv")) == 3
    resumed, _, _ = unet_stage(tmp_path / "b", config)
    assert same_weights(straight, resumed)
    assert losses_in(tmp_path / "a" / "s.csv") == losses_in(tmp_path / "b" / "s.csv")
    assert len(losses_in(tmp_path / "b" / "s.csv")) == 5


def test_a_finished_stage_writes_nothing_again(tmp_path: Path) -> None:
    first, _, _ = unet_stage(tmp_path, settings(steps=2, ema_decay=0.5))
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.pt")}
    again, _, _ = unet_stage(tmp_path, settings(steps=2, ema_decay=0.5))
    assert same_weights(first, again)
    assert before == {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.pt")}


def test_the_previous_state_is_kept_and_used_where_it_is_alone(tmp_path: Path) -> None:
    config = settings(steps=4, save_steps=1)
    straight, _, _ = unet_stage(tmp_path, config)
    files = StateFiles(tmp_path, "s")
    assert [torch.load(p)["step"] for p in (files.previous, files.latest)] == [3, 4]
    files.latest.unlink()  # as if killed between the two renames
    resumed, _, _ = unet_stage(tmp_path, config)
    assert same_weights(straight, resumed)
    assert len(losses_in(tmp_path / "s.csv")) == 4


def test_a_damaged_state_names_the_one_to_go_on_from(tmp_path: Path) -> None:
    unet_stage(tmp_path, settings(steps=2, save_steps=1))
    latest = tmp_path / "s.state.pt"
    latest.write_bytes(latest.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"delete it to go on from s\.previous\.pt"):
        unet_stage(tmp_path, settings(steps=2, save_steps=1))


def test_a_state_that_lacks_something_is_named(tmp_path: Path) -> None:
    unet_stage(tmp_path, settings(steps=1))
    latest = tmp_path / "s.state.pt"
    state = torch.load(latest)
    del state["global_batch"]
    torch.save(state, latest)
    words = r"s\.state\.pt lacks global_batch; delete it to train the stage again"
    with pytest.raises(CheckpointError, match=words):
        unet_stage(tmp_path, settings(steps=2))
    torch.save([1, 2], latest)
    with pytest.raises(CheckpointError, match=r"s\.state\.pt is damaged"):
        unet_stage(tmp_path, settings(steps=2))


def test_another_global_batch_is_refused(tmp_path: Path) -> None:
    unet_stage(tmp_path, settings(steps=2, batch=2))
    with pytest.raises(ConfigError, match=r"2 samples a step, but batch 3.*1 processes make 3"):
        unet_stage(tmp_path, settings(steps=2, batch=3))


class _One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(1))


class _Named:
    def names(self, step: int, *, count: int) -> tuple[str, ...]:
        return tuple(f"step{step}_{i}.ARW" for i in range(count))


def _train_one(folder: Path, loss: Any, **changes: Any) -> _One:
    module = _One()
    config = settings(**{"steps": 3, "batch": 2, "accumulation": 2, "save_steps": 1, **changes})
    extras = StageExtras(data=_Named(), quiet=True)
    run_stage("n", module, lambda part: loss(module, part), config, folder, extras=extras)
    return module


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path: Path) -> None:
    def loss(module: _One, part: BatchPart) -> dict[str, Tensor]:
        bad = float("inf") if (part.step, part.start) == (2, 2) else 1.0
        return {"loss": (module.value * bad).sum()}

    words = r"loss of inf at step 2, samples 2 to 3 of 4 \(step2_2\.ARW,step2_3\.ARW\)"
    with pytest.raises(NonFiniteError, match=rf"{words}; the last saved state \(n\.state\.pt\)"):
        _train_one(tmp_path, loss)
    assert torch.load(tmp_path / "n.state.pt")["step"] == 2
    assert len(losses_in(tmp_path / "n.csv")) == 2


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path: Path) -> None:
    def loss(module: _One, part: BatchPart) -> dict[str, Tensor]:
        # The root's slope at 0 is infinite, its value is not.
        return {"loss": ((module.value - module.value.detach()).abs()).sqrt().sum()}

    with pytest.raises(
        NonFiniteError, match=r"gradient norm of nan at step 0.*no state was saved:"
    ):
        _train_one(tmp_path, loss)


def test_a_full_disk_keeps_both_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(steps=2, save_steps=1)
    unet_stage(tmp_path, config)
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")}
    save = torch.save

    def full(state: Any, stream: Any) -> None:
        save({"step": 1}, stream)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match=r"s\.state\.pt: No space left"):
        unet_stage(tmp_path, settings(steps=3, save_steps=1))
    assert before == {p.name: p.read_bytes() for p in tmp_path.glob("*.pt")}
    assert not list(tmp_path.glob(".*partial*"))


def test_fp16_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Expected a GPU for precision fp16"):
        unet_stage(tmp_path, settings(precision="fp16"), compute=one_process())


def test_another_accelerator_of_this_process_is_left_alone(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, GradientState, PartialState

    kinds = (PartialState, AcceleratorState, GradientState)
    assert not any(kind._shared_state for kind in kinds)
    try:
        other = Accelerator(cpu=True, gradient_accumulation_steps=7)
        unet_stage(tmp_path, settings(steps=1, precision="bf16", accumulation=3))
        assert other.gradient_accumulation_steps == 7 and other.mixed_precision == "no"
    finally:
        for kind in kinds:
            kind._shared_state.clear()
    unet_stage(tmp_path / "alone", settings(steps=1, precision="bf16"))
    assert not any(kind._shared_state for kind in kinds)


def test_a_log_drops_what_a_cut_off_run_wrote_too_much(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("step,loss\n0,1\n1,2\n2,3\n3,")
    with open_log(tmp_path, "x", first=2) as log:
        log.write(2, {"loss": 0.1 + 0.2})
    assert (tmp_path / "x.csv").read_text() == "step,loss\n0,1\n1,2\n2,0.3\n"


def test_a_log_of_a_stage_begun_anew_starts_empty(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("step,loss\n0,1\n")
    with open_log(tmp_path, "x", first=0) as log:
        log.write(0, {"loss": 5.0})
    assert (tmp_path / "x.csv").read_text() == "step,loss\n0,5\n"


def test_tensorboard_is_refused_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        check_log("tensorboard")
    with pytest.raises(ConfigError, match="among csv, tensorboard"):
        check_log("wandb")


def test_tensorboard_gets_the_same_numbers_and_forgets_the_same_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int) -> None:
            seen.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            seen.append((name, value, step))

        def close(self) -> None:
            seen.append("closed")

    import sys
    from types import ModuleType

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with open_log(tmp_path, "x", first=4, kind="tensorboard") as log:
        log.write(4, {"loss": 0.5})
    assert seen == [(str(tmp_path / "tensorboard" / "x"), 4), ("loss", 0.5, 4), "closed"]


def test_nothing_but_what_learns_is_in_the_optimiser(tmp_path: Path) -> None:
    module = _One()
    module.still = nn.Parameter(torch.ones(2), requires_grad=False)
    config = settings(steps=1)

    def loss(part: BatchPart) -> dict[str, Tensor]:
        return {"loss": (module.value * module.still).sum()}

    run_stage("o", module, loss, config, tmp_path, extras=QUIET)
    state = torch.load(tmp_path / "o.state.pt")["optimiser"]
    assert len(state["state"]) == 1 and state["param_groups"][0]["params"] == [0]
    assert module.still.grad is None
