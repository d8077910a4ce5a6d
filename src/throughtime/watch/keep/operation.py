"""Which operation made the first number that is not finite out of numbers that all were."""

from __future__ import annotations

import linecache
import math
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...flow.nonfinite import all_finite
from ...torch_state import backward_node

__all__ = ["Operation", "first_operation"]

OWN = str(Path(__file__).parents[2])
# What returns memory that was never written, or writes the very number that it is told.
UNWRITTEN = re.compile(r"^(new_)?empty|^(resize|set)_")


class Operation(NamedTuple):
    """An operation that made inf or NaN out of finite numbers.

    Attributes:
        name: as torch calls it: "exp", or in the backward pass the node's, "ExpBackward0".
        backward: whether it was met in the backward pass.
        kind: "inf" or "nan".
        place: the index of its first such number.
        module: the path of the module that ran it; None outside of any.
        line: of the user's code, "model.py, line 12: y = x.exp()"; None where there is none.
    """

    name: str
    backward: bool
    kind: str
    place: tuple[int, ...]
    module: str | None
    line: str | None

    def __str__(self) -> str:
        """Return one sentence."""
        number = "NaN" if self.kind == "nan" else "inf"
        which = "backward" if self.backward else "forward"
        module = "" if self.module is None else f" in {self.module or 'the model'}"
        line = "" if self.line is None else f" ({self.line})"
        place = f", at {list(self.place)} of its result" if self.place else ""
        return (
            f"The first operation of the {which} pass that made {number} of finite numbers is "
            f"{self.name}{module}{line}{place}."
        )


def first_operation(model: nn.Module, run: Callable[[], Tensor]) -> Operation | None:
    """Run a step, forward and backward, and return the first operation that broke it.

    Args:
        model: whose modules are named.
        run: runs the model and returns the losses.

    Returns:
        The operation; None where none made inf or NaN out of finite numbers. What a compiled kernel
        of this package computes is one step of the dark: its result is seen by whoever reads it.

    Cost:
        a look at every number of the step; only for when something broke.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> found = first_operation(model, lambda: (0 * model(torch.ones(3, 2))).log().sum())
        >>> found.name, found.kind
        ('log', 'inf')
    """
    paths: list[str] = []
    before = torch.is_anomaly_enabled()
    check = torch.is_anomaly_check_nan_enabled()
    try:
        # With it each node knows the line of the forward pass that it belongs to.
        torch.autograd.set_detect_anomaly(True, check_nan=False)
        with _naming(model, paths), _Looking(paths) as looking, torch.enable_grad():
            losses = run()
            wanted = [p for p in model.parameters() if p.requires_grad]
            if losses.requires_grad and wanted:
                torch.autograd.grad(losses.sum(), wanted, allow_unused=True)
    finally:
        torch.autograd.set_detect_anomaly(before, check_nan=check)
    return looking.found


class _Looking(TorchDispatchMode):
    """Looks at the result of every operation until one of them is bad."""

    def __init__(self, paths: list[str]) -> None:
        super().__init__()
        self.paths, self.found = paths, None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        if self.found is not None or UNWRITTEN.match(name):
            return func(*args, **(kwargs or {}))
        # What writes into its arguments is looked at before it does.
        sound = _sound((args, kwargs)) if func._schema.is_mutable else None
        result = func(*args, **(kwargs or {}))
        bad = next((t for t in _numbers(result) if not all_finite(t)), None)
        if bad is not None and (_sound((args, kwargs)) if sound is None else sound):
            self.found = self._made(name, bad)
        return result

    def _made(self, name: str, bad: Tensor) -> Operation:
        infinite = bad.isinf().nonzero()
        where = infinite if len(infinite) else bad.isnan().nonzero()
        node = backward_node()
        line = _line_of(node) if node is not None else _line(traceback.extract_stack())
        return Operation(
            name if node is None else _node_name(node),
            node is not None,
            "inf" if len(infinite) else "nan",
            tuple(where[0].tolist()) if len(where) else (),
            self.paths[-1] if self.paths and node is None else None,
            line,
        )


def _numbers(values: Any) -> Iterator[Tensor]:
    for value in tree_leaves(values):
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            yield value


def _sound(given: Any) -> bool:
    """Check whether all that an operation was given is finite, its plain numbers included."""
    for value in tree_leaves(given):
        if isinstance(value, float) and not math.isfinite(value):
            return False
    return all(map(all_finite, _numbers(given)))


def _node_name(node: Node) -> str:
    return node.name().rpartition("::")[2]


def _line_of(node: Node) -> str | None:
    """Return the line of the forward pass that a node of the backward pass belongs to."""
    said = dict(node.metadata).get("traceback_", [])  # pyright: ignore
    found = re.findall(r'File "([^"]+)", line (\d+)', "".join(said))
    frames = [traceback.FrameSummary(file, int(number), "") for file, number in found]
    return _line(frames)


def _line(frames: Iterable[traceback.FrameSummary]) -> str | None:
    """Return the innermost line of the user's own code."""
    for frame in reversed(list(frames)):
        file = frame.filename
        if file.startswith((OWN, "<")) or "site-packages" in file or "/lib/python" in file:
            continue
        code = linecache.getline(file, frame.lineno or 0).strip()
        return f"{Path(file).name}, line {frame.lineno}" + (f": {code}" if code else "")
    return None


@contextmanager
def _naming(model: nn.Module, paths: list[str]) -> Iterator[None]:
    """Keep the path of the module that is at work on top of a list."""
    hooks = []
    for path, module in model.named_modules():

        def enter(_: nn.Module, __: Any, path: str = path) -> None:
            paths.append(path)

        def leave(*_: Any) -> None:
            if paths:
                paths.pop()

        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
