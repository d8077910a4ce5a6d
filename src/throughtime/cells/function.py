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
    NonFiniteError,
    ShapeError,
    UnsupportedError,
)
from ..shapes import check_sizes
from .base import AbstractCell, rebind

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["Function"]

# Rows that one recomputation of the step for the weight gradients may hold at a time.
ROWS_AT_ONCE = 8192
DEPENDS = "a row's state depends on the other rows of the batch"


class Function(AbstractCell):
    """Any recurrence s_t = step(x_t, s_{t-1}) of differentiable torch operations (eq. 1).

    The rows of the batch should be independent of each other: the way back then runs the step on
    the rows of many steps at once. Where they are not (statistics over the batch, a constant of
    the batch's size), a layer finds out and goes one step at a time; ``apart`` says why, and
    `throughtime.kernels.last_choice` after the way back.

    The step is called again on the way back, so it must give the same again, and change nothing.

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
    ) -> None:
        """Take the step and its sizes.

        Args:
            step: ``step(x_t, s_prev) -> s_t``; a module, whose parameters are then the weights, or
                a function, called as ``step(x_t, s_prev, **weights)``.
            input_size: I.
            hidden_size: H, the leading columns of the state that the layer puts out.
            state_size: S; H where None.
            weights: the tensors that a plain function is to be differentiated by.

        Raises:
            InputTypeError: ``step`` cannot be called, a size is no integer, ``weights`` no dict,
                or a weight no tensor.
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
                "weights= is for a plain function; a module's own parameters are its weights."
            )
        self.input_size = self.preact_size = input_size
        self.hidden_size, self.state_size = hidden_size, state_size
        self.step_function = step
        self.apart = ""
        self._tried: dict[tuple, str] = {}
        if weights is not None and not isinstance(weights, Mapping):
            raise InputTypeError(
                f"weights must be a dict of tensors by name; got {type(weights).__name__}."
            )
        self.names = tuple(weights or ())
        for name, weight in (weights or {}).items():
            self._check_weight(name, weight)
            self.register_parameter(
                name, weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
            )

    def _check_weight(self, name: object, weight: object) -> None:
        if not isinstance(name, str) or not name.isidentifier() or hasattr(self, name):
            raise InputValueError(
                f"a weight cannot be called {name!r}: the step takes it by that name, and the cell "
                "must have none like it of its own; give it another."
            )
        if not isinstance(weight, Tensor):
            raise InputTypeError(f"weight {name} must be a tensor; got {type(weight).__name__}.")
        if not (weight.is_floating_point() or weight.is_complex()):
            raise DtypeError(
                f"weight {name} must be of floating point to have a gradient; got {weight.dtype}. "
                "Let the step take other tensors from where it is written."
            )

    def drive(self, x: Tensor) -> Tensor:
        """Give x itself: the whole step is the function's."""
        return x

    def next(self, x_t: Tensor, s_prev: Tensor) -> Tensor:
        """Give s_t for any number of rows, and look at its form and at what became of the rest.

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
        s_t = self.step_function(x_t, s_prev, **weights)
        if versions is not None and versions != (x_t._version, s_prev._version):
            raise InputValueError(
                "the step function writes into the input or the state that it is given, which are "
                "needed on the way back; got changed ones. Write `s = s * decay` for "
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
        """Give s_t = step(x_t, s_{t-1}); a_t is x_t."""
        return self.next(a_t, s_prev), (a_t, s_prev)

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back; the adjoint is (dE/dx_t, delta_t), (V, B, I+S)."""
        V, B, S = delta.shape
        if self.apart and V > 1:
            each = [self.vjp(saved, one[None]) for one in delta]
            return tuple(torch.cat(parts) for parts in zip(*each, strict=True))  # pyright: ignore
        # The V losses become rows: rows are independent, so no step need support vmap.
        x_t, s_prev = (kept.detach().expand(V, *kept.shape).flatten(0, 1) for kept in saved)
        frozen = rebind(self, {name: w.detach() for name, w in self.weights().items()})
        x_t.requires_grad_()
        s_prev.requires_grad_()
        with torch.enable_grad():
            s_t = frozen.next(x_t, s_prev)
        if not s_t.requires_grad:
            return torch.zeros_like(delta), torch.cat(
                (delta.new_zeros(V, B, x_t.shape[1]), delta), -1
            )
        grad_x, grad_s = torch.autograd.grad(
            s_t, (x_t, s_prev), delta.flatten(0, 1), allow_unused=True, materialize_grads=True
        )
        grad_x, grad_s = grad_x.view(V, B, -1), grad_s.view(V, B, S)
        return grad_s, torch.cat((grad_x, delta), -1)

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Give dE/dW by one backward of the step over many steps' rows at once (eq. 5)."""
        weights = {name: w.detach() for name, w in self.weights().items()}
        if not weights:
            return {}
        x, s_prev = tape.x.flatten(0, 1), tape.s_prev().flatten(0, 1)
        delta = adjoints[..., self.input_size :].flatten(0, 1)
        if _transformed():
            pull = torch.func.vjp(lambda w: rebind(self, w).next(x, s_prev), weights)[1]
            return pull(delta)[0]
        weights = {name: w.requires_grad_() for name, w in weights.items()}
        cell = rebind(self, weights)
        total = [torch.zeros_like(w) for w in weights.values()]
        for rows in torch.arange(len(x), device=x.device).split(self._rows_at_once(tape.B)):
            with torch.enable_grad():
                s_t = cell.next(x[rows].detach(), s_prev[rows].detach())
            if not s_t.requires_grad:
                break
            grads = torch.autograd.grad(
                s_t, list(weights.values()), delta[rows], allow_unused=True, materialize_grads=True
            )
            for sum_, grad in zip(total, grads, strict=True):
                sum_ += grad
        return dict(zip(weights, total, strict=True))

    def _rows_at_once(self, B: int) -> int:
        return B if self.apart else ROWS_AT_ONCE

    def input_grad(self, adjoints: Tensor) -> Tensor:
        """Give dE/dx: the first I columns of the adjoints."""
        return adjoints[..., : self.input_size]

    def need_rows_apart(self, cannot: str, instead: str) -> None:
        """Raise where a row's state depends on the other rows, as `examine` found.

        Args:
            cannot: what such a step cannot do, as the end of a sentence.
            instead: what else is there, as the end of another.

        Raises:
            UnsupportedError: it does.
        """
        if self.apart == DEPENDS:
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
        case = (x.shape, s.shape, x.dtype, x.device, modes)
        if not anew and case in self._tried:
            self.apart = self._tried[case]
            return
        cell = rebind(self, {name: w.detach() for name, w in self.weights().items()})
        x, s = x.detach(), s.detach()
        # Running statistics and the like must not see rows that are made up.
        buffers = [(buffer, buffer.clone()) for buffer in self.buffers()]
        with torch.enable_grad():
            s_t = cell.next(x.clone(), s.clone())
        if s_t.requires_grad:
            raise GraphError(
                "the step function uses a tensor that requires grad and is not among its weights, "
                "so its gradient would be lost. Pass it in weights={name: tensor}, or make the "
                "step an nn.Module that owns it."
            )
        if x.is_meta or _transformed() or torch.compiler.is_compiling():
            return  # there are no values to look at
        with torch.no_grad():
            if case not in self._tried:
                _check_finite(s_t, (x, s, *cell.weights().values()))
                _check_graph(self, x, s)
                if len(self._tried) >= 64:
                    self._tried.clear()
                self._tried[case] = _apart(cell, x, s, s_t)
            self.apart = self._tried[case]
            for buffer, before in buffers:
                if not torch.equal(buffer, before):  # a write would spoil a graph it is part of
                    buffer.copy_(before)


