"""Real-time recurrent learning: the exact gradient carried forward, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from . import replays
from .cells.base import AbstractCell, rebind
from .cells.computed import with_computed_weights
from .cells.function import Function
from .errors import (
    DtypeError,
    GraphError,
    InputTypeError,
    InputValueError,
    ShapeError,
    UnsupportedError,
)
from .shapes import check_lengths, check_shape

__all__ = ["RTRL", "OnlineStep", "rtrl"]

# After how many replayed steps it is asked whether rows depend on each other.
ASKED = 16

Loss = Callable[[int, Tensor], "Tensor | None"]


@dataclass(frozen=True)
class OnlineStep:
    """What is known after step t, without waiting for a later one.

    Attributes:
        t: the step, from 1.
        h: h_t (B, H), 0 for rows past their length. It requires grad, so that a loss can use it.
        loss: E_t, or None where this step has none. The graph to what it uses besides h
            (a readout) is kept: ``step.loss.backward()`` computes those gradients.
        grads: ∂E_t/∂W by the names of ``cell.weights()``; empty where there is no loss.
        s_0: ∂E_t/∂s_0 (B, S), or None where there is no loss.
    """

    t: int
    h: Tensor
    loss: Tensor | None
    grads: dict[str, Tensor]
    s_0: Tensor | None


class RTRL:
    """An iterator over steps; `rtrl` builds it.

    Attributes:
        t: how many steps were taken.
        s: the state now, (B, S).
        total: Σ_t ∂E_t/∂W so far, by name (eq. 2).
        total_s_0: Σ_t ∂E_t/∂s_0 so far, (B, S).
    """

    def __init__(
        self,
        cell: AbstractCell,
        x: Iterator[Tensor],
        loss: Loss,
        s_0: Tensor,
        lengths: Tensor | None,
        reset: Iterator[Tensor] | None,
    ) -> None:
        """Start with ∂s_0/∂W = 0 and ∂s_0/∂s_0 = 1; `rtrl` has checked the arguments."""
        B, S = s_0.shape
        self.cell, self.t, self.s = cell, 0, s_0
        self._x, self._loss, self._lengths, self._reset = x, loss, lengths, reset
        weights = cell.weights()
        self.total = {name: s_0.new_zeros(w.shape) for name, w in weights.items()}
        self.total_s_0 = torch.zeros_like(s_0)
        self._by_weight = {name: s_0.new_zeros(B, S, w.numel()) for name, w in weights.items()}
        self._by_s_0 = torch.eye(S, dtype=s_0.dtype, device=s_0.device).repeat(B, 1, 1)
        self._why = replays.obstacle(s_0.device)
        work = partial(_derivatives, cell)
        self._steps = None if self._why else replays.Steps(cell, "rtrl", work, apart=True)
        self._depend = s_0.new_zeros((), dtype=torch.bool)

    @property
    def unrecorded(self) -> str:
        """Why the steps are not recorded in a CUDA graph and replayed; "" if they are."""
        return self._why if self._steps is None else self._steps.reason

    def __iter__(self) -> Iterator[OnlineStep]:
        """Return itself: each step is taken once."""
        return self

    def __next__(self) -> OnlineStep:
        """Take one step (eq. 1) and carry ∂s_t/∂W over it."""
        try:
            x_t = next(self._x)
        except StopIteration:
            _refuse_across(self._depend)
            raise
        B, H = self.s.shape[0], self.cell.hidden_size
        check_shape("x_t", x_t, "B I", {"B": B, "I": self.cell.input_size}, like=self.s)
        reset = None if self._reset is None else next(self._reset, None)
        if self._reset is not None:
            if reset is None:
                raise InputValueError(f"reset ends after {self.t} steps; x goes on.")
            check_shape("reset", reset, "B", {"B": B})
            if reset.dtype != torch.bool:
                raise DtypeError(f"reset must be a bool tensor; got {reset.dtype}.")
        self.t += 1
        takes = None if self._lengths is None else self._lengths >= self.t
        self._carry(x_t.detach(), reset, takes)
        h = self.s[:, :H].clone()
        h = (h if takes is None else h.masked_fill(~takes[:, None], 0)).requires_grad_()
        return self._ask(h, takes)

    def _carry(self, x_t: Tensor, reset: Tensor | None, takes: Tensor | None) -> None:
        """Carry s, ∂s/∂W and ∂s/∂s_0 over one step: ∂s_t/∂W = J_t ∂s_{t-1}/∂W + ∂⁺s_t/∂W."""
        s_prev = self.s if reset is None else self.s.masked_fill(reset[:, None], 0)
        s_t, J, immediate = self._derivatives(x_t, s_prev)
        if reset is not None:
            J = J.masked_fill(reset[:, None, None], 0)
        if takes is not None:
            row = takes[:, None, None]
            identity = torch.eye(J.shape[1], dtype=J.dtype, device=J.device)
            J = torch.where(row, J, identity)
            immediate = {name: torch.where(row, d, 0) for name, d in immediate.items()}
            s_t = torch.where(takes[:, None], s_t, s_prev)
        for name, d in immediate.items():
            self._by_weight[name] = torch.baddbmm(d, J, self._by_weight[name])
        self._by_s_0, self.s = J @ self._by_s_0, s_t

    def _derivatives(self, x_t: Tensor, s_prev: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return `derivatives`, replayed where a step can be recorded in a CUDA graph."""
        if self._steps is None or self._steps.reason:
            return derivatives(self.cell, x_t, s_prev)
        s_t, J, depend, *by_weights = self._steps(x_t, s_prev)
        assert s_t is not None and J is not None and depend is not None
        self._depend = self._depend | depend
        if self.t == 1 or self.t % ASKED == 0:  # that is a wait
            _refuse_across(self._depend)
        # The replay's own memory is written by the next step: s_t and J are read again before it,
        # and only the state stays.
        named = zip(self.total, by_weights, strict=True)
        return s_t.clone(), J, {name: by for name, by in named if by is not None}

    def _ask(self, h: Tensor, takes: Tensor | None) -> OnlineStep:
        """Compute the loss and multiply its direct gradient with what was carried (eq. 3)."""
        with torch.enable_grad():
            loss = self._loss(self.t, h)
        if loss is None:
            return OnlineStep(self.t, h, None, {}, None)
        if not isinstance(loss, Tensor) or loss.dim() != 0:
            got = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise ShapeError(f"loss(t, h) must give one number, or None; got {got} at t={self.t}.")
        if not loss.requires_grad:
            raise GraphError(
                f"the loss of step {self.t} does not depend on any tensor that requires grad; "
                "make it of the h that loss(t, h) is given."
            )
        (g,) = torch.autograd.grad(loss, h, retain_graph=True, materialize_grads=True)
        g = g if takes is None else g.masked_fill(~takes[:, None], 0)
        H = g.shape[1]
        grads = {
            name: torch.einsum("bh,bhp->p", g, by[:, :H]).view_as(self.total[name])
            for name, by in self._by_weight.items()
        }
        for name, grad in grads.items():
            self.total[name] += grad
        by_s_0 = torch.einsum("bh,bhs->bs", g, self._by_s_0[:, :H])
        self.total_s_0 += by_s_0
        return OnlineStep(self.t, h, loss, grads, by_s_0)


