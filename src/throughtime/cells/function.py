"""A cell over any function of (x_t, state): autograd takes its adjoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import (
    DtypeError,
    GraphError,
    InputTypeError,
    InputValueError,
    ShapeError,
    UnsupportedError,
)
from ..shapes import check_sizes
from ..torch_state import is_transforming
from . import probes
from .base import AbstractCell, rebind
from .given import check_context, check_dict, check_weight, is_computed

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["Function"]

# Rows that one recomputation of the step for the weight gradients may hold at a time.
ROWS_AT_ONCE = 8192


class Function(AbstractCell):
    """Any recurrence s_t = step(x_t, s_{t-1}) of differentiable torch operations (eq. 1).

    The rows of the batch should be independent of each other: the backward pass then runs the step
    on the rows of many steps at once. Where they are not (statistics over the batch, a constant of
    the batch's size), a layer finds out and goes one step at a time; ``apart`` says why, and
    `throughtime.kernels.last_choice` after the backward pass.

    The step is called again by the backward pass: it must give the same again, and change nothing.

    What the step takes beside x_t and s_{t-1} is one of three. Its own *weights* are Parameters of
    the cell. A tensor that something else computed, in ``weights=`` (a hypernetwork's) or in
    ``context=`` (an encoder's memory), stays what it is: it is no Parameter, and its gradient goes
    on to what computed it. What comes in ``context=`` may also be without a graph, or of integers
    or bool: a mask. A memory with a row for each of the batch's, (B, N, ·), serves the B rows of
    one step and no other number, so the backward pass then goes one step at a time; one for all
    rows, or B = 1, is no hindrance.

    Shapes:
        x_t (B, I), s_t (B, S); the layer puts out the first H columns of s_t. A = I.

    Cost:
        back: one more forward and a backward of ``step`` over the rows of all steps, in blocks,
        and J_tᵀ delta_t step by step; keeps the inputs and the states alone. A layer leaves
        autograd's graph of fewer than 32 steps instead.
        ``benchmarks/bench_function.py`` compares it with a loop written by hand.

    Source:
        eq. 9, with autograd's vector-Jacobian product for J_tᵀ.

    Example:
        >>> W = torch.randn(5, 5) / 5
        >>> cell = Function(lambda x, s, W: torch.tanh(x + s @ W.T), 5, 5, weights={"W": W})
        >>> s, saved = cell.step(torch.zeros(2, 5), torch.ones(2, 5))
        >>> s.shape
        torch.Size([2, 5])
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        input_size: int,
        hidden_size: int,
        state_size: int | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        context: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Take the step and its sizes.

        Args:
            step: ``step(x_t, s_prev) -> s_t``; a module, whose parameters are then the weights, or
                a function, called as ``step(x_t, s_prev, **weights)``.
            input_size: I.
            hidden_size: H, the leading columns of the state that the layer puts out.
            state_size: S; H where None.
            weights: the tensors that a plain function is to be differentiated by. They become
                Parameters of the cell, over the same memory; a tensor that requires grad stays
                itself, and gets its gradient.
            context: tensors that the step, also a module's, is called with beside them, by name.
                A layer takes others in each call: ``layer(x, context={"memory": memory})``.

        Raises:
            InputTypeError: ``step`` cannot be called, a size is no integer, ``weights`` or
                ``context`` no dict, or something in it no tensor.
            InputValueError: a size below 1, S below H, weights beside a module, or a weight with a
                name that the cell has.
            DtypeError: a weight of integers.
        """
        super().__init__()
        if not callable(step):
            raise InputTypeError(f"step must be callable; got {type(step).__name__}.")
        state_size = hidden_size if state_size is None else state_size
        check_sizes(input_size=input_size, hidden_size=hidden_size, state_size=state_size)
        if hidden_size > state_size:
            raise InputValueError(
                "hidden_size must not be above state_size, of which it is the leading part; got "
                f"input_size, hidden_size, state_size = {input_size}, {hidden_size}, {state_size}."
            )
        if isinstance(step, nn.Module) and weights:
            raise InputValueError(
                "weights= is for a plain function; a module's own parameters are its weights. What "
                "something else computed goes into context=."
            )
        self.input_size = self.preact_size = input_size
        self.hidden_size, self.state_size = hidden_size, state_size
        self.step_function = step
        self.apart = ""
        self.own_rows: tuple[str, ...] = ()  # what of the context has rows, one for each of x
        self._tried: dict[tuple, tuple[str, tuple[str, ...]]] = {}
        self._no_batch: list[bool] = []  # shared with the cells that `rebind` makes of this one
        check_dict("weights", weights)
        check_dict("context", context)
        self.differentiable: tuple[str, ...] = ()
        names = []
        context = dict(context or {})
        for name, weight in (weights or {}).items():
            check_weight(self, name, weight)
            if is_computed(weight):
                context[name] = weight
                continue
            names.append(name)
            leaf = isinstance(weight, nn.Parameter) or weight.requires_grad
            # By the dict, which also takes a leaf that is no Parameter, as an optimizer does.
            self._parameters[name] = weight if leaf else nn.Parameter(weight)  # pyright: ignore
        self.names = tuple(names)
        if context:
            self._take(context)

    def with_context(self, context: Mapping[str, Tensor]) -> Function:
        """Return the same cell, whose step is also given these tensors.

        Args:
            context: by name; one that the cell was made with is replaced.

        Raises:
            InputTypeError: it is no dict, or something in it no tensor.
            InputValueError: one has the name of a weight, or no name at all.

        Example:
            >>> def step(x, s, memory):
            ...     return torch.tanh(x + s @ memory)
            >>> memory = torch.randn(5, 5, requires_grad=True)
            >>> layer = tt.Recurrent(Function(step, 5, 5))
            >>> layer(torch.ones(7, 2, 5), context={"memory": memory})[0].sum().backward()
            >>> memory.grad.shape
            torch.Size([5, 5])
        """
        check_dict("context", context)
        new = rebind(self, {})
        new._take(context)
        return new

    def _take(self, context: Mapping[str, Tensor]) -> None:
        """Set what the step is given beside the weights, and which of it has a gradient."""
        check_context(context, self._parameters)
        given = {**self.given, **context}
        vars(self).update(given=given)
        self.differentiable = tuple(name for name, tensor in given.items() if tensor.requires_grad)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name, and of what the step is given that which requires grad."""
        return {**super().weights(), **{name: self.given[name] for name in self.differentiable}}

    def drive(self, x: Tensor) -> Tensor:
        """Return x itself: the whole step is the function's."""
        return x

    def next(self, x_t: Tensor, s_prev: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return s_t for any number of rows, and look at its form and at what became of the rest.

        Args:
            x_t: inputs of some rows.
            s_prev: their states.
            rows: which of the batch's rows they are, where that is not plain from their number.

        Raises:
            InputTypeError: the step function gives no tensor.
            ShapeError: it gives another shape than the state's.
            DtypeError: it gives another dtype than the state's.
            InputValueError: it writes into what it is given.
        """
        own = self._parameters  # looked up first: Module.__getattr__ is slow
        weights = {n: own[n] if n in own else getattr(self, n) for n in self.names}
        compiling = torch.compiler.is_compiling()
        tracked = not (compiling or x_t.is_inference() or s_prev.is_inference())
        versions = (x_t._version, s_prev._version) if tracked else None
        given = self.given if rows is None else self._given_to(rows)
        s_t = self.step_function(x_t, s_prev, **weights, **given)
        if versions is not None and versions != (x_t._version, s_prev._version):
            raise InputValueError(
                "the step function writes into the input or the state that it is given, which are "
                "needed on the backward pass; got changed ones. Write `s = s * decay` for "
                "`s *= decay`, or begin with s = s.clone()."
            )
        if not isinstance(s_t, Tensor):
            raise InputTypeError(
                f"the step function must return the next state, one tensor (B, S); got "
                f"{type(s_t).__name__}. Concatenate several parts, h first."
            )
        if s_t.shape != s_prev.shape:
            raise ShapeError(
                f"the step function must return the next state with the shape of the one it was "
                f"given, {tuple(s_prev.shape)}; got {tuple(s_t.shape)}."
            )
        if s_t.dtype != s_prev.dtype:
            raise DtypeError(
                f"the step function must keep the state's dtype {s_prev.dtype}; got {s_t.dtype}."
            )
        return s_t

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return s_t = step(x_t, s_{t-1}); a_t is x_t."""
        s_t = self.next(a_t, s_prev)
        if not self.own_rows:
            return s_t, (a_t, s_prev, s_t)
        # Whoever takes some rows of a tape then takes the numbers of these along.
        rows = torch.arange(len(s_prev), device=s_prev.device)[:, None]
        return s_t, (a_t, s_prev, s_t, rows)

    def rows_of(self, saved: tuple[Tensor, ...]) -> Tensor | None:
        """Return which rows of the batch a step's or a tape's are; None where nobody asks."""
        if len(saved) < 4:
            return None
        return saved[3][..., 0] if saved[3].dim() == 2 else saved[3][0, :, 0]

    def _given_to(self, rows: Tensor) -> dict[str, Tensor]:
        """Return what the step is given beside these rows of the batch."""
        return {n: t[rows] if n in self.own_rows else t for n, t in self.given.items()}

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; the adjoint is (dE/dx_t, delta_t), (V, B, I+S).

        The step runs once more on its own rows, whatever V is, so rows may depend on each other.
        """
        delta_prev, adjoint, again = self.pulled(saved, delta)
        probes.check_repeats(again, saved[2], saved[1])
        return delta_prev, adjoint

    def pulled(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Go one step back, and return the state that the step gave again, to be looked at.

        Args:
            saved: what `step` returned.
            delta: dE/ds_t for V losses, (V, B, S).
        """
        x_t, s_prev, *_ = saved
        frozen = rebind(self, {name: w.detach() for name, w in self.weights().items()})
        x, s = x_t.detach().requires_grad_(), s_prev.detach().requires_grad_()
        with torch.enable_grad():
            again = frozen.next(x, s, self.rows_of(saved))
        if not again.requires_grad:
            nothing = delta.new_zeros(*delta.shape[:2], x.shape[1])
            return torch.zeros_like(delta), torch.cat((nothing, delta), -1), again.detach()
        grad_x, grad_s = self._pull(again, (x, s), delta)
        return grad_s, torch.cat((grad_x, delta), -1), again.detach()

    def _pull(self, s_t: Tensor, of: tuple[Tensor, ...], delta: Tensor) -> list[Tensor]:
        """Return what V losses (V, B, S) send from s_t to each of some tensors, (V, ·)."""
        V = len(delta)
        if V > 1 and not self._no_batch:
            try:
                found = torch.autograd.grad(
                    s_t, of, delta, allow_unused=True, is_grads_batched=True, retain_graph=True
                )
                return [
                    i.new_zeros(V, *i.shape) if g is None else g
                    for g, i in zip(found, of, strict=True)
                ]
            except RuntimeError:
                # A backward of somebody's own need not know vmap: then one loss at a time.
                self._no_batch.append(True)
        each = [
            torch.autograd.grad(
                s_t, of, one, allow_unused=True, materialize_grads=True, retain_graph=V > 1
            )
            for one in delta
        ]
        return [torch.stack(parts) for parts in zip(*each, strict=True)]

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return dE/dW by one backward of the step over many steps' rows at once (eq. 5).

        Where the step looks at values, or its rows are not the same beside other rows, steps are
        taken one by one.
        """
        weights = {name: w.detach() for name, w in self.weights().items()}
        if not weights:
            return {}
        x, s_prev = tape.x, tape.s_prev()
        delta = adjoints[..., self.input_size :]
        if is_transforming():
            rows = x.flatten(0, 1), s_prev.flatten(0, 1)
            pull = torch.func.vjp(lambda w: rebind(self, w).next(*rows), weights)[1]
            return pull(delta.flatten(0, 1))[0]
        cell = rebind(self, {name: w.requires_grad_() for name, w in weights.items()})
        total = [torch.zeros_like(w) for w in weights.values()]
        whole = not self.apart and (tape.T == 1 or not probes.mixes_steps(self, tape))
        K = max(1, ROWS_AT_ONCE // max(1, tape.B)) if whole else 1
        for first in range(0, tape.T, K):
            steps = slice(first, min(first + K, tape.T))
            found = self._of_steps(
                cell, x[steps], s_prev[steps], tape.saved[2][steps], delta[steps],
                self.rows_of(tape.saved),
            )  # fmt: skip
            for sum_, grad in zip(total, found, strict=True):
                sum_ += grad
        return dict(zip(weights, total, strict=True))

    def takes_steps_at_once(self, tape: Tape) -> bool:
        """Check whether the rows of many steps give together what each step gives by itself."""
        if self.apart or (tape.T > 1 and probes.mixes_steps(self, tape)):
            return False
        s_prev, rows = tape.s_prev(), max(1, ROWS_AT_ONCE // max(1, tape.B))
        for first in range(0, tape.T, rows):
            steps = slice(first, first + rows)
            x, before, s = (p[steps].flatten(0, 1) for p in (tape.x, s_prev, tape.s[1:]))
            with torch.no_grad(), probes.LooksAtValues() as values:
                again = self.next(x, before)
            stayed = (s == before).all(-1, keepdim=True)
            if values.seen or not probes.alike(torch.where(stayed, s, again), s):
                return False
        return True

    def _of_steps(
        self,
        cell: Function,
        x: Tensor,
        s_prev: Tensor,
        s: Tensor,
        delta: Tensor,
        rows: Tensor | None,
    ) -> list[Tensor]:
        """Return some steps' share of dE/dW: at once where that is the same, else one by one."""
        weights = list(cell.weights().values())
        before, given = s_prev.detach().flatten(0, 1), s.flatten(0, 1)
        with torch.enable_grad(), probes.LooksAtValues() as values:
            again = cell.next(x.detach().flatten(0, 1), before, rows)
        if len(x) > 1:
            stayed = (given == before).all(-1, keepdim=True)
            same = probes.alike(torch.where(stayed, given, again.detach()), given)
            if values.seen or not same:
                each = [
                    self._of_steps(
                        cell, *(part[k : k + 1] for part in (x, s_prev, s, delta)), rows=rows
                    )
                    for k in range(len(x))
                ]
                return [torch.stack(parts).sum(0) for parts in zip(*each, strict=True)]
        else:
            probes.check_repeats(again.detach(), given, before)
        if not again.requires_grad:
            return [torch.zeros_like(w) for w in weights]
        found = torch.autograd.grad(
            again, weights, delta.flatten(0, 1), allow_unused=True, materialize_grads=True
        )
        return list(found)

    def input_grad(self, adjoints: Tensor) -> Tensor:
        """Return dE/dx: the first I columns of the adjoints."""
        return adjoints[..., : self.input_size]

    @property
    def has_preact(self) -> bool:
        """Whether a_t is a sum that weights lead to: it is not, but the input itself."""
        return False

    @property
    def rows_depend(self) -> bool:
        """Whether `examine` found that a row's state depends on the other rows of the batch."""
        return self.apart == probes.DEPENDS

    def need_rows_apart(
        self, cannot: str, instead: str, tape: Tape | None = None, rows: int | None = None
    ) -> None:
        """Raise where a row's state depends on the others: `examine` found it, or steps show it.

        Args:
            cannot: what such a step cannot do, as the end of a sentence.
            instead: what else is there, as the end of another.
            tape: steps of which some are looked at.
            rows: how many rows there are, where there is no tape.

        Raises:
            UnsupportedError: it does.
        """
        if (rows if tape is None else tape.B) == 1:
            return  # there is no other row
        if self.rows_depend or (tape is not None and probes.mixes_rows(self, tape)):
            raise UnsupportedError(
                f"a step in which a row's state depends on the other rows of the batch {cannot}. "
                f"Give the step statistics of its own row (layer norm), or {instead}."
            )

    def examine(self, x: Tensor, s: Tensor, *, anew: bool = True) -> None:
        """Try the step on the first rows of a sequence, before anything rests on it.

        Whether rows are independent is written down in ``apart``; it is no error.

        Args:
            x: an input (B, I).
            s: a state (B, S).
            anew: also where a step of this form, on so many rows, was tried before.

        Raises:
            GraphError: it depends on a tensor that requires grad and is no declared weight, whose
                gradient would be lost without a word; or autograd cannot see what it does.
            InputValueError: it writes into its arguments, or gives another state the second time.
            NonFiniteError: it makes NaN of finite numbers.
        """
        # What costs more steps is tried again only where rows or modes are not as before.
        modes = tuple(module.training for module in self.modules())
        beside = tuple((name, tensor.shape) for name, tensor in self.given.items())
        case = (x.shape, s.shape, x.dtype, x.device, modes, beside)
        unseen = torch.compiler.is_compiling()  # sizes may be no numbers there
        if not anew and not unseen and case in self._tried:
            self.apart, self.own_rows = self._tried[case]
            return
        tensors = {**self.weights(), **self.given}
        cell = rebind(self, {name: tensor.detach() for name, tensor in tensors.items()})
        x, s = x.detach(), s.detach()
        # Running statistics and the like must not see rows that are made up.
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        with torch.enable_grad():
            s_t = cell.next(x.clone(), s.clone())
        if s_t.requires_grad:
            raise GraphError(
                "the step function uses a tensor that requires grad and is not among its weights, "
                "so its gradient would be lost. Pass it in weights={name: tensor}, or, where "
                "something else computes it, as layer(x, context={name: tensor}); or make the step "
                "an nn.Module that owns it."
            )
        if x.is_meta or is_transforming() or unseen:
            return  # there are no values to look at
        with torch.no_grad():
            if case not in self._tried:
                probes.check_finite(s_t, (x, s, *cell.weights().values()))
                probes.check_graph(self, x, s)
                if len(self._tried) >= 64:
                    self._tried.clear()
                self._tried[case] = probes.why_apart(cell, x, s), probes.own_rows(cell, x, s)
            self.apart, self.own_rows = self._tried[case]
            for buffer, before in buffers:
                if not torch.equal(buffer, before):  # a write would spoil a graph it is part of
                    buffer.copy_(before)