def _transformed() -> bool:
    """Say whether `torch.func` is at work: within it autograd's own functions are refused."""
    return torch._C._are_functorch_transforms_active()


def alike(a: Tensor, b: Tensor) -> bool:
    """Say whether two states or what a step made on its way are equal but for rounding."""
    if not b.is_floating_point():
        return torch.equal(a, b)
    tolerance = torch.finfo(b.dtype).eps ** 0.5
    largest = b.abs().max() if b.numel() else b.new_zeros(())
    if bool((a - b).abs().max() <= tolerance * largest) if b.numel() else True:
        return True
    scale = float(b.nan_to_num(0, 0, 0).abs().max())  # inf and NaN may stand where they should
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _check_finite(s_t: Tensor, given: tuple[Tensor, ...]) -> None:
    if s_t.isnan().any() and all(tensor.isfinite().all() for tensor in given):
        row, unit = s_t.isnan().nonzero()[0].tolist()
        raise NonFiniteError(
            "the step function makes NaN of finite input, state and weights: at step 1 got NaN in "
            f"row {row}, unit {unit}. Look at logarithms, roots and quotients in it."
        )


def _check_graph(cell: Function, x: Tensor, s: Tensor) -> None:
    """Raise where nothing that the step is given gets a gradient."""
    weights = {name: w.detach().requires_grad_() for name, w in cell.weights().items()}
    x, s = x.clone().requires_grad_(), s.clone().requires_grad_()
    with torch.enable_grad():
        # Not the given ones, which a step may not write into: leaves refuse that in other words.
        s_t = rebind(cell, weights).next(x * 1, s * 1)
    # A state that depends on nothing has no gradient either, and that is right.
    if not s_t.requires_grad and not alike(rebind(cell, weights).next(1 - x, 1 - s), s_t):
        raise GraphError(
            "autograd sees nothing of what the step function does, so all its gradients would be "
            "0; got a state without a graph. Leave out detach(), no_grad() and NumPy."
        )


def _apart(cell: Function, x: Tensor, s: Tensor, s_t: Tensor) -> str:
    """Say why rows cannot be computed beside other rows; nothing where they can."""
    before = torch.get_rng_state()
    again = cell.next(x.clone(), s.clone())
    drew = not torch.equal(before, torch.get_rng_state())
    if drew or not alike(again, s_t):
        raise InputValueError(
            "the step function must give the same state when called again with the same, since the "
            f"way back calls it again; got {'one that draws random numbers' if drew else 'another'}"
            ". Draw what is random outside and pass it in as part of the input, or call eval() on "
            "what drops units."
        )
    more = torch.cat((x, 1 - 2 * x.flip(0))), torch.cat((s, 1 - 2 * s.flip(0)))
    try:
        beside = cell.next(*more)[: len(s)]
    except Exception as error:
        return f"the step cannot take {len(more[0])} rows instead of {len(s)} ({error})"
    return "" if alike(beside, s_t) else DEPENDS
