"""Which kernel runs: one table, and what speaks against it in a given case."""

from __future__ import annotations

import threading
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ..cells import GRU, LSTM, AbstractCell, Elman, Function, LayerNormLSTM
from ..errors import InputTypeError, InputValueError, UnsupportedError
from . import native

__all__ = ["Available", "Choice", "available", "choice", "decide", "last_choice", "use"]

# The compiled kernels: (cell, device, dtype) → its number in native/interface.h.
TABLE: dict[tuple[type[AbstractCell], str, torch.dtype], int] = {
    (cell, "cpu", dtype): number
    for number, cell in enumerate((Elman, LSTM, GRU, LayerNormLSTM))
    for dtype in (torch.float32, torch.float64)
}
# What runs in torch instead, where it is not simply one step after another.
HOW = {
    "scan": " Its recurrence is taken by one scan in torch.",
    "blocks": " Its steps run in torch, and the way back takes many of them at once.",
}
NAMES = ("auto", "native", "reference")

_wanted = "auto"
_last = threading.local()


class Choice(NamedTuple):
    """What runs, and why not the other.

    Attributes:
        name: "native"; or in torch, "scan" (a diagonal recurrence), "blocks" (`cells.Function`),
            "graph" (the same, of few steps), or "reference", one step at a time.
        reason: one sentence.
    """

    name: str
    reason: str


class Available(NamedTuple):
    """What there is on this machine.

    Attributes:
        native: whether the compiled kernels can be used.
        isa: the instruction set they run on.
        isas: all that this build and machine have, best first.
        threads: the OpenMP library whose threads they use; empty: the calling thread alone.
        reason: what is missing where ``native`` is False.
    """

    native: bool
    isa: str
    isas: tuple[str, ...]
    threads: str
    reason: str


def available() -> Available:
    """Say which kernels there are on this machine, and what is missing.

    Example:
        >>> available().isas[-1:] in ((), ("portable",))
        True
    """
    library = native.library()
    found = library.handle is not None
    return Available(found, native.isa(), native.isas(), library.pool, library.reason)


class use:  # noqa: N801 - called like a function, and usable with `with`
    """Choose which kernels run, from now on or within a ``with`` block, in all threads.

    Args:
        name: "auto" (the compiled ones wherever they apply), "native" (the same, and an error
            where they do not) or "reference" (the sweep in plain torch).

    Raises:
        InputValueError: another name.
        UnsupportedError: "native", and there are no compiled kernels.

    Example:
        >>> with use("reference"):
        ...     choice(Elman(3, 5)).name
        'reference'
    """

    def __init__(self, name: str) -> None:
        """Switch over at once; leaving the ``with`` block switches back."""
        global _wanted
        if name not in NAMES:
            raise InputValueError(f"kernels must be one of {', '.join(NAMES)}; got {name!r}.")
        if name == "native" and native.library().handle is None:
            raise UnsupportedError(f"There are no native kernels: {native.library().reason}")
        self._before, _wanted = _wanted, name

    def __enter__(self) -> use:
        """Give the choice itself; it is in force already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Switch back to what was chosen before."""
        global _wanted
        _wanted = self._before


def choice(cell: AbstractCell, *tensors: Tensor | None) -> Choice:
    """Say which kernel would run for this cell and these tensors, and why not the other.

    Args:
        cell: the recurrence.
        tensors: what the sweep would be given besides, where that is known.

    Raises:
        InputTypeError: ``cell`` is no cell.

    Example:
        >>> with use("reference"):
        ...     choice(Elman(3, 5)).reason
        "kernels.use('reference') asks for it."
    """
    if not isinstance(cell, AbstractCell):
        raise InputTypeError(
            f"cell must be a throughtime.cells.AbstractCell; got {type(cell).__name__}. What a "
            "layer ran on is said by kernels.last_choice() after its call."
        )
    if _wanted == "reference":
        return Choice("reference", "kernels.use('reference') asks for it.")
    obstacle = _obstacle(cell, tensors)
    if obstacle:
        way = in_torch(cell)
        return Choice(way, obstacle + HOW.get(way, ""))
    return _native(type(cell), native.isa())


@cache
def _native(cell: type[AbstractCell], isa: str) -> Choice:
    return Choice("native", f"{cell.__name__} has a compiled kernel ({isa}).")


