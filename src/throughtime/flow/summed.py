"""Whether a scalar loss is a sum over time, read off its graph; nothing is differentiated."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from torch import Tensor
from torch.autograd.graph import Node

__all__ = ["Summed", "summed_over_time"]

# Operations that change no more than the shape or the dtype of what they are given.
SHAPES = frozenset(("Clone", "Expand", "Select", "Squeeze", "ToCopy", "Unsqueeze", "View"))
SUM = 2  # among torch's numbers for reduction="none", "mean" and "sum"


class Summed(NamedTuple):
    """A sum over the steps of a sequence.

    Attributes:
        operation: what adds up: "sum()", "reduction='sum'" or "+=".
        steps: how many it adds up.
    """

    operation: str
    steps: int


def summed_over_time(loss: Tensor, lengths: Collection[int], least: int = 10) -> Summed | None:
    """Return what adds a loss up over time, or None where it is a mean or cannot be told.

    A sum divided by a number of steps or targets is a mean in another spelling. One divided by a
    factor of what a single step adds, like the batch's rows, is not.

    Args:
        loss: a scalar with its graph.
        lengths: how many steps the traced layers took. A loss may leave one of them out.
        least: nothing is said of fewer steps.

    Returns:
        The sum, or None.

    Cost:
        a look at each node down to the sum.

    Example:
        >>> loss = torch.ones(20, 3, requires_grad=True).exp().sum() / 3
        >>> summed_over_time(loss, {20})
        Summed(operation='sum()', steps=20)
        >>> summed_over_time(loss / 20, {20}) is None
        True
    """
    times = sorted({T - short for T in lengths for short in (0, 1) if T - short >= least})[::-1]
    waiting = [(loss.grad_fn, 1.0)] if loss.dim() == 0 and times and loss.grad_fn else []
    # Not by recursion, and each node once: a loop may build a graph as deep as it is long.
    seen: set[Node] = set()
    while waiting:
        node, divisor = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        found, below = _look(node, divisor, times)
        if found is not None:
            return found
        waiting += reversed(below)
    return None


def _look(
    node: Node, divisor: float, times: Sequence[int]
) -> tuple[Summed | None, list[tuple[Node, float]]]:
    """Return the sum over time that a node is, or else where to look on.

    With each node goes what its result is divided by later.
    """
    kind = _kind(node)
    if kind == "Add":
        terms = _terms(node)
        if len(terms) in times:
            axes, _ = _adds(terms[-1])
            return _sum("+=", len(terms), math.prod(axes), divisor), []
        # A penalty or another loss beside it.
        return None, [(term, divisor) for term in terms[: times[-1]]]
    axes, operation = _adds(node)
    steps = _steps(axes, times)
    if steps is not None:
        return _sum(operation, steps, math.prod(axes) // steps, divisor), []
    if kind in ("Div", "Mul"):
        factor = _factor(node)
        if not factor:
            return None, []
        divisor *= factor if kind == "Div" else 1 / factor
    elif kind == "Mean":
        averaged = _axes(node)
        if not averaged or _steps(averaged, times):
            return None, []
    elif not (axes or kind in SHAPES):
        return None, []
    # A factor from the left is the first of two: a number has no node.
    given = [before for before, _ in node.next_functions if before is not None]
    return None, [(given[0], divisor)] if len(given) == 1 else []


def _sum(operation: str, steps: int, each: int, divisor: float) -> Summed | None:
    """Return the sum, or None where what it is divided by is more than one step's share."""
    # Half a square is no half of a mean.
    parts = [part for part in (divisor, divisor / 2) if part <= 1 or not each % part]
    return Summed(operation, steps) if any(part <= 1 or part % steps for part in parts) else None


def _steps(axes: Sequence[int], times: Sequence[int]) -> int | None:
    """Return which of some numbers of steps an axis has, also where it holds the rows too."""
    flat = axes[0] if len(axes) == 1 else 0
    exact = (T for T in times if T in axes)
    return next(exact, next((T for T in times if flat and flat % T == 0), None))


def _kind(node: Node) -> str:
    return node.name().rpartition("::")[2].rpartition("Backward")[0]


def _terms(node: Node) -> list[Node]:
    """Return what a chain of additions adds up, without plain numbers."""
    waiting, terms = [node], []
    while waiting:
        one = waiting.pop()
        if _kind(one) == "Add":
            waiting += [before for before, _ in one.next_functions if before is not None]
        else:
            terms.append(one)
    return terms


def _adds(node: Node) -> tuple[Sequence[int], str]:
    """Return the lengths of the axes that a node adds up, and by what; none where it does not."""
    if _kind(node) == "Sum":
        return _axes(node), "sum()"
    target = _saved(node, "target") if _saved(node, "reduction") == SUM else None
    return (target.shape, "reduction='sum'") if isinstance(target, Tensor) else ((), "")


def _axes(node: Node) -> Sequence[int]:
    """Return the lengths of the axes that a sum or a mean takes together."""
    # A Function of somebody's own may have the name, and holds no sizes.
    sizes, dims = _saved(node, "self_sym_sizes") or (), _saved(node, "dim")
    # A negative axis stands there as a number without a sign.
    return [sizes[d - 2**64 if d >= 2**63 else d] for d in dims] if dims and sizes else sizes


def _factor(node: Node) -> float:
    """Return the number that a node multiplies or divides by; 0 where it is no single number."""
    other = _saved(node, "other")
    return float(other) if isinstance(other, Tensor) and other.numel() == 1 else 0.0


def _saved(node: Node, name: str) -> Any:
    """Return what a node holds by this name, or None where it holds nothing, or no longer."""
    try:
        return getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # freed by a backward pass, or changed in place since
        return None
