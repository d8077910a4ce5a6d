"""Clipping: the finished gradient scaled down to a norm."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from numbers import Real

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ..errors import ConvertWarning, InputTypeError, InputValueError
from ..layers import convert, set_through
from ..norms import size, vector_norm
from ..schedules import Truncated
from .base import Case, Change, Remedy, copied
from .places import Place, places_of
from .schedule import KINDS

__all__ = ["CLIP", "clip_gradient_", "clipping"]

# How many steps behind the end set the threshold.
NEAR = 10
# A profile that grows by more than this is worth a threshold.
GROWS = 10.0


def clip_gradient_(parameters: Tensor | Iterable[Tensor], most: float) -> float:
    """Scale gradients so that their common norm is at most ``most``: G ← G·min(1, most/‖G‖₂).

    The norm is taken in float64, of the entries divided by the largest. In float32, where
    `torch.nn.utils.clip_grad_norm_` takes it, the squares of a finite gradient overflow from about
    1e19 on: the norm is inf, the factor 0, and the network stands still without a word. A gradient
    that is itself inf or NaN cannot be scaled (inf·0 is NaN) and is left as it is: look at what is
    returned.

    Args:
        parameters: whose ``.grad`` is scaled, or one such tensor; those without one are passed
            over. Sparse gradients stay sparse.
        most: the norm, above 0; inf measures only.

    Returns:
        The norm before; inf or NaN where the gradient is not finite.

    Raises:
        InputValueError: ``most`` is not above 0.
        InputTypeError: ``most`` is no number, or ``parameters`` hold something else than tensors.

    Cost:
        three passes over the gradients.

    Source:
        Pascanu, Mikolov and Bengio (2013), algorithm 1.

    Example:
        >>> w = torch.zeros(2, requires_grad=True); w.grad = torch.tensor([3e30, 4e30])
        >>> norm = clip_gradient_([w], 1.0)
        >>> f"{norm:.0e}", [round(g, 3) for g in w.grad.tolist()]
        ('5e+30', [0.6, 0.8])
    """
    number = isinstance(most, Real) and not isinstance(most, bool)
    if not number or not most > 0:
        raise (InputValueError if number else InputTypeError)(
            f"most must be a number above 0; got {most!r}."
        )
    each = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    for one in each:
        if not isinstance(one, Tensor):
            raise InputTypeError(
                f"parameters must be tensors, such as model.parameters(); got {type(one).__name__}."
            )
    grads = [p.grad for p in each if p.grad is not None]
    values = [_values(grad) for grad in grads]
    values = [v for v in values if v.numel()]
    if not values:
        return 0.0
    largest = max(float(v.abs().max()) for v in values)
    if any(bool(v.isnan().any()) for v in values):
        return math.nan
    if largest == 0 or not math.isfinite(largest):
        return largest
    parts = [float(torch.linalg.vector_norm(_wide(v) / largest)) for v in values]
    norm = largest * math.hypot(*parts)
    if norm > most:
        factor = most / norm
        for grad in grads:
            if factor > 1e-30:
                grad.mul_(factor)
            else:  # in two steps: the factor may underflow where the product does not
                grad.div_(largest).mul_(most / math.hypot(*parts))
    return norm


def _values(grad: Tensor) -> Tensor:
    """Return the entries of a gradient; of a sparse one those that are there, each once."""
    if grad.layout == torch.sparse_coo:
        return grad.coalesce().values()
    return grad if grad.layout == torch.strided else grad.values()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.complex128 if values.is_complex() else torch.float64)


@contextmanager
def clipping(parameters: Iterable[Tensor], most: float) -> Iterator[None]:
    """Clip the gradient before each step of any optimizer that holds these parameters.

    What is clipped is the norm over all parameters of that optimizer, as `clip_gradient_` does when
    it is called before ``optimizer.step()``; others are left alone.

    Args:
        parameters: of the model that is trained.
        most: the norm.

    Example:
        >>> w = torch.nn.Parameter(torch.zeros(1)); sgd = torch.optim.SGD([w], 1.0)
        >>> w.grad = torch.tensor([8.0])
        >>> with clipping([w], 0.5):
        ...     sgd.step()
        >>> w.item()
        -0.5
    """
    own = {id(p) for p in parameters}

    def clip(optimizer: Optimizer, args: object, named: object) -> None:
        del args, named
        held = [p for group in optimizer.param_groups for p in group["params"]]
        if any(id(p) in own for p in held):
            clip_gradient_(held, most)

    hook = register_optimizer_step_pre_hook(clip)
    try:
        yield
    finally:
        hook.remove()


def threshold(case: Case) -> float:
    """Return the norm that the gradient of all parameters has when it goes ten steps back.

    What explodes farther back does not set the threshold that is against it. Rounded to one digit;
    1 where nothing finite is there. Where a recurrence takes no schedule (a loop of a cell, a mark)
    the norm is that of the traced layers alone, see `_of_layers`.

    Args:
        case: the model, measured.
    """
    found = _truncated(case)
    if found is None:
        found = _of_layers(case)
    return float(f"{found:.0e}") if 0 < found < math.inf else 1.0


def _truncated(case: Case) -> float | None:
    """Return the norm over all parameters under `Truncated`; None where not all layers take it."""
    places = places_of(case.model, case.flow)
    held = {name for place in places for name in place.layers}
    if held != set(case.flow) or not all(type(place.module) in KINDS for place in places):
        return None
    model = copied(case.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvertWarning)
        model = set_through(convert(model), Truncated(NEAR, 1))
    if not all(hasattr(place.module, "through") for place in places_of(model, case.flow)):
        return None
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = case.losses(model).sum()
    grads = torch.autograd.grad(total, parameters, allow_unused=True)
    return math.hypot(*(size(g) for g in grads if g is not None))


def _of_layers(case: Case) -> float:
    """Add up, of each weight of the traced layers, the norms of the terms k > T − 10 of eq. 5."""
    squares = 0.0
    for layer in case.flow.values():
        for name in layer.weight_names:
            sizes = [
                float(vector_norm(layer.weight_grad(name, step=k).flatten().double()))
                for k in range(max(1, layer.T - NEAR + 1), layer.T + 1)
            ]
            squares += sum(sizes) ** 2
    return math.sqrt(squares)


def _fits(case: Case, place: Place) -> bool:
    del place
    return any(
        layer.first_nonfinite is not None or bool((layer.lag_profile() > GROWS).any())
        for layer in case.flow.values()
    )


def _change(case: Case, place: Place) -> Change:
    del place
    # Where it was measured, and not of each copy as it is trained.
    most = next((change.value for change in case.done if change.value is not None), None)
    most = threshold(case) if most is None else most
    line = f"clip_gradient_(model.parameters(), {most:g})  # after backward(), before step()"
    return Change(line, names=("clip_gradient_",), value=most)


def _during(case: Case) -> AbstractContextManager[None]:
    (change,) = case.done
    assert change.value is not None
    return clipping(list(case.model.parameters()), change.value)


CLIP = Remedy(
    name="clip",
    against=("explodes",),
    what="The gradient scaled down to a norm, where it is finite.",
    formula="G ← G·min(1, c/‖G‖₂), c the norm that ten steps back give",
    source="Pascanu, Mikolov and Bengio (2013), On the difficulty of training recurrent neural "
    "networks, algorithm 1",
    gains="Training that a single large step would throw off. It lengthens no reach, and an inf "
    "stays one.",
    fits=_fits,
    change=_change,
    whole=True,
    during=_during,
)
