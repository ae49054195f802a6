"""Noise profiles as JSON files: strict, versioned, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from ..output.atomic import written_atomically
from .noise import SensorLevels
from .noise_laws import LogLine, NoiseLaw
from .noise_profile import IsoEntry, NoiseProfile

FORMAT = "ldmsid noise profile"
VERSION = 1
_LARGEST_FILE = 1 << 20
_LARGEST_NUMBER = 1e300
_KEYS = (
    "format", "version", "make", "model", "black_level", "white_level", "read_noise", "entries",
    "gain_steps", "law", "method",
)  # fmt: skip
_LENGTHS = {"PlaneValues": 4, "Range": 2}
_LINES = ("read", "read_gaussian", "row")
_Kind = TypeVar("_Kind", IsoEntry, LogLine, NoiseLaw)


def save_noise_profile(profile: NoiseProfile, path: Path, *, overwrite: bool = False) -> None:
    """Write a profile.

    Raises:
        OutputError: If the file exists or cannot be written.
    """
    values = {
        "format": FORMAT,
        "version": VERSION,
        "make": profile.make,
        "model": profile.model,
        "black_level": profile.levels.black,
        "white_level": profile.levels.white,
        "read_noise": profile.read_kind,
        "method": profile.method,
        "gain_steps": profile.gain_steps,
        "entries": [asdict(entry) for entry in profile.entries],
        "law": None if profile.law is None else asdict(profile.law),
    }
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    with written_atomically(path, overwrite=overwrite) as partial:
        partial.write_text(text, encoding="utf-8")


def load_noise_profile(path: str | Path) -> NoiseProfile:
    """Read a profile.

    Raises:
        ConfigError: If the file is missing, no profile of this version, or holds an unknown key,
            lacks one, or has a value that is no number or that no sensor has.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"Cannot read the noise profile {path}: {error.strerror}.") from error
    try:
        if len(start) > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        values = json.loads(start.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"Expected a noise profile in JSON, but {path} is none: {error}. Make one with "
            "`ldmsid calibrate`."
        ) from error
    try:
        return _profile_of(values)
    except ConfigError as error:
        raise ConfigError(f"Noise profile {path}: {error}") from error


def _profile_of(values: Any) -> NoiseProfile:
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        raise ConfigError(f"Expected format {FORMAT!r}; make a profile with `ldmsid calibrate`.")
    if type(values.get("version")) is not int or values["version"] != VERSION:
        raise ConfigError(
            f"Expected version {VERSION}, found {values.get('version')!r}; calibrate again, or "
            "use the release that wrote it."
        )
    _check_keys(values, _KEYS, "the profile")
    entries = _list(values, "entries")
    return NoiseProfile(
        make=_text(values, "make"),
        model=_text(values, "model"),
        levels=_levels(values),
        read_kind=values["read_noise"],
        entries=tuple(_made(IsoEntry, entry, f"entry {n}") for n, entry in enumerate(entries, 1)),
        gain_steps=_numbers(values["gain_steps"], "gain_steps"),
        law=None if values["law"] is None else _law(values["law"]),
        method=_text(values, "method") or "",
    )


def _check_keys(values: Any, wanted: tuple[str, ...], where: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"Expected {where} as an object, found {values!r}.")
    unknown, missing = sorted(set(values) - set(wanted)), sorted(set(wanted) - set(values))
    if unknown:
        raise ConfigError(
            f"Expected only known keys in {where}, found {', '.join(unknown)}; remove it."
        )
    if missing:
        raise ConfigError(f"Expected {', '.join(missing)} in {where}, found none.")


def _levels(values: Mapping[str, Any]) -> SensorLevels:
    black = _list(values, "black_level")
    if len(black) != 4:
        raise ConfigError(f"Expected four black levels, R, G1, B, G2, found {black}.")
    return SensorLevels((black[0], black[1], black[2], black[3]), values["white_level"])


def _law(values: Any) -> NoiseLaw:
    _check_keys(values, tuple(f.name for f in fields(NoiseLaw)), "law")
    lines = {name: _made(LogLine, values[name], f"law, {name}") for name in _LINES}
    return _made(NoiseLaw, {**values, **lines}, "law")


def _made(kind: type[_Kind], values: Any, where: str) -> _Kind:
    """A dataclass of numbers, ranges and closed choices from JSON values."""
    _check_keys(values, tuple(f.name for f in fields(kind)), where)
    return kind(
        **{
            f.name: _value(str(f.type), values[f.name], f"{f.name} of {where}")
            for f in fields(kind)
        }
    )


def _value(kind: str, value: Any, name: str) -> Any:
    """A JSON value as a field of this annotation wants it."""
    if value is None and kind.endswith("| None"):
        return None
    if kind in _LENGTHS:
        return _numbers(value, name, _LENGTHS[kind])
    if kind in ("LogLine", "GainSource"):  # made already; checked by its dataclass
        return value
    return _number(value, name, whole=kind == "int")


def _number(value: Any, name: str, *, whole: bool = False) -> float:
    kinds = (int,) if whole else (int, float)
    # JSON's whole numbers have no limit; no real setting or count is beyond a float's.
    if type(value) not in kinds or not -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
        kind = "a whole number" if whole else "a finite number"
        raise ConfigError(f"Expected {kind} as {name}, found {value!r}.")
    return value if whole else float(value)


def _numbers(values: Any, name: str, length: int | None = None) -> tuple[float, ...]:
    if not isinstance(values, list) or (length is not None and len(values) != length):
        wanted = "numbers" if length is None else f"{length} numbers"
        raise ConfigError(f"Expected a list of {wanted} as {name}, found {values!r}.")
    return tuple(_number(value, name) for value in values)


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values[name]
    if not isinstance(found, list):
        raise ConfigError(f"Expected a list as {name}, found {found!r}.")
    return found


def _text(values: Mapping[str, Any], name: str) -> str | None:
    found = values[name]
    if found is not None and not isinstance(found, str):
        raise ConfigError(f"Expected a text as {name}, found {found!r}.")
    return found
