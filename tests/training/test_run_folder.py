"""A run's folder: resumed with its own settings alone, and never in place of other weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ldmsid_core.errors import ConfigError, OutputError
from ldmsid_core.raw.noise import SensorLevels
from ldmsid_core.raw.noise_profile import IsoEntry, NoiseProfile
from ldmsid_core.raw.noise_profile_file import save_noise_profile
from ldmsid_core.training.config import find_training_config, load_training_config
from ldmsid_core.training.darkness import DarknessConfig
from ldmsid_core.training.folder import prepare_folder

CONFIG = load_training_config(find_training_config(Path("tiny")))


def test_the_settings_are_saved_and_serve_to_resume(tmp_path: Path) -> None:
    prepare_folder(CONFIG, tmp_path / "a", writes=False)
    assert not (tmp_path / "a").exists()
    prepare_folder(CONFIG, tmp_path / "a", writes=True)
    assert load_training_config(tmp_path / "a" / "config.json") == CONFIG
    (tmp_path / "a" / "taming.safetensors").write_bytes(b"of this run")
    prepare_folder(CONFIG, tmp_path / "a", writes=True)


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    prepare_folder(CONFIG, tmp_path, writes=True)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ConfigError, match=r"other settings \(licence, seed\)"):
        prepare_folder(replace(CONFIG, seed=2, licence="MIT"), tmp_path, writes=True)
    assert (tmp_path / "config.json").read_bytes() == before
    (tmp_path / "config.json").write_text("{oops")
    with pytest.raises(ConfigError, match="unreadable"):
        prepare_folder(CONFIG, tmp_path, writes=True)


def test_a_noise_profile_that_is_gone_is_reported_as_such(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    entries = tuple(IsoEntry(iso, iso / 800, "measured", 1.0, 0.0, 1.8, 0.2) for iso in (400, 1600))
    save_noise_profile(NoiseProfile("Maker", "Model", SensorLevels(), entries=entries), path)
    config = replace(CONFIG, darkness=DarknessConfig(cameras=(str(path),)))
    prepare_folder(config, tmp_path / "run", writes=True)
    prepare_folder(config, tmp_path / "run", writes=True)
    path.rename(tmp_path / "moved.json")
    words = rf"noise profiles with which the run in .*run began: .*found {path}; .* Put them back"
    with pytest.raises(ConfigError, match=words):
        prepare_folder(config, tmp_path / "run", writes=True)


def test_settings_are_read_as_utf_8_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, licence="für alle")
    prepare_folder(config, tmp_path, writes=True)
    read = Path.read_text

    def read_in_ascii(path: Path, encoding: str | None = None) -> str:
        return read(path, encoding=encoding or "ascii")

    monkeypatch.setattr(Path, "read_text", read_in_ascii)
    text = (tmp_path / "config.json").read_text(encoding="utf-8").replace("\\u00fc", "ü")
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    prepare_folder(config, tmp_path, writes=True)
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ConfigError, match="unreadable"):
        prepare_folder(config, tmp_path, writes=True)


@pytest.mark.parametrize("name", ["host.safetensors", "taming.safetensors"])
@pytest.mark.parametrize("writes", [False, True])
def test_weights_that_no_run_made_are_kept(tmp_path: Path, name: str, writes: bool) -> None:
    (tmp_path / name).write_bytes(b"of the user")
    with pytest.raises(OutputError, match=f"without {name}"):
        prepare_folder(CONFIG, tmp_path, writes=writes)
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"of the user"
