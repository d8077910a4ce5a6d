"""Tensors in any nesting: taken out, with a plan that JSON can hold, and put back by the plan."""

from __future__ import annotations

import dataclasses
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["Nesting", "Plan", "lost", "places", "put_together", "same_form", "taken_apart"]

# What a nesting is without its tensors: plain data, with "kind", "as" and "parts".
Plan = dict[str, Any]


class Nesting(NamedTuple):
    """A nesting that was taken apart: its plan, and its tensors in order."""

    plan: Plan
    tensors: Sequence[Tensor]

    def together(self, like: Any = None, device: torch.device | None = None) -> Any:
        """Return the nesting, of copies of its tensors.

        Args:
            like: a nesting of the same form, which knows its classes.
            device: where the copies go; None leaves them where they are.
        """
        copies = [tensor.to(device, copy=True) for tensor in self.tensors]
        return put_together(self.plan, copies, like)


class Kind(NamedTuple):
    """One kind of container.

    Attributes:
        name: in a plan.
        fits: whether a value is of this kind; the first kind that fits is taken.
        apart: returns what JSON shall hold of it, and its parts.
        together: makes it again, of both, and of the value that stands there in another nesting.
    """

    name: str
    fits: Callable[[Any], bool]
    apart: Callable[[Any], tuple[Any, Sequence[Any]]]
    together: Callable[[Any, list[Any], Any], Any]


def taken_apart(value: Any, *, detached: bool = True) -> Nesting:
    """Return the plan of a nesting, and its tensors in order, each once.

    Args:
        value: tensors, arrays and plain values in lists, tuples, named tuples, dictionaries,
            dataclasses and packed sequences. What is none of these is named in the plan and lost.
        detached: whether they leave their graphs.

    Returns:
        The plan, and the tensors.

    Example:
        >>> plan, tensors = taken_apart({"x": torch.ones(2), "lengths": [2, 1]})
        >>> len(tensors), put_together(plan, tensors)
        (1, {'x': tensor([1., 1.]), 'lengths': [2, 1]})
    """
    taking = _Taking(detached)
    return Nesting(taking.walk(value), taking.tensors)


class _Taking:
    """Goes through a nesting; an object, since functions that call each other are a cycle."""

    def __init__(self, detached: bool) -> None:
        self.detached = detached
        self.tensors: list[Tensor] = []
        self.places: dict[int, int] = {}
        self.alive: list[Tensor] = []  # or another one would get the number of one that is gone

    def leaf(self, tensor: Tensor) -> int:
        if id(tensor) not in self.places:
            self.places[id(tensor)] = len(self.tensors)
            self.alive.append(tensor)
            self.tensors.append(tensor.detach() if self.detached else tensor)
        return self.places[id(tensor)]

    def walk(self, part: Any) -> Plan:
        if isinstance(part, Tensor) and part.layout == torch.strided and not part.is_nested:
            return {"kind": "tensor", "as": [self.leaf(part), part.requires_grad], "parts": []}
        if isinstance(part, np.ndarray) and part.dtype.kind in "fiub":
            copy = torch.from_numpy(part.copy())
            return {"kind": "array", "as": self.leaf(copy), "parts": []}
        for kind in KINDS:
            if kind.fits(part):
                said, parts = kind.apart(part)
                return {"kind": kind.name, "as": said, "parts": list(map(self.walk, parts))}
        return {"kind": "lost", "as": type(part).__name__, "parts": []}


def put_together(plan: Plan, tensors: Sequence[Tensor], like: Any = None) -> Any:
    """Return the nesting that a plan describes.

    Args:
        plan: what `taken_apart` returned, also after a way through JSON.
        tensors: in the same order.
        like: a nesting of the same form, which knows the classes of dataclasses, mappings and named
            tuples; without it they become a `SimpleNamespace`, a dictionary, a new named tuple.
    """
    kind, said = plan["kind"], plan["as"]
    if kind == "tensor":
        place, wants_grad = said
        return tensors[place].requires_grad_() if wants_grad else tensors[place]
    if kind == "array":
        return tensors[said].cpu().numpy()
    if kind == "lost":
        return like
    row = next(row for row in KINDS if row.name == kind)
    alike = _parts_of(row, like, len(plan["parts"]))
    parts = [put_together(p, tensors, a) for p, a in zip(plan["parts"], alike, strict=True)]
    return row.together(said, parts, like if row.fits(like) else None)


