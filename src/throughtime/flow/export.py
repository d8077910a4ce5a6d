"""A flow as plain data that JSON can hold, with a version; docs/export.md describes the format."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputValueError
from .nonfinite import NonFinite
from .view import LayerView

__all__ = [
    "VERSION",
    "FlowSummary",
    "LayerSummary",
    "check_format",
    "from_dict",
    "layer_summary",
    "plain",
    "to_dict",
]

VERSION = 1
FORMAT = "throughtime.flow"


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: inf and NaN as strings, tuples and tensors as lists.

    Args:
        value: numbers, strings, None and tensors, in dicts, lists and tuples.

    Returns:
        The same with "inf", "-inf" and "nan" for what JSON has no number for; ``float()`` reads
        them back. A float32 becomes the float64 of the same value.

    Example:
        >>> plain({"norms": torch.tensor([0.5, float("inf")]), "at": (1, None)})
        {'norms': [0.5, 'inf'], 'at': [1, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, Tensor):
        return plain(value.detach().cpu().tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def check_format(data: Mapping[str, Any], expected: str) -> None:
    """Raise unless the data say that they are of this format, in the version that is read here.

    Args:
        data: what a ``to_dict`` returned.
        expected: the format's name.

    Raises:
        InputValueError: another format, or another version of it.
    """
    found = data.get("format"), data.get("version")
    if found != (expected, VERSION):
        raise InputValueError(
            f"expected data of format {expected!r}, version {VERSION}; got format {found[0]!r}, "
            f"version {found[1]!r}. Export them again with the throughtime that reads them."
        )


@dataclass(frozen=True, eq=False)
class LayerSummary:
    """What is exported of one layer's flow.

    Attributes:
        kind: the recurrence, as in "LSTM".
        T: how many steps there are.
        B: how many batch rows there are.
        S: how many entries the state has.
        reverse: whether the layer goes through the input from its end.
        through: the schedule that it is trained under, as code writes it.
        loss_index: (V,), which losses were followed.
        enters: (V, B), the step at which each of them stands; 0 where it does not reach the row.
        lag_profile: (L,), the typical norm by lag, relative to lag 0; NaN where not measured.
        horizon: the last lag with at least 1 % of that norm.
        window_ends: the last lag that was measured, where there are longer ones; else None.
        total_norms: (T+1, B), ‖dE/ds_k‖₂ of the summed loss.
        entering_norms: (T, B), ‖g_t‖₂ of what it sends into step t.
        first_nonfinite: where the first inf or NaN stands, or None.
        norms: (V, T+1, B), ‖∂E_v/∂s_k‖₂, where it was asked for; else None.
    """

    kind: str
    T: int
    B: int
    S: int
    reverse: bool
    through: str
    loss_index: Tensor
    enters: Tensor
    lag_profile: Tensor
    horizon: int
    window_ends: int | None
    total_norms: Tensor
    entering_norms: Tensor
    first_nonfinite: NonFinite | None
    norms: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, without the version that the whole flow has."""
        bad = self.first_nonfinite
        dtype = str(self.lag_profile.dtype).removeprefix("torch.")
        found = None if bad is None else bad.to_dict()
        return plain({"dtype": dtype, **vars(self), "first_nonfinite": found})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerSummary:
        """Return the summary that `to_dict` made these data of.

        Args:
            data: of one layer.
        """
        kept = dict(data)
        dtype, bad = getattr(torch, kept.pop("dtype")), kept["first_nonfinite"]
        kept |= {name: torch.tensor(kept[name], dtype=torch.long, device="cpu") for name in WHOLE}
        kept |= {name: _numbers(kept[name], dtype) for name in REAL if kept[name] is not None}
        kept["first_nonfinite"] = None if bad is None else NonFinite(**bad)
        return cls(**kept)


# Which of a layer's entries are tensors.
REAL = ("lag_profile", "total_norms", "entering_norms", "norms")
WHOLE = ("loss_index", "enters")


@dataclass(frozen=True, eq=False)
class FlowSummary:
    """What is exported of a flow.

    Attributes:
        split: "loss", or "step" where a scalar was split by the step at which it enters.
        layers: by name, in the order in which they ran.
    """

    split: str
    layers: Mapping[str, LayerSummary]


def layer_summary(layer: LayerView, *, norms: bool = False) -> LayerSummary:
    """Return what is exported of one layer.

    Args:
        layer: its flow.
        norms: whether all V·(T+1)·B norms are taken along.
    """
    return LayerSummary(
        kind=layer.kind,
        T=layer.T,
        B=layer.B,
        S=layer.S,
        reverse=layer.reverse,
        through=str(layer.through),
        loss_index=layer.loss_index,
        enters=layer.enters,
        lag_profile=layer.lag_profile(),
        horizon=layer.horizon(),
        window_ends=layer.window_ends,
        total_norms=layer.total_norms,
        entering_norms=layer.entering_norms,
        first_nonfinite=layer.first_nonfinite,
        norms=layer.norms if norms else None,
    )


def to_dict(layers: Mapping[str, LayerView], split: str, *, norms: bool = False) -> dict[str, Any]:
    """Return a flow as plain data.

    Args:
        layers: by name.
        split: as `FlowSummary.split`.
        norms: whether all V·(T+1)·B norms of each layer are taken along.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "split": split,
        "layers": {
            name: layer_summary(layer, norms=norms).to_dict() for name, layer in layers.items()
        },
    }


def from_dict(data: Mapping[str, Any]) -> FlowSummary:
    """Return the numbers of an exported flow as tensors on the CPU.

    A summary can be compared and plotted. It is not a `Flow`: that also holds states and weights,
    which are not exported.

    Args:
        data: what `Flow.to_dict` returned, also after a way through JSON.

    Raises:
        InputValueError: another format, or another version of it.

    Example:
        >>> import json
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> flow = trace.flow(losses)
        >>> text = json.dumps(flow.to_dict(), allow_nan=False)
        >>> read = from_dict(json.loads(text)).layers["l0"]
        >>> read.kind, bool((read.lag_profile == flow["l0"].lag_profile()).all())
        ('GRU', True)
    """
    check_format(data, FORMAT)
    layers = {name: LayerSummary.from_dict(layer) for name, layer in data["layers"].items()}
    return FlowSummary(data["split"], layers)


def _numbers(values: Any, dtype: torch.dtype) -> Tensor:
    """Return nested lists of numbers, some of them strings, as a tensor."""
    return torch.tensor(_floats(values), dtype=dtype, device="cpu")


def _floats(values: Any) -> Any:
    return [_floats(value) for value in values] if isinstance(values, list) else float(values)
