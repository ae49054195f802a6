"""The configuration's section `data`: what the stages train on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from ..errors import ConfigError
from ..taming.header import WhiteBalanceRecipe
from .data.bayer_flips import Flips, check_flips
from .data.pairs import MISALIGNED

DataKind = Literal["drawn", "pairs", "photographs"]
# Setting -> kinds that look at it.
_MEANT_FOR: dict[str, tuple[DataKind, ...]] = {
    "folder": ("pairs", "photographs"),
    "split": ("pairs", "photographs"),
    "flips": ("pairs",),
    "leave_out": ("pairs",),
    "white_balance": ("pairs",),
    "other_sensor": ("pairs", "photographs"),
}


@dataclass(frozen=True)
class DataConfig:
    """What the stages train on.

    Attributes:
        kind: `drawn`: the image pool, made dark; `pairs`: real dark RAWs with their truth;
            `photographs`: clean pictures, made dark. Stages of the host take the truth or the
            pictures alone.
        folder: Shards of `ldmsid prepare`, from where the command runs.
        split: Pairs of this split, or `all`.
        flips: Of pairs: `none`, `cells` or `bayer`, see `data.bayer_flips`.
        leave_out: Pairs with one of these flags are not drawn.
        white_balance: What the planes of pairs get before the network: `as shot` or `none`.
        other_sensor: Go on from taming of another sensor.
    """

    kind: DataKind = "drawn"
    folder: str = ""
    split: str = "train"
    flips: Flips = "cells"
    leave_out: tuple[str, ...] = (MISALIGNED,)
    white_balance: WhiteBalanceRecipe = "as shot"
    other_sensor: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown choices, and settings that this kind does not look at."""
        if self.kind not in get_args(DataKind):
            raise ConfigError(
                f"Expected data of a kind among {', '.join(get_args(DataKind))}, found "
                f"{self.kind!r}."
            )
        check_flips(self.flips)
        if self.white_balance not in get_args(WhiteBalanceRecipe):
            raise ConfigError(
                f"Expected white_balance 'none' or 'as shot', found {self.white_balance!r}."
            )
        if self.is_from_files and not self.folder:
            raise ConfigError(
                f"Expected a folder of shards with data of the kind {self.kind}, found none; make "
                "one with `ldmsid prepare` and name it as folder."
            )
        for setting in fields(self):
            kinds = _MEANT_FOR.get(setting.name, (self.kind,))
            if self.kind not in kinds and getattr(self, setting.name) != setting.default:
                raise ConfigError(
                    f"Expected no {setting.name} with data of the kind {self.kind}, found it; it "
                    f"is for {' and '.join(kinds)}."
                )

    @property
    def is_from_files(self) -> bool:
        """Whether shards are read."""
        return self.kind != "drawn"
