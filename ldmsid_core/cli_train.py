"""`ldmsid train` and `ldmsid ablate`: training from a JSON configuration."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .cli_options import one_clear_line, quiet_option, set_threads, threads_option

if TYPE_CHECKING:
    from .training.config import TrainingConfig
    from .training.export import TrainedFiles
    from .training.perceptual import LpipsLoss
    from .training.regress import TrainedRegression

_Command = TypeVar("_Command", bound=Callable[..., Any])
_OPTIONS = (
    click.option("--log", type=click.Choice(["csv", "tensorboard"]), default="csv",
                 show_default=True, help="tensorboard writes event files beside the CSV."),
    click.option("--cpu", "on_cpu", is_flag=True, help="Leave accelerators alone."),
    click.option("--lpips", type=click.Path(path_type=Path), default=None,
                 help="Weights of LPIPS, AlexNet's or VGG16's, for the loss term perceptual."),
    click.option("--loaders", type=click.IntRange(1, 256), default=None, show_default="2",
                 help="Threads that read data from files while a stage computes."),
    click.option("--refresh-latents", is_flag=True,
                 help="Generate decoder taming's latents on disk again."),
    threads_option,
    quiet_option,
    one_clear_line,
)  # fmt: skip


def _training_options(command: _Command) -> _Command:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _perceptual(path: Path | None, config: TrainingConfig) -> LpipsLoss | None:
    from .training.perceptual import load_perceptual

    return None if path is None else load_perceptual(path, config)


def _say(text: str) -> None:
    """Print once, however many processes a launcher started."""
    if os.environ.get("RANK", "0") == "0":
        click.echo(text)


def _list_left_out(files: TrainedFiles | TrainedRegression) -> None:
    """What of the training data could not be read."""
    left = files.left_out
    if left.crops and os.environ.get("RANK", "0") == "0":
        click.echo(
            f"ldmsid: {left.crops} crops could not be read and others took their places; they were "
            f"of {len(left.skipped)} files:",
            err=True,
        )
        for skip in left.skipped:
            click.echo(f"ldmsid: left out {skip.name}: {skip.reason}", err=True)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="Folder of the run; an unfinished run there is resumed.")  # fmt: skip
@_training_options
def train(config: Path, output: Path, threads: int | None, **options: Any) -> None:
    """Train taming modules, and a small host where none is given, by a JSON CONFIG.

    CONFIG may be `tiny`, the configuration of the embedded model, `paper_sd21`, the paper's for
    Stable Diffusion 2.1, or `tiny_regression`, a U-Net of the embedded model's size that maps RAW
    to picture without a host: a baseline for `ldmsid evaluate --regression`.

    Its section `data` says what is trained on: drawn images (the default), or pairs or photographs
    that `ldmsid prepare` made shards of.

    Several devices or machines: start it by `accelerate launch -m ldmsid_core train ...` or
    `torchrun -m ldmsid_core train ...`.
    """
    from .training.config import find_training_config, load_training_config
    from .training.context import RunOptions
    from .training.regress import train_regression
    from .training.run import train_model

    set_threads(threads)
    chosen = load_training_config(find_training_config(config))
    network = _perceptual(options.pop("lpips"), chosen)
    run: Callable[..., TrainedFiles | TrainedRegression]
    run = train_regression if chosen.is_regression else train_model
    files = run(chosen, output, options=RunOptions(**options), perceptual=network)
    _say("\n".join(map(str, files.paths)))
    _list_left_out(files)


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path),
              help="Folder of the runs; unfinished ones there are resumed.")  # fmt: skip
@_training_options
def ablate(config: Path, output: Path, threads: int | None, **options: Any) -> None:
    """Train the paper's ablations of a JSON CONFIG, one after the other.

    Rescaling instead of the wavelet; taming of the UNet only, the decoder only, both. Results
    are listed in ablations.json; a small host is trained once for all of them.
    """
    from .training.ablation import run_ablations
    from .training.config import find_training_config, load_training_config
    from .training.context import RunOptions

    set_threads(threads)
    chosen = load_training_config(find_training_config(config))
    network = _perceptual(options.pop("lpips"), chosen)
    results = run_ablations(chosen, output, options=RunOptions(**options), perceptual=network)
    _say(str(results))
