"""What a module and its parts keep in attributes: parameters to alias, and states between calls."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from operator import is_
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["Kept", "OwnAliases", "held", "is_state", "put_in", "spread"]

# What every module has, whoever wrote it.
PLAIN = frozenset(vars(nn.Module())) | {"forward"}
# A longer list or dictionary is data, and no module's state.
LONG, DEEP = 64, 3


class Place(NamedTuple):
    """Where a module keeps a tensor, or a tuple of some: ``holder[key]``."""

    path: str
    holder: Any
    key: Any


class Kept(NamedTuple):
    """A tensor in an attribute or a buffer, as it was at one moment."""

    tensor: Tensor
    version: int

    def same(self, other: Kept) -> bool:
        """Check whether it is the same tensor, and nothing was written into it since."""
        return self.tensor is other.tensor and self.version == other.version


def held(module: nn.Module) -> dict[str, Kept]:
    """Return the floating-point tensors that a module and its parts keep, and no parameters.

    Seen are buffers, attributes, and what stands in a list, a tuple or a dictionary of one.

    Args:
        module: any module.

    Returns:
        By where they stand.
    """
    found: dict[str, Kept] = {}
    for path, holder, key in _places(module):
        value = holder[key]
        leaves = [value] if isinstance(value, Tensor) else pytree.tree_leaves(value)
        for n, leaf in enumerate(leaves):
            if is_state(leaf) and not isinstance(leaf, nn.Parameter):
                found[f"{path}/{n}"] = Kept(leaf, leaf._version)
    return found


def put_in(module: nn.Module, instead: Mapping[int, Tensor]) -> None:
    """Put other tensors in the place of some that a module keeps.

    Args:
        module: any module.
        instead: by the ``id`` of what stands there.
    """
    for _, holder, key in _places(module):
        _swap(holder, key, instead)


class OwnAliases:
    """A module whose parameters are aliases of themselves, within a block."""

    def __init__(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        """Take a module and where to put its aliases by name."""
        self.module, self.weights = module, weights
        self.before: list[tuple[dict[str, Any], str, nn.Parameter]] = []
        self.back: dict[int, Tensor] = {}

    def __enter__(self) -> None:
        """Put the aliases in."""
        instead: dict[int, Tensor] = {}
        for path, module in self.module.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is None or not parameter.requires_grad:
                    continue
                dotted = f"{path}.{name}" if path else name
                self.weights[dotted] = alias = parameter.view_as(parameter)
                self.before.append((module._parameters, name, parameter))
                instead.setdefault(id(parameter), alias)
                self.back[id(alias)] = parameter
                module._parameters[name] = alias  # pyright: ignore
        # Some keep their parameters in a dictionary, too, and read them there.
        put_in(self.module, instead)

    def __exit__(self, *exception: object) -> None:
        """Put the parameters back."""
        for parameters, name, parameter in self.before:
            parameters[name] = parameter
        put_in(self.module, self.back)


def is_state(leaf: object) -> bool:
    """Check whether something could be a state: a floating-point tensor."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def spread(tree: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return what stands in nested tuples, lists, dictionaries and dataclasses, and a way back.

    Args:
        tree: what a module takes or returns.

    Returns:
        The leaves, and a function that puts others in their places. A dataclass is copied then,
        unless all that it holds stays.
    """
    tops, shape = pytree.tree_flatten(tree)
    inside = [spread(vars(top).copy()) if _is_record(top) else None for top in tops]
    leaves = [
        leaf
        for top, own in zip(tops, inside, strict=True)
        for leaf in ([top] if own is None else own[0])
    ]

    def back(others: Sequence[Any]) -> Any:
        rest = iter(others)
        return pytree.tree_unflatten(
            [
                next(rest) if own is None else _refilled(top, own, [next(rest) for _ in own[0]])
                for top, own in zip(tops, inside, strict=True)
            ],
            shape,
        )

    return leaves, back


def _is_record(leaf: object) -> bool:
    return (
        is_dataclass(leaf) and not isinstance(leaf, type | nn.Module) and hasattr(leaf, "__dict__")
    )


def _refilled(record: Any, own: tuple[list[Any], Any], leaves: list[Any]) -> Any:
    if all(map(is_, own[0], leaves)):
        return record
    new = copy.copy(record)
    vars(new).update(own[1](leaves))
    return new


def _places(module: nn.Module) -> Iterator[Place]:
    for path, part in module.named_modules():
        yield from _within(part._buffers, path, DEEP)
        own = vars(part)
        for name in [name for name in own if name not in PLAIN]:
            yield from _at(own, name, path, DEEP)


def _within(holder: Any, path: str, deep: int) -> Iterator[Place]:
    if len(holder) <= LONG:
        for key in list(holder if isinstance(holder, dict) else range(len(holder))):
            yield from _at(holder, key, path, deep)


def _at(holder: Any, key: Any, path: str, deep: int) -> Iterator[Place]:
    value = holder[key]
    if isinstance(value, Tensor | tuple):
        yield Place(f"{path}.{key}", holder, key)
    elif isinstance(value, dict | list) and deep:
        yield from _within(value, f"{path}.{key}", deep - 1)


def _swap(holder: Any, key: Any, instead: Mapping[int, Tensor]) -> None:
    value = holder[key]
    if isinstance(value, Tensor):
        if id(value) in instead:
            holder[key] = instead[id(value)]
        return
    leaves, shape = pytree.tree_flatten(value)
    if any(id(leaf) in instead for leaf in leaves):
        laid = [instead.get(id(leaf), leaf) for leaf in leaves]
        holder[key] = pytree.tree_unflatten(laid, shape)
