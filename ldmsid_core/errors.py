"""The errors this package raises: each says what was expected, what was found, what to do."""

from __future__ import annotations


class LdmSidError(Exception):
    """Base of every error that is the user's to solve."""


class UnsupportedRawError(LdmSidError, ValueError):
    """A file is no RAW this package can read."""


class ShapeError(LdmSidError, ValueError):
    """A tensor has a shape that the operation cannot take."""


class CheckpointError(LdmSidError, ValueError):
    """A weight file is damaged, incomplete or of another kind."""


class HostMismatchError(LdmSidError, ValueError):
    """Taming modules and a host do not belong together."""


class ConfigError(LdmSidError, ValueError):
    """A setting is unknown or out of range."""


class NoiseProfileError(ConfigError):
    """A noise profile is missing, damaged or of no use where it is wanted."""


class DatasetError(LdmSidError, ValueError):
    """A training set is incomplete, damaged or of another kind."""


class NonFiniteError(LdmSidError, ArithmeticError):
    """NaN or infinity where a number was expected."""


class OutputError(LdmSidError, OSError):
    """A result cannot be written."""
