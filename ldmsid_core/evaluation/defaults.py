"""Defaults of `ldmsid evaluate`, by themselves: the command reads them before anything heavy."""

from __future__ import annotations

RATIOS = "100,250,300"
ISO = 1600.0
RESAMPLES = 2000
SHEETS = 24
