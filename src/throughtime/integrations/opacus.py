"""Opacus: differentially private training of models with this package's layers.

Opacus (Yousefpour et al. 2021) clips each row's own gradient, which it takes from hooks on a
module's input and output. A recurrent layer has more than these: an initial and a final state, a
packed input, lengths. So here the layers' own backward sweep, which has each row's share (eq. 5),
leaves it where Opacus looks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import wraps
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedError
from ..kernels import by_row
from ..layers import GRU, LSTM, RNN, Recurrent
from ..layers.per_sample import layer_weights

__all__ = ["register"]

LAYERS = (RNN, LSTM, GRU, Recurrent)
# The mark on Opacus's class that these layers are known to it.
KNOWN = "_throughtime"


def register() -> None:
    """Teach Opacus each row's gradient in `tt.RNN`, `LSTM`, `GRU` and `Recurrent` (eq. 5).

    From then on ``PrivacyEngine.make_private`` and ``GradSampleModule`` take models with these
    layers: several layers, both directions, ``batch_first``, packed sequences, lengths, resets,
    initial and final states, any cell, any schedule, batches without a row. A share is scaled as
    Opacus scales those of its own modules, for ``loss_reduction="mean"`` and ``"sum"``. The modes
    "hooks", "functorch" and "ghost" do the same for these layers; "ew" is refused. To call it again
    changes nothing.

    Raises:
        UnsupportedError: Opacus is not installed, or is one without the methods that are extended;
            later, from ``make_private``: a weight is computed from others, or belongs to no cell,
            or the mode is "ew".
        ShapeError: later, from ``backward``: a weight is used for batches of different sizes.

    Cost:
        that of `tt.per_sample_grads`; ``benchmarks/bench_opacus.py`` compares it with ``DPLSTM``.

    Source:
        Yousefpour et al. (2021), "Opacus: User-Friendly Differential Privacy Library in PyTorch".

    Example:
        >>> from throughtime.integrations import opacus
        >>> opacus.register()  # doctest: +SKIP
        >>> model = tt.convert(model)  # doctest: +SKIP
        >>> model, optimizer, loader = PrivacyEngine().make_private(...)  # doctest: +SKIP
    """
    module = _opacus("opacus.grad_sample.grad_sample_module").GradSampleModule
    weights = _opacus("opacus.grad_sample.gsm_exp_weights").GradSampleModuleExpandedWeights
    if hasattr(module, KNOWN):
        return
    walks = [kind for kind in module.__mro__ if "iterate_submodules" in vars(kind)]
    if not walks or "add_hooks" not in vars(walks[0]):
        raise UnsupportedError(
            "This Opacus has no GradSampleModule with iterate_submodules and add_hooks, which are "
            "extended here; 1.5 and 1.6 have it."
        )
    hooks = walks[0]
    hooks.iterate_submodules = _leaving_out(hooks.iterate_submodules)
    hooks.add_hooks = _serving(hooks.add_hooks)
    weights.__init__ = _refusing(weights.__init__)
    setattr(hooks, KNOWN, True)


def _opacus(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UnsupportedError(
            f"Opacus is not there ({error}); pip install opacus, or take each row's gradient from "
            "tt.per_sample_grads."
        ) from error


def _leaving_out(walk: Any) -> Any:
    """Return Opacus's walk over the modules that it hooks, which notes these layers instead."""

    @wraps(walk)
    def iterate_submodules(self, module: nn.Module) -> Iterator[nn.Module]:
        if not isinstance(module, LAYERS):
            yield from walk(self, module)
        elif any(p.requires_grad for p in module.parameters()):
            vars(self).setdefault("_recurrent", []).append(module)

    return iterate_submodules


def _serving(add_hooks: Any) -> Any:
    """Return Opacus's placing of its hooks, which places those of `Served` as well."""

    @wraps(add_hooks)
    def with_ours(self, **options: Any) -> None:
        add_hooks(self, **options)
        for layer in vars(self).pop("_recurrent", ()):
            served = Served(self, layer, mean=options.get("loss_reduction", "mean") == "mean")
            self._module.autograd_grad_sample_hooks.extend(served.place())

    return with_ours


def _refusing(init: Any) -> Any:
    """Return the constructor of Opacus's mode "ew", which refuses a model with these layers."""

    @wraps(init)
    def checked(self, m: nn.Module, **options: Any) -> None:
        if any(isinstance(module, LAYERS) for module in m.modules()):
            raise UnsupportedError(
                'grad_sample_mode="ew" replaces the weights by tensors of another kind, which the '
                'recurrent layers of throughtime do not take; take "hooks" or "ghost".'
            )
        init(self, m, **options)

    return checked


