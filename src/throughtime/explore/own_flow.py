"""A flow as the page opens it: the exported norms, and beside them what a cell of the map shows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FileError, InputValueError
from ..files import write_whole
from ..flow.export import check_format, plain, to_dict
from ..flow.view import LayerView

__all__ = ["check_flow", "flow_data", "read_flow", "write_flow"]

FORMAT, VERSION = "throughtime.explore", 1
SINGULAR = 6  # of the largest of each J_t
MOST_TERMS = 4096  # cells of the map for which every term is measured: about a second
MOST_STATE = 512  # S beyond which singular values take minutes
_INCOMPLETE = (
    "the flow is incomplete: its layers are missing, or are no dictionaries by name. Write it anew "
    "with throughtime.explore.write_flow."
)


def flow_data(
    flow: Mapping[str, LayerView], *, words: Sequence[str] | None = None, row: int = 0
) -> dict[str, Any]:
    """Return what the page needs to show a flow, as plain data (eq. 4, 5).

    Args:
        flow: what ``trace.flow`` returned.
        words: what each step read, for layers of as many steps, in the order of the text.
        row: of the batch.

    Returns:
        The format "throughtime.explore": under "flow" what `Flow.to_dict` returns with the norms of
        this row; under "layers", by name, the words, the largest singular values of each J_t, and
        the norm of every weight's term (t, k), the latter of all rows together. What would take
        minutes is left out: singular values of a state above 512, terms of more than 4096 cells.

    Raises:
        InputValueError: no layer, no such row, or words for which no layer has as many steps.

    Example:
        >>> model = torch.nn.GRU(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(4, 2, 3))[0].pow(2).mean((1, 2))
        >>> data = flow_data(trace.flow(losses), words=["who", "did", "Jane", "greet"])
        >>> data["layers"]["l0"]["words"][2], len(data["layers"]["l0"]["singular_values"])
        ('Jane', 4)
    """
    if not flow:
        raise InputValueError("the flow has no layer: nothing recurrent was traced.")
    for name, layer in flow.items():
        if not 0 <= row < layer.B:
            raise InputValueError(f"row must be 0 to {layer.B - 1} in {name}; got {row}.")
    steps = {layer.T for layer in flow.values()}
    if words is not None and len(words) not in steps:
        takes = " or ".join(map(str, sorted(steps)))
        raise InputValueError(
            f"words must be one for each step of a layer; got {len(words)} for {takes} steps. "
            "Give padding a word too."
        )
    split = next(iter(flow.values())).split
    exported = to_dict(flow, split, norms=True)
    for layer in exported["layers"].values():
        layer["norms"] = [[at[row] for at in loss] for loss in layer["norms"]]
        layer["enters"] = [loss[row] for loss in layer["enters"]]
    layers = {name: _cells(layer, words, row) for name, layer in flow.items()}
    return {"format": FORMAT, "version": VERSION, "row": row, "flow": exported, "layers": layers}


def _cells(layer: LayerView, words: Sequence[str] | None, row: int) -> dict[str, Any]:
    """Return what one layer shows beside its norms."""
    read = None if words is None or len(words) != layer.T else [str(word) for word in words]
    singular = None
    if len(layer.jacobian_steps) == layer.T and layer.S <= MOST_STATE:
        values = [_singular(layer.jacobian(step, rows=[row])[0]) for step in layer.jacobian_steps]
        singular = plain(values)
    return {
        "words": read[::-1] if read and layer.reverse else read,
        "singular_values": singular,
        "weight_terms": _terms(layer),
    }


def _singular(jacobian: Tensor) -> list[float]:
    if not bool(jacobian.isfinite().all()):
        return [float("nan")]
    return torch.linalg.svdvals(jacobian.double())[:SINGULAR].tolist()


def _terms(layer: LayerView) -> dict[str, Any]:
    """Return ‖∂E_v/∂W of step k‖, {name: (V, T)}; biases are left out, for their cost."""
    losses = layer.loss_index.tolist()
    if len(losses) * layer.T > MOST_TERMS:
        return {}
    steps = range(1, layer.T + 1)
    return {
        name: [
            [plain(float(layer.weight_grad(name, loss, step).norm())) for step in steps]
            for loss in losses
        ]
        for name in layer.weight_names
        if not name.startswith("bias")
    }


def write_flow(
    flow: Mapping[str, LayerView],
    path: str | os.PathLike[str],
    *,
    words: Sequence[str] | None = None,
    row: int = 0,
) -> Path:
    """Write a flow as JSON that the page opens.

    Args:
        flow: what ``trace.flow`` returned.
        path: of the file; its folder must exist.
        words: what each step read, for layers of as many steps, in the order of the text.
        row: of the batch.

    Raises:
        FileError: it cannot be written.
        InputValueError: no layer, no such row, or words for which no layer has as many steps.
    """
    return write_whole(path, json.dumps(flow_data(flow, words=words, row=row), allow_nan=False))


def read_flow(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the data of a file that `write_flow` wrote, or that holds a `Flow.to_dict`.

    Args:
        path: of the file.

    Raises:
        FileError: it cannot be read, or is no JSON.
        InputValueError: it holds no flow, another version of one, or one without norms.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise FileError(f"cannot read {path}: it is no text. Give a flow's JSON.") from error
    try:
        data = json.loads(text)
    except ValueError as error:
        raise FileError(f"cannot read {path}: it is no JSON ({error}).") from error
    return check_flow(data)


def check_flow(data: Any) -> dict[str, Any]:
    """Return the data if the page can show them.

    Args:
        data: what `flow_data` or `Flow.to_dict` returned.

    Raises:
        InputValueError: no flow, another version of one, one without norms, or a part of one.
    """
    if not isinstance(data, dict):
        raise InputValueError(f"expected a flow as a dictionary; got {type(data).__name__}.")
    inner = data
    if data.get("format") == FORMAT:
        check_format(data, FORMAT)
        inner = data.get("flow")
    if not isinstance(inner, dict):
        raise InputValueError(_INCOMPLETE)
    check_format(inner, "throughtime.flow")
    layers = inner.get("layers")
    if not isinstance(layers, dict) or {type(layer) for layer in layers.values()} != {dict}:
        raise InputValueError(_INCOMPLETE)
    bare = [name for name, layer in layers.items() if layer.get("norms") is None]
    if bare:
        raise InputValueError(
            f"the flow's norms were not exported ({', '.join(bare)}). Write it with "
            "throughtime.explore.write_flow, or flow.to_dict(norms=True)."
        )
    return data
