"""Which recorded states lie behind a tensor in autograd's graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..node.recording import Call, Key, Step
from .beside import edges_of

__all__ = ["Ancestry", "node_of"]

Found = frozenset[tuple[int, int]]
NOTHING: Found = frozenset()
# How much of a graph is looked through for a detached state.
MOST_NODES = 2000


class Ancestry:
    """The graph between recorded runs, walked once.

    Attributes:
        calls: what was recorded.
    """

    def __init__(self, calls: Sequence[Call | Step]) -> None:
        """Note which node of the graph belongs to which call."""
        self.calls = calls
        self.owner: dict[Any, int] = {
            node: n for n, call in enumerate(calls) if (node := node_of(call)) is not None
        }
        self._memos: dict[Key | None, dict[Any, Found]] = {}

    def behind(self, tensors: Iterable[Tensor], key: Key | None = None) -> Found:
        """Return the recorded states that the tensors depend on with no other one in between.

        Args:
            tensors: as the graph knows them.
            key: only this layer's states count, and others are walked through.

        Returns:
            Pairs of a call's number and the number of the output that is reached.
        """
        memo = self._memos.setdefault(key, {})
        found: set[tuple[int, int]] = set()
        for tensor in tensors:
            node, nr = tensor.grad_fn, tensor.output_nr
            if node is None:
                continue
            number = self._number(node, nr, key)
            if number is not None:
                found.add((number, nr))
            else:
                found |= _walk(node, lambda n, nr: self._number(n, nr, key), memo)
        return frozenset(found)

    def computed_with(self, tensors: Iterable[Tensor], values: Sequence[Tensor]) -> bool:
        """Check whether operations behind the tensors kept one of these values, without its graph.

        This is how a detached state shows where only what came after it is known: most operations
        keep what they were given for their backward pass.

        Args:
            tensors: as the graph knows them.
            values: a state's parts; those that are 0 everywhere tell nothing.
        """
        values = [value for value in values if bool((value != 0).any())]
        stack = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
        seen: set[Any] = set()
        while stack and values and len(seen) < MOST_NODES:
            node = stack.pop()
            if node in seen or node in self.owner:
                continue
            seen.add(node)
            if any(_equal(kept, value) for kept in _kept(node) for value in values):
                return True
            stack.extend(n for n, _ in node.next_functions if n is not None)
        return False

    def direct(self, tensor: Tensor) -> tuple[int, int] | None:
        """Return the state that a tensor is itself, as its call's and its output's numbers."""
        number = None if tensor.grad_fn is None else self.owner.get(tensor.grad_fn)
        return None if number is None else (number, tensor.output_nr)

    def _number(self, node: Any, nr: int, key: Key | None) -> int | None:
        number = self.owner.get(node)
        if number is None:
            return None
        call = self.calls[number]
        if (key is not None and call.key != key) or not call.gate.stops_at(nr):
            return None
        return number


def node_of(call: Call | Step) -> Any:
    """Return the node of autograd's graph that a call's state goes on from; None: there is none."""
    if isinstance(call, Call):
        return call.h.grad_fn
    return call.edges[0].node if call.edges else None


def _walk(start: Any, number: Callable[[Any, int], int | None], memo: dict[Any, Found]) -> Found:
    """Return what lies behind a node that is not recorded itself; deep graphs need no recursion."""
    if start in memo:
        return memo[start]
    stack: list[tuple[Any, bool]] = [(start, False)]
    while stack:
        node, ready = stack.pop()
        if node in memo:
            continue
        edges = edges_of(node)
        if not ready:
            stack.append((node, True))
            stack.extend((n, False) for n, nr in edges if n not in memo and number(n, nr) is None)
            continue
        sets = []
        for n, nr in edges:
            at = number(n, nr)
            sets.append(memo.get(n, NOTHING) if at is None else frozenset({(at, nr)}))
        union = frozenset().union(*(s for s in sets if s))
        # Most nodes pass on one set: the same object, so that long chains cost no memory.
        memo[node] = next((s for s in sets if s == union), union) if union else NOTHING
    return memo[start]


def _kept(node: Any) -> Iterator[Tensor]:
    """Go through what a node of autograd's own kept for its backward pass."""
    for name in dir(node):
        if name.startswith("_saved_"):
            kept = getattr(node, name)
            yield from (
                k for k in (kept if isinstance(kept, tuple) else (kept,)) if isinstance(k, Tensor)
            )


def _equal(kept: Tensor, value: Tensor) -> bool:
    """Check whether a tensor has a state's numbers, in whatever shape."""
    if kept.requires_grad and kept.grad_fn is not None:
        return False
    if kept.numel() != value.numel() or kept.dtype != value.dtype or kept.device != value.device:
        return False
    return kept.untyped_storage().data_ptr() == value.untyped_storage().data_ptr() or torch.equal(
        kept.detach().reshape(-1), value.reshape(-1)
    )