class Served:
    """One layer of a model that Opacus has wrapped.

    Each call of the layer in training asks for its rows' shares; its backward pass, whenever it
    comes, adds them up for each weight, and when the last of a weight's uses has come back they
    are the weight's ``grad_sample``: Opacus's own way of counting, so that a weight may be shared
    with a module that Opacus serves.
    """

    def __init__(self, wrapper: Any, layer: nn.Module, *, mean: bool) -> None:
        """Take Opacus's wrapper and one of the layers in it.

        Args:
            wrapper: the ``GradSampleModule``.
            layer: the layer.
            mean: whether the loss is a mean over the rows, so that a share is to be scaled by B.

        Raises:
            UnsupportedError: a weight is computed from others, or belongs to no cell.
        """
        self.wrapper, self.layer, self.mean = wrapper, layer, mean
        self.weights = tuple(layer_weights(layer).values())
        known = set(map(id, self.weights))
        for name, p in layer.named_parameters():
            if p.requires_grad and id(p) not in known:
                raise UnsupportedError(
                    f"{name} of a {type(layer).__name__} is no weight of its cell, so no row's "
                    "share of its gradient is known; freeze it, or move it into a module around "
                    "the layer."
                )
        self.calls: list[by_row.Collector] = []

    def place(self) -> Iterable[Any]:
        """Place the hooks and return their handles."""
        for weight in self.weights:
            setattr(weight, by_row.TAKEN, True)
        return (
            self.layer.register_forward_pre_hook(self.before),
            self.layer.register_forward_hook(self.after, always_call=True),
            _Mark(self.weights),
        )

    def before(self, layer: nn.Module, _inputs: Any) -> None:
        """Ask for the shares of the call that begins."""
        if layer.training and torch.is_grad_enabled() and self.wanted():
            call = by_row.Collector(self.weights, self.take, self.begin, self.wanted)
            self.calls.append(call)
            by_row.CALLS.append(call)

    def after(self, _layer: nn.Module, _inputs: Any, _output: Any) -> None:
        """Ask no more: the call is over, or failed."""
        for call in self.calls:
            by_row.CALLS.remove(call)
        self.calls.clear()

    def wanted(self) -> bool:
        """Check whether Opacus's hooks are on; for its second backward pass they are not."""
        return self.wrapper.hooks_enabled

    def begin(self, weights: list[Tensor]) -> None:
        """Count one more use of some weights."""
        for weight in weights:
            weight._forward_counter += 1  # pyright: ignore[reportAttributeAccessIssue]

    def take(self, weight: Any, shares: Tensor) -> None:
        """Add the rows' shares of one use of a weight, and hand on the sum after the last one.

        Args:
            weight: the weight.
            shares: (B, ·).

        Raises:
            ShapeError: another use of the weight had a batch of another size.
        """
        shares = shares * len(shares) if self.mean else shares
        already = getattr(weight, "_current_grad_sample", None)
        if already is not None and len(already) != len(shares):
            raise ShapeError(
                f"a weight of shape {tuple(weight.shape)} is used for batches of {len(already)} "
                f"and of {len(shares)} rows in one step, so that no row's gradient is known; call "
                "the layer with the whole batch."
            )
        weight._current_grad_sample = shares if already is None else already + shares
        weight._forward_counter -= 1
        if weight._forward_counter == 0:
            _hand_on(self.wrapper, weight)


class _Mark:
    """The mark on the weights, as something that Opacus removes together with the hooks."""

    def __init__(self, weights: tuple[Tensor, ...]) -> None:
        self.weights = weights

    def remove(self) -> None:
        for weight in self.weights:
            vars(weight).pop(by_row.TAKEN, None)


def _hand_on(wrapper: Any, weight: Any) -> None:
    """Make the sum of a weight's shares its ``grad_sample``, or in the mode "ghost" its norms.

    Raises:
        ValueError: as Opacus raises it: a second backward pass before the step, where the batches
            are drawn by Poisson sampling.
    """
    _opacus("opacus.grad_sample.grad_sample_module").promote_current_grad_sample(weight)
    several = isinstance(weight.grad_sample, list)
    if several and not wrapper.grad_accumulation_allowed:
        raise ValueError(
            "Poisson sampling is not compatible with grad accumulation. You need to call "
            "optimizer.step() after every forward/backward pass or consider using "
            "BatchMemoryManager"
        )
    if hasattr(wrapper, "get_norm_sample"):
        shares: Tensor = weight.grad_sample
        weight._norm_sample = shares.flatten(1).norm(2, dim=-1)
        weight.grad_sample = None
