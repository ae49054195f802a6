"""A run's folder: its configuration, the same whenever it is resumed."""

from __future__ import annotations

from pathlib import Path

from ..errors import ConfigError, NoiseProfileError, OutputError
from ..output.atomic import written_atomically
from .config import TrainingConfig, changed_settings, load_training_config
from .export import HOST_NAME, TAMING_NAME

CONFIG_NAME = "config.json"
PERCEPTUAL_NAME = "perceptual.sha256"


def prepare_folder(
    config: TrainingConfig, folder: Path, *, writes: bool, perceptual: str = ""
) -> None:
    """Save the resolved configuration, or check that a resumed run has the same one.

    Args:
        config: Of this run.
        folder: Made if needed.
        writes: Whether this process is the one that writes.
        perceptual: Checksum of the perceptual network's file; empty without one.

    Raises:
        ConfigError: If the folder holds a run with other settings, which are named.
        NoiseProfileError: If a noise profile of the run in the folder is gone.
        OutputError: If the folder takes no file, or holds weights of which no run there tells.
    """
    path = folder / CONFIG_NAME
    if path.exists():
        before = _read_config(path)
        if before != config:
            raise ConfigError(
                f"{folder} holds a run with other settings "
                f"({', '.join(changed_settings(before, config))}); resume it with its own "
                f"{CONFIG_NAME} or choose a new folder."
            )
        _check_perceptual(folder, perceptual)
        return
    for name in (HOST_NAME, TAMING_NAME):
        if (folder / name).exists():
            raise OutputError(
                f"Expected a folder without {name} for a new run, but {folder} holds one and no "
                f"{CONFIG_NAME} of a run that made it; it was kept. Choose another folder with -o."
            )
    if writes:
        if perceptual:
            with written_atomically(folder / PERCEPTUAL_NAME, overwrite=True) as partial:
                partial.write_text(perceptual, encoding="utf-8")
        with written_atomically(path, overwrite=False) as partial:
            partial.write_text(config.to_json(), encoding="utf-8")


def _read_config(path: Path) -> TrainingConfig:
    try:
        return load_training_config(path)
    except NoiseProfileError as error:
        raise NoiseProfileError(
            f"Expected the noise profiles with which the run in {path.parent} began: {error} Put "
            "them back to go on with the run, or choose a new folder."
        ) from error
    except ConfigError as error:
        raise ConfigError(f"{path} is unreadable ({error}); choose a new folder.") from error


def _check_perceptual(folder: Path, now: str) -> None:
    path = folder / PERCEPTUAL_NAME
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if before != now:
        names = [f"the LPIPS file of sha256 {text[:12]}" if text else "none" for text in
                 (before, now)]  # fmt: skip
        raise ConfigError(
            f"Expected {names[0]} for the loss, with which the run in {folder} began, found "
            f"{names[1]}; give the same --lpips or choose a new folder."
        )