def decide(cell: AbstractCell, *tensors: Tensor | None, obstacle: str = "") -> int | None:
    """Give the number of the compiled kernel to run, or None for the reference; remember why.

    Args:
        cell: the recurrence.
        tensors: what the sweep is given.
        obstacle: what else speaks against the compiled kernel.

    Raises:
        UnsupportedError: ``use("native")`` is in force, and the compiled kernel does not apply.
    """
    number = None if obstacle else number_of(cell, *tensors)
    if number is not None:
        ran_natively(cell)
        return number
    chosen = choice(cell, *tensors)
    if chosen.name == "native":
        chosen = Choice("reference", obstacle)
    _last.choice = chosen
    if _wanted == "native":
        raise UnsupportedError(
            f"kernels.use('native') is in force, but {chosen.reason} Use kernels.use('auto')."
        )
    return None


def in_torch(cell: AbstractCell) -> str:
    """Give how a cell's sweeps run in torch: "scan", "blocks" or "reference"."""
    if _wanted == "reference":
        return "reference"
    if isinstance(cell, Function):
        return "blocks"
    return "scan" if type(cell).affine is not AbstractCell.affine else "reference"


def chosen_freely() -> bool:
    """Say whether `use` leaves the choice to the package."""
    return _wanted == "auto"


def note(name: str, reason: str) -> None:
    """Remember what ran where that showed only on the way."""
    _last.choice = Choice(name, reason)


def is_reference_wanted() -> bool:
    """Say whether `use` asks for plain torch."""
    return _wanted == "reference"


def is_faked(like: Tensor) -> bool:
    """Say whether a mode such as torch's FakeTensorMode makes what is new no ordinary tensor."""
    return torch._C._len_torch_dispatch_stack() > 0 and type(like.new_empty(0)) is not Tensor


def ran_natively(cell: AbstractCell) -> None:
    """Remember that the compiled kernel ran."""
    _last.choice = _native(type(cell), native.isa())


def last_choice() -> Choice | None:
    """Give what ran last in this thread, and why; None before the first sweep."""
    return getattr(_last, "choice", None)


def number_of(cell: AbstractCell, *tensors: Tensor | None) -> int | None:
    """Give the number of the compiled kernel where nothing speaks against it; else None.

    The same as no `_obstacle`, in a quarter of its time: every short sweep asks twice.
    """
    weights = cell._parameters
    weight = weights.get("weight_hh")
    if weight is None or _wanted == "reference" or native.library().handle is None:
        return None
    dtype = weight.dtype
    number = TABLE.get((type(cell), "cpu", dtype))
    if number is None or weights.get("weight_hr") is not None or is_faked(weight):
        return None
    for tensor in (*tensors, *weights.values()):
        if tensor is None:
            continue
        if (tensor.dtype is not dtype and tensor.dtype is not torch.bool) or not address(tensor):
            return None
    return number


def address(tensor: Tensor) -> int:
    """Give where a tensor's values lie in this machine's memory, or 0 where they do not."""
    if not tensor.is_cpu or tensor.layout is not torch.strided or tensor.is_neg():
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:  # vmap or the compiler hides them
        return 0


def _obstacle(cell: AbstractCell, tensors: tuple[Tensor | None, ...]) -> str:
    """Give what speaks against the compiled kernel, or nothing."""
    if native.library().handle is None:
        return native.library().reason
    name = type(cell).__name__
    if not any(type(cell) is kind for kind, _, _ in TABLE):
        return f"{name} has no compiled kernel."
    if isinstance(cell, LSTM) and cell.projected:
        return "a projected LSTM has no compiled kernel."
    weights = cell.weights()
    weight = weights["weight_hh"]
    device, dtype = weight.device, weight.dtype
    if (type(cell), device.type, dtype) not in TABLE:
        return f"{name} has no compiled kernel for {dtype} on {device}."
    if is_faked(weight):
        return "a mode of torch's dispatcher makes tensors without memory."
    for tensor in (*tensors, *weights.values()):
        if tensor is None:
            continue
        if tensor.layout != torch.strided:
            return f"a tensor has the layout {tensor.layout}."
        if tensor.dtype != dtype and tensor.dtype != torch.bool:
            return f"a tensor has dtype {tensor.dtype}, and the weights {dtype}."
        if tensor.device != device:
            return f"a tensor is on {tensor.device}, and the weights on {device}."
        if tensor.is_neg():
            return "a tensor is a view that stands for the negative of its memory."
        try:
            if not tensor.data_ptr():
                return "a tensor has no memory: its storage was emptied."
        except RuntimeError:
            return "a tensor has no memory of its own: it is seen by vmap or by the compiler."
    return ""
