"""Which operation broke a loss, read off its graph: of a step that went by, only that is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from ...flow.nonfinite import all_finite
from .operation import Operation

__all__ = ["operation_in"]

# A loss hangs on fewer nodes than this, or is not read.
MOST = 200_000

Result = tuple[str, Tensor]


def operation_in(loss: Tensor, outputs: Sequence[Tensor] = ()) -> Operation | None:
    """Return the first operation of a loss that made inf or NaN out of finite numbers.

    Only what the graph still holds can be looked at, and a result that it does not hold is computed
    again from what it does; so an operation may be missed.

    Args:
        loss: with its graph.
        outputs: of the model, where the loss begins. Without them all of the graph is read, and
            what only holds its result is left out: its argument may have been bad already.

    Returns:
        The operation; its module and its line are not known. None where none is found.

    Example:
        >>> count = torch.zeros(2)
        >>> found = operation_in((torch.ones(2, requires_grad=True) / count.requires_grad_()).sum())
        >>> found.name, found.kind, found.place
        ('div', 'inf', (0,))
    """
    if not all(map(all_finite, outputs)):
        return None
    ends = {t.grad_fn for t in outputs if t.grad_fn is not None}
    for node in _in_order(loss.grad_fn, ends):
        saved = _saved(node)
        kind = node.name().rpartition("::")[2].rpartition("Backward")[0]
        found = _result(kind, saved) or (_kept(kind, saved) if outputs else None)
        if found is None:
            continue
        name, result = found
        given = [saved.get("self"), saved.get("other")]
        if all_finite(result) or not all(all_finite(t) for t in given if isinstance(t, Tensor)):
            continue
        infinite = result.isinf().nonzero()
        where = infinite if len(infinite) else result.isnan().nonzero()
        place = tuple(where[0].tolist()) if len(where) else ()
        return Operation(name, False, "inf" if len(infinite) else "nan", place, None, None)
    return None


def _in_order(last: Node | None, ends: set[Node]) -> Iterator[Node]:
    """Yield a graph's nodes, down to its ends, each after those that it is computed from."""
    waiting: list[tuple[Node, bool]] = [] if last is None else [(last, False)]
    seen: set[Node] = set()
    while waiting and len(seen) < MOST:
        node, ready = waiting.pop()
        if ready:
            yield node
        elif node not in seen and node not in ends:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(before, False) for before, _ in node.next_functions if before is not None]


def _saved(node: Node) -> dict[str, Any]:
    """Return what a node holds for its backward pass, by name."""
    held = {}
    for name in dir(node):
        if name.startswith("_saved_"):
            try:
                held[name.removeprefix("_saved_")] = getattr(node, name)
            except RuntimeError:  # it was let go, or written into
                return {}
    return held


def _result(kind: str, saved: dict[str, Any]) -> Result | None:
    """Return what an operation is called, and its result; None where that is not known."""
    own, other = saved.get("self"), saved.get("other")
    with torch.no_grad():
        if kind in AGAIN and isinstance(own, Tensor):
            return kind.lower(), AGAIN[kind](own)
        if kind == "Div" and isinstance(other, Tensor) and isinstance(own, Tensor):
            return "div", own / other
        if kind == "Pow" and isinstance(own, Tensor) and "exponent" in saved:
            return "pow", own ** saved["exponent"]
        if kind == "Mean" and saved.get("self_sym_numel") == 0:
            return "mean (of no numbers)", torch.tensor(torch.nan)
        if kind.startswith("NllLoss") and saved.get("reduction") == 1:
            weight = saved["total_weight"]
            return "nll_loss (every target is ignored)", 0 * weight / weight
    return None


def _kept(kind: str, saved: dict[str, Any]) -> Result | None:
    """Return the same of an operation that does not keep its argument, which must be finite."""
    if kind == "Div" and isinstance(saved.get("other"), Tensor):
        return "div", saved["other"].reciprocal()
    result = saved.get("result")
    return (kind.lower(), result) if isinstance(result, Tensor) and kind in KEPT else None


# What saves its argument, and not its result.
AGAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "Log": torch.log,
    "Log2": torch.log2,
    "Log10": torch.log10,
    "Log1P": torch.log1p,
    "Acos": torch.acos,
    "Asin": torch.asin,
    "Atanh": torch.atanh,
    "Acosh": torch.acosh,
}
# What saves its result.
KEPT = ("Exp", "Expm1", "Sqrt", "Rsqrt", "Reciprocal", "Tan", "LogSoftmax", "Softmax", "Logsumexp")