def places(plan: Plan, name: str) -> Iterator[tuple[str, int]]:
    """Yield the path of each tensor, and its number.

    Args:
        plan: of a nesting.
        name: what the nesting is called.

    Example:
        >>> list(places(taken_apart({"x": [torch.ones(1)]}).plan, "batch"))
        [("batch['x'][0]", 0)]
    """
    kind, said = plan["kind"], plan["as"]
    if kind in ("tensor", "array"):
        yield name, said[0] if kind == "tensor" else said
        return
    keys: Sequence[str] = [f"[{number}]" for number in range(len(plan["parts"]))]
    if kind in ("named", "record"):
        keys = [f".{field}" for field in (said[1] if kind == "named" else said)]
    elif kind == "mapping":
        keys = [f"[{_key(key)!r}]" for key in said]
    for key, part in zip(keys, plan["parts"], strict=True):
        yield from places(part, f"{name}{key}")


def lost(plan: Plan) -> list[str]:
    """Return the names of the classes that a plan could not hold."""
    own = [plan["as"]] if plan["kind"] == "lost" else []
    return own + [name for part in plan["parts"] for name in lost(part)]


def same_form(plan: Plan, other: Plan) -> bool:
    """Check whether two nestings have their tensors at the same places, whatever their sizes."""
    if plan["kind"] != other["kind"] or len(plan["parts"]) != len(other["parts"]):
        return plan["kind"] == "lost" or other["kind"] == "lost"
    return all(map(same_form, plan["parts"], other["parts"]))


def _parts_of(row: Kind, like: Any, count: int) -> Sequence[Any]:
    """Return the parts of a nesting of the same form, or as many times nothing."""
    parts = row.apart(like)[1] if row.fits(like) else ()
    return parts if len(parts) == count else [None] * count


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _named(said: Any, parts: list[Any], like: Any) -> Any:
    name, fields = said
    made = namedtuple(name, fields, rename=True) if like is None else type(like)
    return made(*parts)


def _record(said: Any, parts: list[Any], like: Any) -> Any:
    if like is None:
        return SimpleNamespace(**dict(zip(said, parts, strict=True)))
    made = object.__new__(type(like))  # its own __init__ may do more than hold fields
    for name, part in zip(said, parts, strict=True):
        object.__setattr__(made, name, part)
    return made


def _mapping(said: Any, parts: list[Any], like: Any) -> Any:
    filled = dict(zip((_key(k) for k in said), parts, strict=True))
    made = None if like is None else type(like)
    return filled if made in (None, dict) else made(filled)


def _key(said: Any) -> Any:
    """Return a key that JSON may have turned from a tuple into a list."""
    return tuple(map(_key, said)) if isinstance(said, list) else said


def _is_key(value: Any) -> bool:
    return isinstance(value, str | int | float | type(None)) or (
        isinstance(value, tuple) and all(map(_is_key, value))
    )


KINDS = (
    # A float may be inf or NaN, which JSON has no number for.
    Kind("float", lambda v: type(v) is float, lambda v: (v.hex(), ()), lambda s, _, __: _float(s)),
    Kind(
        "plain",
        lambda v: v is None or type(v) in (bool, int, str),
        lambda v: (v, ()),
        lambda s, _, __: s,
    ),
    Kind(
        "packed",
        lambda v: isinstance(v, PackedSequence),
        lambda v: (None, tuple(v)),
        lambda _, parts, __: PackedSequence(*parts),
    ),
    Kind("named", _is_named, lambda v: ([type(v).__name__, list(v._fields)], tuple(v)), _named),
    Kind(
        "tuple",
        lambda v: isinstance(v, tuple),
        lambda v: (None, v),
        lambda _, parts, __: tuple(parts),
    ),
    Kind("list", lambda v: isinstance(v, list), lambda v: (None, v), lambda _, parts, __: parts),
    Kind(
        "mapping",
        lambda v: isinstance(v, Mapping) and all(map(_is_key, v)),
        lambda v: (list(v), list(v.values())),
        _mapping,
    ),
    Kind(
        "record",
        _is_record,
        lambda v: (
            [f.name for f in dataclasses.fields(v)],
            [getattr(v, f.name) for f in dataclasses.fields(v)],
        ),
        _record,
    ),
)


def _float(said: str) -> float:
    return float.fromhex(said)
