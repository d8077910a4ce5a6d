"""Weights that are computed from others: parametrizations, weight norm, spectral norm."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["with_computed_weights"]

M = TypeVar("M", bound=nn.Module)


def with_computed_weights(module: M) -> M:
    """Return the module with every computed weight in place, as a tensor of the graph.

    Where no weight is computed that is ``module`` itself. Otherwise it is another object, of the
    class before parametrization, over the same other tensors. The gradient of a computed weight
    goes on to what the weight is computed from.

    Args:
        module: any module.
    """
    if not any(map(_computes, module.modules())):
        return module
    new = object.__new__(_own_class(module))
    weights, state = _weights(module), dict(vars(module))
    for name in weights:
        state.pop(name, None)  # the hook leaves its last result here
    children = {
        name: child if child is None else with_computed_weights(child)
        for name, child in module._modules.items()
        if name != "parametrizations"
    }
    done = _hooks(module)
    hooks = {key: hook for key, hook in module._forward_pre_hooks.items() if hook not in done}
    new.__dict__.update(state, _parameters=weights, _modules=children, _forward_pre_hooks=hooks)
    return new


def _computes(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or bool(_hooks(module))


def _hooks(module: nn.Module) -> list[WeightNorm | SpectralNorm]:
    hooks = module._forward_pre_hooks.values()
    return [hook for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))]


def _own_class(module: nn.Module) -> type:
    """Return a module's own class; a parametrization puts a subclass in front of it."""
    kind = type(module)
    return kind.__bases__[0] if parametrize.is_parametrized(module) else kind


def _weights(module: nn.Module) -> dict[str, Tensor | None]:
    """Return the parameters of one module, with the computed ones in place of their sources."""
    weights: dict[str, Tensor | None] = dict(module._parameters)
    for hook in _hooks(module):
        if isinstance(hook, WeightNorm):
            computed = hook.compute_weight(module)
            sources = (f"{hook.name}_g", f"{hook.name}_v")
        else:
            computed = hook.compute_weight(module, do_power_iteration=module.training)
            sources = (f"{hook.name}_orig",)
        for source in sources:
            weights.pop(source, None)
        weights[hook.name] = computed
    if parametrize.is_parametrized(module):
        for name in module.parametrizations:  # pyright: ignore[reportGeneralTypeIssues]
            weights[name] = getattr(module, name)
    return weights
