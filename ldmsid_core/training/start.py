"""How a run begins: what it reads is opened and checked before its folder is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError
from ..hosts.host import Host, load_host
from ..model_files import EMBEDDED, ModelFiles
from ..taming.checkpoint import Taming, load_taming
from .compute import open_compute
from .config import TrainingConfig
from .context import Run, RunOptions, TrainingData
from .file_data import FileData, check_warm_start, open_file_data
from .folder import prepare_folder
from .losses import Perceptual
from .perceptual import LpipsLoss
from .step_log import check_log

# Threads that read data from files ahead: two keep up with six crops of 512 in half a second.
_LOADERS = 2


@contextmanager
def open_run(
    config: TrainingConfig,
    folder: Path,
    options: RunOptions,
    data: TrainingData | None,
    perceptual: Perceptual | None,
) -> Iterator[Run]:
    """A run ready to train, for the length of a `with` block; see `train_model`."""
    check_log(options.log)
    files = open_file_data(config)
    _check_data(files, options, data)
    start_host, start_taming = _start(config)
    if files is not None:
        if start_taming is not None:
            check_warm_start(config, files, start_taming.header.input_recipe)
        data = files.for_run(options.loaders or _LOADERS)
    with open_compute(on_cpu=options.on_cpu) as compute:
        network = perceptual.sha256 if isinstance(perceptual, LpipsLoss) else ""
        prepare_folder(config, folder, writes=compute.is_main, perceptual=network)
        compute.wait()
        yield Run(config, folder, options, compute, start_host, start_taming, data, perceptual)


def _check_data(files: FileData | None, options: RunOptions, data: TrainingData | None) -> None:
    if files is None and options.loaders:
        raise ConfigError(
            f"Expected data from files with {options.loaders} loaders, found none; name shards "
            "under data in the configuration, or leave the loaders out."
        )
    if files is not None and data is not None:
        raise ConfigError(
            "Expected data from the configuration or from the caller, found both; leave one out."
        )


def _start(config: TrainingConfig) -> tuple[Host | None, Taming | None]:
    if not config.warm_start:
        return None, None
    folder = Path(config.warm_start)
    own = ModelFiles(folder / "host.safetensors", folder / "taming.safetensors")
    files = EMBEDDED if config.warm_start == "embedded" else own
    return None if config.host else load_host(files.host), load_taming(files.taming)
