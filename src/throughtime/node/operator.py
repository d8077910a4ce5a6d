"""The node as one operator of ONNX, whatever T and B are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedError

__all__ = ["onnx_layer"]

# In which order ONNX has the gates that torch has as i, f, g, o and as r, z, n.
GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2)}
ACTIVATIONS = {"tanh": "Tanh", "relu": "Relu", "sigmoid": "Sigmoid", "identity": "Affine"}
# An opset that has the operators as they are written here; the exporter raises it as asked.
OPSET = 18


def onnx_layer(
    kind: str,
    weights: dict[str, Tensor],
    x: Tensor,
    s_0: Tensor | None,
    active: Tensor | None,
    reset: Tensor | None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Run one layer in one direction as ONNX's LSTM, GRU or RNN (eq. 1).

    Args:
        kind: "LSTM", "GRU", or an Elman cell's nonlinearity.
        weights: the cell's weights, by name.
        x: inputs (T, B, I), as they came also where ``reverse``.
        s_0: the initial state (B, S); None: zeros.
        active: (T, B) bool, True on the first steps of each row; or None. It becomes sequence_lens.
        reset: refused unless None.
        reverse: whether time runs from the end.

    Returns:
        h (T, B, H), and s_T by the cell's parts, each (1, B, ·).

    Raises:
        UnsupportedError: ONNX has no operator that does it, or this torch cannot write one.
    """
    _check(weights, reset)
    gates = GATES.get(kind, (0,))
    W, R, bias = (_in_order(named, gates) for named in _grouped(weights))
    B, H = x.shape[1], weights["weight_hh"].shape[1]
    states = [None] if s_0 is None else [part.unsqueeze(0) for part in s_0.split(H, 1)]
    steps = None if active is None else active.sum(0).to(torch.int32)
    h, *finals = torch.onnx.ops.symbolic_multi_out(
        kind if kind in GATES else "RNN",
        [x, W, R, bias, steps, *states],
        _attributes(kind, H, reverse),
        dtypes=[x.dtype] * (3 if kind == "LSTM" else 2),
        shapes=[(x.shape[0], 1, B, H)] + [(1, B, H)] * (2 if kind == "LSTM" else 1),
        version=OPSET,
    )
    return h.squeeze(1), tuple(finals)


def _check(weights: dict[str, Tensor], reset: Tensor | None) -> None:
    """Raise where no operator of ONNX does what is asked for.

    Raises:
        UnsupportedError: none does.
    """
    if not hasattr(torch.onnx, "ops"):
        raise UnsupportedError(
            "writing a layer as an operator of ONNX needs PyTorch 2.8 or later; this is "
            f"{torch.__version__}. tt.unconvert(model) makes torch.nn's layers of it."
        )
    if reset is not None:
        raise UnsupportedError(
            "reset= has no counterpart in ONNX's recurrent operators; export the model without it, "
            "and begin each episode with a call of its own."
        )
    if "weight_hr" in weights:
        raise UnsupportedError(
            "proj_size= has no counterpart in ONNX's LSTM; export a layer without it and a Linear."
        )


def _grouped(weights: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return what becomes ONNX's W, R and B, whose rows are gates."""
    biases = [w for name, w in weights.items() if name.startswith("bias")]
    return [weights["weight_ih"]], [weights["weight_hh"]], biases


def _in_order(parts: list[Tensor], gates: tuple[int, ...]) -> Tensor | None:
    """Return tensors whose rows are gates as ONNX has them: (1, rows, ·)."""
    rows = []
    for w in parts:
        size = w.shape[0] // len(gates)
        rows += [w[gate * size : (gate + 1) * size] for gate in gates]
    return torch.cat(rows).unsqueeze(0) if rows else None


def _attributes(kind: str, H: int, reverse: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "hidden_size": H,
        "direction": "reverse" if reverse else "forward",
    }
    if kind == "GRU":  # as cuDNN has it: the reset gate comes after the matrix product
        told["linear_before_reset"] = 1
    if kind in ACTIVATIONS:
        told["activations"] = [ACTIVATIONS[kind]]
    if kind == "identity":
        told |= {"activation_alpha": [1.0], "activation_beta": [0.0]}
    return told
