"""What throughtime raises, or warns of: the fact, what was got, what to do.

Every error derives from `ThroughTimeError` and from the built-in that fits, so that
``except ValueError`` written for ``torch.nn`` keeps working.
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "CheckError",
    "CheckpointError",
    "ConvertWarning",
    "DeviceError",
    "DtypeError",
    "FileError",
    "GraphError",
    "InputTypeError",
    "InputValueError",
    "KeepWarning",
    "LayerNotFoundError",
    "MonitorWarning",
    "NonFiniteError",
    "PackageError",
    "ShapeError",
    "ThroughTimeError",
    "UnsupportedError",
]


class ThroughTimeError(Exception):
    """The root of everything this package raises on purpose."""


class ShapeError(ThroughTimeError, ValueError, RuntimeError):
    """A tensor has another rank or size than its axis letters say.

    Also a `RuntimeError`, because that is what ``torch.nn`` raises for some of these.
    """


class DtypeError(ThroughTimeError, TypeError, ValueError):
    """A tensor has another dtype than the weights it meets."""


class DeviceError(ThroughTimeError, ValueError, RuntimeError):
    """A tensor lies on another device than the weights it meets."""


class InputValueError(ThroughTimeError, ValueError):
    """An argument has the right type and a value that cannot be served."""


class InputTypeError(ThroughTimeError, TypeError):
    """An argument has the wrong type."""


class GraphError(ThroughTimeError, RuntimeError, ValueError):
    """Losses and traced layers are not connected, or the graph between them is gone."""


class LayerNotFoundError(ThroughTimeError, KeyError, ValueError):
    """There is no such recurrent layer.

    A `KeyError`, so that ``flow.get(name)`` returns None; but the message is not put in quotes.
    """

    __str__ = Exception.__str__


class UnsupportedError(ThroughTimeError, NotImplementedError, ValueError):
    """This cell or layer has no such quantity; the message names the nearest one that it has."""


class FileError(ThroughTimeError, OSError, ValueError):
    """A file cannot be read or written as asked."""


class PackageError(ThroughTimeError, ImportError):
    """A package that an integration is for is not installed."""


class CheckError(ThroughTimeError, AssertionError):
    """A check of a cell or a kernel failed; the message says which quantity, and where."""


class CheckpointError(ThroughTimeError, ValueError):
    """A checkpoint is truncated, damaged, or of another model; nothing of it was loaded."""


class BundleError(ThroughTimeError, ValueError):
    """A bundle was cut or changed, or is of another version or model; nothing of it was loaded."""


class NonFiniteError(ThroughTimeError, ArithmeticError, ValueError):
    """A loss or a gradient is inf or NaN; the message says where it began."""


class ConvertWarning(UserWarning):
    """`convert` or `unconvert` left a module as it was, or dropped something; it says what and why.

    A warning and no error: the model works as before.
    """


class MonitorWarning(UserWarning):
    """A `Monitor` could not measure or write something; it is said once for each kind of failure.

    A warning and no error: the training goes on as without a monitor.
    """


class KeepWarning(UserWarning):
    """A watched training met a number that is not finite, or could not keep what it was to keep.

    A warning and no error: the training goes on as it would have.
    """
