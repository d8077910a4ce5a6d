"""What a module and its parts keep in attributes: parameters to alias, and states between calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["OwnAliases", "Snapshot", "held", "is_state", "put_in", "refilled", "spread"]

# What every module has, whoever wrote it.
PLAIN = frozenset(vars(nn.Module())) | {"forward"}
# A longer list or dictionary is data, and no module's state.
LONG, DEEP = 64, 3


class Slot(NamedTuple):
    """Where a module keeps a tensor, or a tuple of some: ``holder[key]``."""

    path: str
    holder: Any
    key: Any


class Snapshot(NamedTuple):
    """A tensor in an attribute or a buffer, as it was at one moment."""

    tensor: Tensor
    version: int

    def same(self, other: Snapshot) -> bool:
        """Check whether it is the same tensor, and nothing was written into it since."""
        return self.tensor is other.tensor and self.version == other.version


def held(module: nn.Module) -> dict[str, Snapshot]:
    """Return the floating-point tensors that a module and its parts keep, and no parameters.

    Seen are buffers, attributes, and what stands in a list, a tuple or a dictionary of one.

    Args:
        module: any module.

    Returns:
        By where they stand.
    """
    found: dict[str, Snapshot] = {}
    for path, holder, key in _places(module):
        value = holder[key]
        leaves = [value] if isinstance(value, Tensor) else pytree.tree_leaves(value)
        for n, leaf in enumerate(leaves):
            if is_state(leaf) and not isinstance(leaf, nn.Parameter):
                found[f"{path}/{n}"] = Snapshot(leaf, leaf._version)
    return found


def put_in(module: nn.Module, instead: Mapping[int, Tensor]) -> bool:
    """Put other tensors in the place of some that a module keeps, and return whether any was there.

    Args:
        module: any module.
        instead: by the ``id`` of what stands there.
    """
    # A list, since all are to be looked at.
    return any([_swap(holder, key, instead) for _, holder, key in _places(module)])


class OwnAliases:
    """A module whose parameters are aliases of themselves, within a block."""

    def __init__(self, module: nn.Module, weights: dict[str, Tensor]) -> None:
        """Take a module and where to put its aliases by name."""
        self.module, self.weights = module, weights
        self.before: list[tuple[dict[str, Any], str, nn.Parameter]] = []
        self.back: dict[int, Tensor] = {}
        self.beside = False

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
        self.beside = put_in(self.module, instead)

    def __exit__(self, *exception: object) -> None:
        """Put the parameters back."""
        for parameters, name, parameter in self.before:
            parameters[name] = parameter
        if self.beside:
            put_in(self.module, self.back)


def is_state(leaf: object) -> bool:
    """Check whether something could be a state: a floating-point tensor."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()


def spread(tree: Any) -> list[Any]:
    """Return what stands in nested tuples, lists, dictionaries and dataclasses, in order.

    Args:
        tree: what a module takes or returns.
    """
    leaves: list[Any] = []
    refilled(tree, lambda leaf: (leaves.append(leaf), leaf)[1])
    return leaves


def refilled(tree: Any, put: Callable[[Any], Any], deep: int = 2 * DEEP) -> Any:
    """Return a tree with other leaves, in the order of `spread`.

    Lists, dictionaries and dataclasses stay the same objects, since a module may write into those
    that it is given, and its caller reads them there.

    Args:
        tree: what a module takes or returns.
        put: from a leaf to what stands in its place.
        deep: how many levels are looked through.
    """
    if deep and isinstance(tree, dict | list):
        for key in list(tree if isinstance(tree, dict) else range(len(tree))):
            if (new := refilled(tree[key], put, deep - 1)) is not tree[key]:
                tree[key] = new
        return tree
    if deep and _is_record(tree):
        refilled(vars(tree), put, deep - 1)
        return tree
    leaves, shape = pytree.tree_flatten(tree, is_leaf=lambda inner: inner is not tree)
    if not deep or (len(leaves) == 1 and leaves[0] is tree):
        return put(tree)
    laid = [refilled(leaf, put, deep - 1) for leaf in leaves]
    same = all(new is old for new, old in zip(laid, leaves, strict=True))
    return tree if same else pytree.tree_unflatten(laid, shape)


def _is_record(tree: object) -> bool:
    plain = not isinstance(tree, type | nn.Module) and hasattr(tree, "__dict__")
    return plain and is_dataclass(tree)


def _places(module: nn.Module) -> Iterator[Slot]:
    for path, part in module.named_modules():
        yield from _within(part._buffers, path, DEEP)
        own = vars(part)
        for name in [name for name in own if name not in PLAIN]:
            yield from _at(own, name, path, DEEP)


def _within(holder: Any, path: str, deep: int) -> Iterator[Slot]:
    if len(holder) <= LONG:
        for key in list(holder if isinstance(holder, dict) else range(len(holder))):
            yield from _at(holder, key, path, deep)


def _at(holder: Any, key: Any, path: str, deep: int) -> Iterator[Slot]:
    value = holder[key]
    if isinstance(value, Tensor) or (isinstance(value, tuple) and _may_hold(value)):
        yield Slot(f"{path}.{key}", holder, key)
    elif isinstance(value, dict | list) and deep:
        yield from _within(value, f"{path}.{key}", deep - 1)


def _may_hold(value: tuple[Any, ...]) -> bool:
    """Check whether a tuple may hold a tensor: most are shapes."""
    return any(isinstance(item, Tensor | tuple | list | dict) for item in value)


def _swap(holder: Any, key: Any, instead: Mapping[int, Tensor]) -> bool:
    value = holder[key]
    if isinstance(value, Tensor):
        if id(value) not in instead:
            return False
        holder[key] = instead[id(value)]
        return True
    leaves, shape = pytree.tree_flatten(value)
    if not any(id(leaf) in instead for leaf in leaves):
        return False
    laid = [instead.get(id(leaf), leaf) for leaf in leaves]
    holder[key] = pytree.tree_unflatten(laid, shape)
    return True
