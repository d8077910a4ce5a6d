"""A cell of one's own beside a compiled graph, not in it."""

from __future__ import annotations

from typing import Any

import torch

from .own_cell import run_here

__all__ = ["outside"]

_REASON = (
    "the steps of a cell of one's own run beside a compiled graph, not in it; compile without "
    "fullgraph=True, export with strict=False, or use tt.RNN, tt.LSTM or tt.GRU, which are one "
    "node of the graph."
)
outside: Any = torch.compiler.disable(run_here, reason=_REASON)
