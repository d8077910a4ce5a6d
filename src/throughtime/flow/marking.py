"""`mark` and `mark_steps`: a state, or a whole axis, that no module stands for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, overload

import torch
from torch import Tensor, nn

from ..errors import GraphError, InputTypeError, InputValueError, ShapeError
from ..node.alias import alias_of, aliased
from ..node.recording import Key, Recording, Step
from ..torch_state import is_transformed

__all__ = ["mark", "mark_steps", "taking_marks"]


class Taker(NamedTuple):
    """A trace that takes marks down, and the model that it watches; None: any."""

    recording: Recording
    model: nn.Module | None


_TAKERS: ContextVar[tuple[Taker, ...]] = ContextVar("takers", default=())


@contextmanager
def taking_marks(recording: Recording, model: nn.Module | None) -> Iterator[None]:
    """Let a trace take down the marks that are made within a block."""
    own = Taker(recording, model)
    _TAKERS.set((*_TAKERS.get(), own))
    try:
        yield
    finally:  # not by a token: traces may end in any order
        _TAKERS.set(tuple(taker for taker in _TAKERS.get() if taker is not own))


@overload
def mark(name: str, state: Tensor, /, *, batch_dim: int | None = None) -> Tensor: ...
@overload
def mark(
    name: str, first: Tensor, second: Tensor, /, *, batch_dim: int | None = None
) -> tuple[Tensor, Tensor]: ...
@overload
def mark(
    name: str, *state: Tensor, batch_dim: int | None = None
) -> Tensor | tuple[Tensor, ...]: ...
def mark(name: str, *state: Tensor, batch_dim: int | None = None) -> Tensor | tuple[Tensor, ...]:
    """Mark tensors as the state s_t after one more step, inside a loop over time.

    Outside a trace the arguments come back untouched. Inside one, aliases of them do, which must
    be used from there on: what is read from them is what dE/ds_t counts. An LSTM's h_t is computed
    from c_t; marked together, as one state, the two are independent.

    Args:
        name: what the run is called in the flow. One call is one step.
        state: the state's parts, of any shape, the same at each step.
        batch_dim: which axis of every part holds the batch rows; by default the first where all
            parts have two axes or more and as many rows; else none, so that B = 1.

    Returns:
        The one tensor, or a tuple of them.

    Raises:
        InputTypeError: no tensor, or one of another type than floating point.
        InputValueError: a batch axis that is not there, or is another one in each part.
        ShapeError: another number of parts, or other shapes, than at the step before; parts of
            unequal batches.
        GraphError: the state of the step before, unchanged; a call outside the traced model.

    Example:
        >>> class Decay(torch.nn.Module):
        ...     def forward(self, x):
        ...         s = torch.zeros(2, 3)
        ...         for x_t in x:
        ...             s = tt.mark("s", 0.5 * s + x_t)
        ...         return s
        >>> model = Decay()
        >>> with tt.trace(model) as trace:
        ...     loss = model(torch.randn(4, 2, 3)).sum()
        >>> trace.flow(loss)["s"].jacobian_product(4, 2)[0].diagonal()
        tensor([0.2500, 0.2500, 0.2500])
    """
    if torch.compiler.is_compiling():  # which no trace does
        return state[0] if len(state) == 1 else state
    _check_state(name, state)
    recording = _recording(name, "tt.mark")
    if recording is None:
        return state[0] if len(state) == 1 else state
    key = Key("mark", name)
    if all(alias_of(part) == key for part in state):
        raise GraphError(
            f'tt.mark("{name}", …) was given the state that the mark before it returned, so the '
            "state was marked twice in one step. Mark it once in each step, after the update."
        )
    before = next((call for call in reversed(recording.calls) if call.key == key), None)
    if isinstance(before, Step):
        _check_shapes(name, state, before)
    rows = _rows(name, state, batch_dim)
    step = aliased(recording, key, state)
    frame = sys._getframe(1)
    step.rows, step.site = rows, (frame.f_code, frame.f_lasti)
    return step.out[0] if len(state) == 1 else step.out


def mark_steps(name: str, x: Tensor, dim: int = 0, batch_dim: int | None = None) -> Tensor:
    """Mark a tensor whose positions along an axis are the steps 1…T, of any causal model.

    The flow's ``norms[v, k, b]`` is then ‖∂E_v/∂x_k‖₂: how far back each loss looks, whatever the
    model is. There is no state between the steps, and so no Jacobian of one.

    Args:
        name: what the run is called in the flow.
        x: the embedded input, say; any shape with an axis of steps.
        dim: the axis of the steps.
        batch_dim: the axis of the batch rows; by default the first other one of a tensor of three
            or more axes, and none of a smaller one.

    Returns:
        ``x`` itself outside a trace; inside one, an alias of it, to be used instead.

    Raises:
        InputTypeError: ``x`` is no floating-point tensor.
        InputValueError: an axis that is not there, or the same one twice.
        GraphError: a call outside the traced model.

    Example:
        >>> model = torch.nn.Conv1d(3, 5, 2)
        >>> with tt.trace() as trace:
        ...     x = tt.mark_steps("input", torch.randn(2, 3, 8), dim=2)
        ...     losses = model(x).pow(2).mean((0, 1))
        >>> (trace.flow(losses)["input"].norms[6, 1:, 0] > 0).int()
        tensor([0, 0, 0, 0, 0, 0, 1, 1], dtype=torch.int32)
    """
    if torch.compiler.is_compiling():
        return x
    _check_state(name, (x,))
    steps = _axis("dim", dim, x.dim())
    if batch_dim is None:
        rows = None if x.dim() < 3 else int(steps == 0)
    else:
        rows = _axis("batch_dim", batch_dim, x.dim())
    if rows == steps:
        raise InputValueError(f"dim and batch_dim must differ; got axis {steps} for both.")
    recording = _recording(name, "tt.mark_steps")
    if recording is None:
        return x
    step = aliased(recording, Key("axis", name), (x,))
    step.rows, step.steps = rows, steps
    return step.out[0]


def _check_state(name: str, state: tuple[object, ...]) -> None:
    if not isinstance(name, str):
        raise InputTypeError(f"a mark's name must be a string; got {type(name).__name__}.")
    if not state:
        raise InputTypeError(f'tt.mark("{name}") needs the state\'s tensors after its name.')
    for part in state:
        if not isinstance(part, Tensor) or not part.is_floating_point():
            got = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise InputTypeError(
                f'the state of tt.mark("{name}") must be float tensors; got {got}.'
            )


def _check_shapes(name: str, state: tuple[Tensor, ...], before: Step) -> None:
    now, then = [tuple(p.shape) for p in state], [tuple(p.shape) for p in before.values]
    if now != then:
        raise ShapeError(
            f'tt.mark("{name}", …) takes the same parts at each step; got shapes {now} after '
            f"{then}. Give another sequence another name."
        )


def _rows(name: str, state: tuple[Tensor, ...], batch_dim: int | None) -> int | None:
    """Return the axis of the batch rows, the same in all parts; None: there is none."""
    axes = {part.dim() for part in state}
    if batch_dim is None:
        alike = min(axes) > 1 and len({part.shape[0] for part in state}) == 1
        return 0 if alike else None
    rows = _axis("batch_dim", batch_dim, min(axes))
    if batch_dim < 0 and len(axes) > 1:
        raise InputValueError(
            f"batch_dim={batch_dim} is another axis in each part of {sorted(axes)} axes; count it "
            "from the front."
        )
    if len({part.shape[rows] for part in state}) > 1:
        raise ShapeError(
            f'the parts of tt.mark("{name}", …) must have as many rows along batch_dim={batch_dim};'
            f" got shapes {[tuple(part.shape) for part in state]}."
        )
    return rows


def _axis(name: str, value: int, axes: int) -> int:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not -axes <= value < axes:
        raise InputValueError(f"{name} must be one of the tensor's {axes} axes; got {value!r}.")
    return value % axes


def _recording(name: str, call: str) -> Recording | None:
    """Return the recording that takes a mark down; None where no trace does."""
    takers = _TAKERS.get()
    if not takers or not torch.is_grad_enabled() or is_transformed(()):
        return None
    for taker in reversed(takers):
        if taker.model is None or _runs(taker.model):
            return taker.recording
    model = takers[-1].model
    raise GraphError(
        f'{call}("{name}", …) was called outside the model that is traced, '
        f"{type(model).__name__}. Call it in the model's own code, or trace with tt.trace(), "
        "without a model, which takes down the marks alone."
    )


def _runs(model: nn.Module) -> bool:
    """Check whether code of the model is running: a method of it or of a module in it."""
    own = set(map(id, model.modules()))
    frame = sys._getframe(3)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and id(frame.f_locals.get(code.co_varnames[0])) in own:
            return True
        frame = frame.f_back
    return False
