"""`cells.Function`'s backward pass: what does not depend on delta, for many steps at once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...cells import Function, probes
from ...cells.base import rebind
from ...cells.probes import DEPENDS, alike
from ...tape import Tape
from ..chosen import Choice, note
from .recorder import Follower, Program, Recorder, Refusal, backward_program

__all__ = ["AS_THEY_ARE", "Way", "backward", "gradients"]

# How large a block's states may be: small enough for the cache, with enough rows to share the cost
# of each operation.
BLOCK_BYTES = 1 << 19
# With fewer steps than this, a graph of them costs less than learning a step's backward pass.
WORTH_LEARNING = 32


class Way(NamedTuple):
    """How blocks are taken.

    Attributes:
        block_bytes: how large a block's states may be.
        run: runs the chain of a block's steps, given a key of what it does, the work, and the
            tensors that the work takes.
    """

    block_bytes: int
    run: Callable[[Hashable, Callable[..., Any], Sequence[Tensor | None]], Any]


AS_THEY_ARE = Way(BLOCK_BYTES, lambda key, work, inputs: work(*inputs))


def gradients(
    cell: Function,
    tape: Tape,
    g: Tensor | None,
    delta_T: Tensor | None,
    wants: Sequence[str],
    want_x: bool,
    how: Way = AS_THEY_ARE,
) -> tuple[dict[str, Tensor], Tensor | None, Tensor]:
    """Send one loss back through a step that only autograd knows (eq. 5, 9).

    All states are kept, so the steps of a block are K·B independent rows, and the step is
    recomputed for all of them in one call. What remains to be done one step at a time is the linear
    map delta_t → J_tᵀ delta_t. Its operations are recorded from autograd once and run here without
    it. Then one backward over the block's rows yields the block's share of dE/dW and dE/dx.

    Where rows are not independent, or the step looks at values, draws random numbers or cannot
    take another number of rows, the steps of a block are unrolled one by one into an autograd
    graph; `throughtime.kernels.last_choice` says so, and why. Few steps are unrolled too, which is
    not reported.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (T, B, G) into the first G ≤ S entries of s_1…s_T; None: nowhere.
        delta_T: what else arrives at s_T, (B, S).
        wants: the weights whose gradients are wanted.
        want_x: whether dE/dx is wanted.
        how: how blocks are taken.

    Returns:
        dE/dW by name, dE/dx (T, B, I) or None, and dE/ds_0 (B, S).

    Cost:
        one forward and one backward of the step over T·B rows, and J_tᵀ delta_t step by step;
        memory for one block besides the results.
    """
    way = _BackwardPass(cell, tape, g, wants, want_x, how)
    s_0 = way.run(delta_T)
    way.say()
    return way.total, way.x, s_0


def backward(
    cell: Function, tape: Tape, g: Tensor, delta_T: Tensor | None = None, how: Way = AS_THEY_ARE
) -> tuple[Tensor, Tensor]:
    """Send one loss back (eq. 9), as `sweep.backward` does for V = 1.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (1, T, B, G) into the first G ≤ S entries of s_1…s_T.
        delta_T: what else arrives at s_T, (1, B, S).
        how: how blocks are taken.

    Returns:
        The adjoints (1, T, B, I+S), and dE/ds_0 (1, B, S).
    """
    way = _BackwardPass(cell, tape, g[0], (), True, how)
    way.deltas = torch.zeros_like(tape.s[1:])
    s_0 = way.run(None if delta_T is None else delta_T[0])
    way.say()
    return torch.cat((way.x, way.deltas), -1)[None], s_0[None]  # pyright: ignore


class _BackwardPass:
    deltas: Tensor | None = None  # where delta of each step is written, if it is wanted

    def __init__(
        self,
        cell: Function,
        tape: Tape,
        g: Tensor | None,
        wants: Sequence[str],
        want_x: bool,
        how: Way,
    ) -> None:
        self.tape, self.g, self.reason, self.how = tape, g, cell.apart, how
        # New leaves, since a gradient of one that the caller holds could call its hooks.
        leaves = {n: w.detach().requires_grad_(n in wants) for n, w in cell.weights().items()}
        self.weights, self.cell = leaves, rebind(cell, leaves)
        self.frozen = {n: w.detach() for n, w in leaves.items()}
        self.total = {n: torch.zeros_like(w) for n, w in leaves.items() if n in wants}
        self.x = torch.empty_like(tape.x, memory_format=torch.contiguous_format) if want_x else None
        self.program: Program | None = None
        self.rows = cell.rows_of(tape.saved)

    def run(self, delta_T: Tensor | None) -> Tensor:
        s = self.tape.s
        delta = s.new_zeros(s.shape[1:]) if delta_T is None else delta_T
        K = max(1, self.how.block_bytes // max(1, s[0].nbytes))
        for last in range(self.tape.T, 0, -K):
            first = max(1, last - K + 1)
            if self.reason or first == last or self.tape.T < WORTH_LEARNING:
                delta = self._unrolled(first, last, delta)
                continue
            try:
                delta = self._block(first, last, delta)
            except Refusal as refusal:
                self.reason = str(refusal)
                delta = self._unrolled(first, last, delta)
        return delta

    def say(self) -> None:
        """Note what ran, if it was not blocks."""
        if self.reason:
            why = f"Function goes back one step at a time: {self.reason}."
            note(Choice("reference", why))

    def _unrolled(self, first: int, last: int, delta: Tensor) -> Tensor:
        """Go back through some steps by their graph, as a loop written by hand does."""
        tape, G = self.tape.steps(first, last), 0 if self.g is None else self.g.shape[-1]
        x = tape.x.detach().requires_grad_(self.x is not None)
        s_first = tape.s[0].detach().requires_grad_()
        s, taken, ends = s_first, [], []
        with torch.enable_grad():
            for k, x_t in enumerate(x.unbind(0)):
                if tape.reset is not None:
                    s = s.masked_fill(tape.reset[k, :, None], 0)
                s_t = self.cell.next(x_t, s, self.rows)
                takes = None if tape.active is None else tape.active[k, :, None]
                s = s_t if takes is None else torch.where(takes, s_t, s)
                taken.append(s_t)
                ends.append(s[:, :G])
        self._check_repeats(tape, torch.stack([s_t.detach() for s_t in taken]))
        outputs, enters = [s], [delta]
        if self.g is not None:
            outputs += ends
            enters += self.g[first - 1 : last].unbind(0)
        of = [s_first] if self.deltas is None else [s_first, *taken]
        delta, *deltas = self._pull(outputs, enters, of, x, slice(first - 1, last))
        if self.deltas is not None:
            torch.stack(deltas, out=self.deltas[first - 1 : last])
        return delta

    def _check_repeats(self, tape: Tape, again: Tensor) -> None:
        """Raise if the steps returned other states than in the forward pass."""
        if not alike(again, tape.s[1:]):
            # Each from the state that it had then, since rounding may have grown over the steps.
            for x_t, before, after in zip(tape.x, tape.s_prev(), tape.s[1:], strict=True):
                again_t = self.cell.next(x_t, before, self.rows).detach()
                probes.check_repeats(again_t, after, before)

    def _pull(
        self,
        s: list[Tensor],
        enters: Sequence[Tensor],
        of: list[Tensor],
        x: Tensor,
        steps: slice,
    ) -> list[Tensor]:
        """Add autograd's gradients to dE/dW and dE/dx, and return those of ``of``."""
        inputs = [*of, *(self.weights[n] for n in self.total)]
        inputs += [] if self.x is None else [x]
        found = [torch.zeros_like(i) for i in inputs]
        ways = [(s_t, g) for s_t, g in zip(s, enters, strict=True) if s_t.requires_grad]
        there = [i for i, wanted in enumerate(inputs) if wanted.requires_grad]
        if ways and there:
            grads = torch.autograd.grad(
                [s_t for s_t, _ in ways],
                [inputs[i] for i in there],
                [g for _, g in ways],
                allow_unused=True,
                materialize_grads=True,
            )
            for i, grad in zip(there, grads, strict=True):
                found[i] = grad
        for name, grad in zip(self.total, found[len(of) :], strict=False):
            self.total[name] += grad
        if self.x is not None:
            self.x[steps].copy_(found[-1].view_as(self.x[steps]))
        return found[: len(of)]

    def _block(self, first: int, last: int, delta: Tensor) -> Tensor:
        """Go back through some steps at once; a Refusal comes before anything is changed."""
        fresh = self.program is None
        program = self.program = self._learn(last) if self.program is None else self.program
        tape = self.tape.steps(first, last)
        K = tape.T
        x = tape.x.flatten(0, 1).detach().requires_grad_(self.x is not None)
        s_prev = tape.s_prev().flatten(0, 1).detach()
        follower = Follower(program, (x, s_prev, *self.weights.values()))
        try:
            with torch.enable_grad(), follower:
                s = self.cell.next(x, s_prev)
        except Refusal:
            raise
        except Exception as error:
            raise Refusal(f"the step cannot take {len(x)} rows for {tape.B}: {error}") from error
        self._compare(tape, s.detach().view(K, tape.B, -1))
        columns = [
            self._by_step(kept, like.shape, K)
            for kept, like in zip(follower.tensors(), program.kept, strict=True)
        ]
        if fresh and probes.mixes_steps(self.cell, tape):
            raise Refusal(DEPENDS)
        for column, like in zip(columns, program.kept, strict=True):
            if fresh and not alike(column.of(K)[-1], like):
                raise Refusal("the step does not keep the batch's rows in their order")
        g = None if self.g is None else self.g[first - 1 : last]
        deltas, delta = self._chain(tape, g, columns, delta)
        self._pull([s], [deltas.flatten(0, 1)], [], x, slice(first - 1, last))
        if self.deltas is not None:
            self.deltas[first - 1 : last] = deltas
        return delta

    def _learn(self, t: int) -> Program:
        """Record the backward pass of one step from autograd."""
        tape = self.tape.steps(t, t)
        x, s_prev = tape.x[0].detach(), tape.s_prev()[0].detach().requires_grad_()
        recorder = Recorder(x, s_prev, *self.frozen.values())
        delta = torch.ones_like(s_prev)
        with recorder:
            with torch.enable_grad():
                s_t = rebind(self.cell, self.frozen).next(x, s_prev)
            calls, place = len(recorder.calls), recorder.place(delta)
            grad = None
            if s_t.requires_grad:
                (grad,) = torch.autograd.grad(s_t, s_prev, delta, allow_unused=True)
        return backward_program(recorder, calls, place, grad)

    def _by_step(self, kept: Tensor, shape: torch.Size, K: int) -> Column:
        """Lay what the step left for all rows out by steps; what has no rows serves every step."""
        if kept.shape == shape:
            return Column(kept.detach(), None)
        B = self.tape.B
        differs = [axis for axis, size in enumerate(shape) if kept.shape[axis] != size]
        if len(differs) != 1 or shape[differs[0]] != B or kept.shape[differs[0]] != K * B:
            raise Refusal("the step folds the batch's rows into another axis")
        return Column(kept.detach().unflatten(differs[0], (K, B)), differs[0])

    def _compare(self, tape: Tape, s: Tensor) -> None:
        """Refuse if a row's state depends on which other rows there are."""
        want = tape.s[1:]
        if tape.active is not None:
            s = torch.where(tape.active[..., None], s, want)
        if not alike(s, want):
            raise Refusal(DEPENDS)

    def _chain(
        self, tape: Tape, g: Tensor | None, columns: list[Column], delta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return delta at every step of a block (K, B, S), 0 where none is taken, and before it."""
        assert self.program is not None
        back, axes = self.program.run, tuple(column.axis for column in columns)

        def work(
            delta: Tensor, g: Tensor | None, active: Tensor | None, reset: Tensor | None, *kept: Any
        ) -> tuple[Tensor, Tensor]:
            laid = [Column(k, axis).of(tape.T) for k, axis in zip(kept, axes, strict=True)]
            rows = list(zip(*laid, strict=True)) if laid else [()] * tape.T
            return _chained(back, rows, g, active, reset, delta)

        inputs = (delta, g, tape.active, tape.reset, *(column.kept for column in columns))
        return self.how.run(("chain", back, axes, tape.T), work, inputs)


class Column(NamedTuple):
    """A tensor that the step back needs, for all steps of a block.

    Attributes:
        kept: as the step over all rows left it, with an axis for the steps.
        axis: that axis; None where one tensor serves every step.
    """

    kept: Tensor
    axis: int | None

    def of(self, K: int) -> tuple[Tensor, ...]:
        """Return the tensor of each of K steps."""
        return (self.kept,) * K if self.axis is None else self.kept.unbind(self.axis)


def _chained(
    back: Callable[..., Tensor] | None,
    rows: Sequence[tuple[Tensor, ...]],
    g: Tensor | None,
    active: Tensor | None,
    reset: Tensor | None,
    delta: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return delta at every step of a block and before it, looking at no value."""
    deltas = delta.new_zeros(len(rows), *delta.shape)
    if g is not None:
        deltas[..., : g.shape[-1]] = g
    each = deltas.unbind(0)
    for k in range(len(rows) - 1, -1, -1):
        delta_t = each[k].add_(delta)
        delta = torch.zeros_like(delta_t) if back is None else back(delta_t, *rows[k])
        if reset is not None:
            delta = delta.masked_fill(reset[k, :, None], 0)
        if active is not None:
            delta = torch.where(active[k, :, None], delta, delta_t)
    if active is not None:
        deltas = torch.where(active[..., None], deltas, 0)
    return deltas, delta
