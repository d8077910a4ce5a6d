"""A cell of one's own beside a compiled graph, not in it."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch

from .own_cell import run_here

__all__ = ["outside"]

_REASON = (
    "the steps of a cell of one's own run beside a compiled graph, not in it; compile without "
    "fullgraph=True, export with strict=False, or use tt.RNN, tt.LSTM or tt.GRU, which are one "
    "node of the graph."
)
# The argument came with PyTorch 2.7.
_told = {"reason": _REASON} if "reason" in signature(torch.compiler.disable).parameters else {}
outside: Any = torch.compiler.disable(run_here, **_told)  # pyright: ignore[reportArgumentType]