def derivatives(
    cell: AbstractCell, x_t: Tensor, s_prev: Tensor
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return s_t, J_t (B, S, S), and ∂⁺s_t/∂W (B, S, P) of each weight, by autograd of the step.

    The cell's own `vjp` is not used, so that the result can serve to judge it.

    Raises:
        UnsupportedError: rows depend on each other.
    """
    s_t, J, across, *by_weights = _derivatives(cell, x_t, s_prev)
    _refuse_across(across)
    return s_t, J, dict(zip(cell.weights(), by_weights, strict=True))


def _derivatives(cell: AbstractCell, x_t: Tensor, s_prev: Tensor) -> tuple[Tensor, ...]:
    """Return s_t, J_t, whether rows depend on each other, and ∂⁺s_t/∂W; no value is looked at."""
    B, S = s_prev.shape
    weights = {name: w.detach().requires_grad_() for name, w in cell.weights().items()}
    s_prev = s_prev.detach().requires_grad_()
    with torch.enable_grad():
        bound = rebind(cell, weights)
        s_t, _ = bound.step(bound.drive(x_t[None])[0], s_prev)
    check_shape("the next state", s_t, "B S", {"B": B, "S": S}, like=s_prev)
    inputs = (s_prev, *weights.values())
    found: tuple[Tensor | None, ...] = (None,) * len(inputs)
    if s_t.requires_grad:
        # One backward pass of B·S rows of the identity: entry (b, i) of s_t by everything.
        rows = torch.eye(B * S, dtype=s_t.dtype, device=s_t.device).view(B * S, B, S)
        found = torch.autograd.grad(s_t, inputs, rows, is_grads_batched=True, allow_unused=True)
    by_s, *by_weights = (
        s_t.new_zeros(B * S, *i.shape) if by is None else by
        for by, i in zip(found, inputs, strict=True)
    )
    # Of ∂s_t[b]/∂s_prev[c] only b = c is carried, so the others must be 0.
    blocks = by_s.view(B, S, B, S)
    J = blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    across = ~torch.eye(B, dtype=torch.bool, device=by_s.device)[:, None, :, None]
    depend = ((blocks != 0) & blocks.isfinite() & across).any()
    return s_t.detach(), J, depend, *(by.reshape(B, S, -1) for by in by_weights)


def _refuse_across(depend: Tensor) -> None:
    """Raise if rows depend on each other.

    Raises:
        UnsupportedError: they do.
    """
    if bool(depend):
        raise UnsupportedError(
            "a step in which a row's state depends on the other rows of the batch cannot be "
            "carried forward row by row. Give the step statistics of its own row (layer norm), or "
            "take batches of one row."
        )


def rtrl(
    cell: AbstractCell,
    x: Tensor | Iterable[Tensor],
    loss: Loss,
    s_0: Tensor | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | Iterable[Tensor] | None = None,
) -> RTRL:
    """Return the exact gradient of every loss at its own step, carried forward (eq. 2, 3).

    There is no backward pass; ∂s_t/∂W is carried along, with ∂⁺ the immediate derivative of eq. 3::

        ∂s_t/∂W = J_t ∂s_{t-1}/∂W + ∂⁺s_t/∂W          ∂E_t/∂W = g_t ∂s_t/∂W

    The result equals that of BPTT as long as the weights stay the same. If they change between two
    steps, what was carried belongs to the old weights, so the learning rate must be small.

    Args:
        cell: any recurrence; its step is differentiated by autograd, its `vjp` is not used.
        x: the inputs (T, B, I), or anything that yields x_t (B, I), possibly without end.
        loss: ``loss(t, h_t)`` returns E_t, one number, or None where step t has no loss.
        s_0: the initial state (B, S); None: zeros.
        lengths: (B,); past its length a row keeps its state, and h_t is 0.
        reset: (T, B) bool, or anything that yields (B,); where True the state is zeroed before
            the step.

    Returns:
        An iterator of `OnlineStep`, each with ∂E_t/∂W; its ``total`` is their sum so far.

    Raises:
        InputTypeError: ``cell`` is no cell, or ``loss`` cannot be called.
        DtypeError: lengths that are no integers, or a mask that is no bool.
        InputValueError: there is no first input, or a length is outside 1…T.
        UnsupportedError: the rows of a step depend on each other.

    Cost:
        for each row of the batch, with P weights: memory S·P whatever T is, and S²·P operations
        per step. With H units that is about H³ numbers and H⁴ operations: for small cells.

    Source:
        Williams and Zipser (1989), "A learning algorithm for continually running fully recurrent
        neural networks".

    Example:
        >>> x, y = torch.randn(7, 2, 3), torch.randn(7, 2, 5)
        >>> run = tt.rtrl(tt.cells.GRU(3, 5), x, lambda t, h: (h - y[t - 1]).pow(2).sum())
        >>> for step in run:
        ...     grad = step.grads["weight_hh"]
        >>> run.t, run.total["weight_hh"].shape
        (7, torch.Size([15, 5]))
    """
    if not isinstance(cell, AbstractCell):
        raise InputTypeError(
            f"cell must be a throughtime.cells.AbstractCell; got {type(cell).__name__}. "
            "throughtime.cells.Function makes one from any step function."
        )
    cell = with_computed_weights(cell)
    if not callable(loss):
        raise InputTypeError(f"loss must be callable as loss(t, h_t); got {type(loss).__name__}.")
    first, rest = _first(x)
    if s_0 is None:
        s_0 = first.new_zeros(first.shape[0], cell.state_size)
    like = next((w for w in cell.weights().values() if w.is_floating_point()), first)
    check_shape("s_0", s_0, "B S", {"B": first.shape[0], "S": cell.state_size}, like=like)
    if isinstance(cell, Function):
        cell.examine(first, s_0)
        cell.need_rows_apart(
            "cannot be carried forward row by row", "take batches of one row", rows=first.shape[0]
        )
    T = len(x) if isinstance(x, Tensor) else None
    steps = None if lengths is None else check_lengths(lengths, first.shape[0], T)
    resets = None if reset is None else iter(reset)
    return RTRL(cell, rest, loss, s_0.detach().clone(), steps, resets)


def _first(x: Tensor | Iterable[Tensor]) -> tuple[Tensor, Iterator[Tensor]]:
    """Return the first input, and an iterator that begins with it.

    Raises:
        InputValueError: there is none.
    """
    if isinstance(x, Tensor):
        check_shape("x", x, "T B I")
    rest = iter(x)
    first = next(rest, None)
    if first is None:
        raise InputValueError("x holds no step; give at least one input x_t (B, I).")
    check_shape("x_t", first, "B I")

    def chained() -> Iterator[Tensor]:
        yield first
        yield from rest

    return first, chained()
