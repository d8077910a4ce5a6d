"""A cell over any function of (x_t, state): autograd takes its adjoint, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import DtypeError, GraphError, InputTypeError, InputValueError, ShapeError
from ..shapes import check_sizes
from .base import AbstractCell, rebind

if TYPE_CHECKING:
    from ..tape import Tape

__all__ = ["Function"]

# Rows that one recomputation of the step for the weight gradients may hold at a time.
ROWS_AT_ONCE = 8192


class Function(AbstractCell):
    """Any recurrence s_t = step(x_t, s_{t-1}) of differentiable torch operations (eq. 1).

    The rows of the batch must be independent of each other: sweeps and weight gradients run the
    step on as many rows as there are losses and steps to carry.

    Shapes:
        x_t (B, I), s_t (B, S); the layer puts out the first H columns of s_t. A = I.

    Cost:
        back: one more forward and a backward of ``step`` a step, and the same once more over all
        steps for the weight gradients; keeps the inputs and the states alone.

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
            InputTypeError: ``step`` cannot be called, a size is no integer, or a weight no tensor.
            InputValueError: a size below 1, S below H, or weights beside a module.
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
        self.names = tuple(weights or ())
        for name, weight in (weights or {}).items():
            if not isinstance(weight, Tensor):
                raise InputTypeError(f"weight {name} must be a tensor; got {type(weight)}.")
            self.register_parameter(
                name, weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
            )

    def drive(self, x: Tensor) -> Tensor:
        """Give x itself: the whole step is the function's."""
        return x

    def next(self, x_t: Tensor, s_prev: Tensor) -> Tensor:
        """Give s_t of any number of rows, and look at its form."""
        own = self._parameters  # looked up first: Module.__getattr__ is slow
        weights = {n: own[n] if n in own else getattr(self, n) for n in self.names}
        s_t = self.step_function(x_t, s_prev, **weights)
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
        # The V losses become rows: rows are independent, so no step need support vmap.
        x_t, s_prev = (kept.detach().expand(V, *kept.shape).flatten(0, 1) for kept in saved)
        x_t.requires_grad_()
        s_prev.requires_grad_()
        with torch.enable_grad():
            frozen = {name: w.detach() for name, w in self.weights().items()}
            s_t = rebind(self, frozen).next(x_t, s_prev)
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
        weights = {name: w.detach().requires_grad_() for name, w in self.weights().items()}
        if not weights:
            return {}
        cell = rebind(self, weights)
        x, s_prev = tape.x.flatten(0, 1), tape.s_prev().flatten(0, 1)
        delta = adjoints[..., self.input_size :].flatten(0, 1)
        total = [torch.zeros_like(w) for w in weights.values()]
        for rows in torch.arange(x.shape[0], device=x.device).split(ROWS_AT_ONCE):
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

    def input_grad(self, adjoints: Tensor) -> Tensor:
        """Give dE/dx: the first I columns of the adjoints."""
        return adjoints[..., : self.input_size]

    def check_weights(self, x: Tensor, s: Tensor) -> None:
        """Raise if the step depends on a tensor that requires grad and is no declared weight.

        Args:
            x: an input (B, I).
            s: a state (B, S).

        Raises:
            GraphError: it does; its gradient would be lost without a word.
        """
        frozen = {name: w.detach() for name, w in self.weights().items()}
        with torch.enable_grad():
            s_t = rebind(self, frozen).next(x.detach(), s.detach())
        if s_t.requires_grad:
            raise GraphError(
                "the step function uses a tensor that requires grad and is not among its weights, "
                "so its gradient would be lost. Pass it in weights={name: tensor}, or make the "
                "step an nn.Module that owns it."
            )
