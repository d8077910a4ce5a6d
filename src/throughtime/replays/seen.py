"""What a step did below autograd: whether it can be recorded, and a form to know it again by."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["StepObserver"]

_VALUES_MATTER = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
# What reads numbers of Python into a tensor; on a GPU that is a copy from the host.
_FROM_HOST = {torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default}
_PLAIN = (Tensor, nn.Parameter)


class StepObserver(TorchDispatchMode):
    """Watches one run of a step, which is done as ever.

    Attributes:
        reason: why the step cannot be recorded; "" if it can.
    """

    def __init__(self, inputs: Sequence[Tensor | None]) -> None:
        """Begin with what the step is given.

        Args:
            inputs: tensors, which the recording copies in; None where there is none.
        """
        super().__init__()
        self.reason = ""
        self._form: list[Hashable] = []
        self._number: dict[int, int] = {}
        self._alive: list[Tensor] = []  # nothing may be freed, or another tensor gets its id
        self._foreign: set[int] = set()
        given = [t for t in inputs if t is not None]
        self.device = given[0].device
        for tensor in given:
            self._enter(tensor)
            self._foreign.add(_storage(tensor))
            self._form.append(_kind(tensor))

    def form(self, out: Sequence[Tensor | None]) -> Hashable:
        """Return its operations with their constants, and the kind and place of each tensor.

        Two runs of one form do the same to other values: a changed constant, or another tensor
        that is read, is another form.

        Args:
            out: what the step returned.
        """
        return (*self._form, *(self._placed(t) for t in out))

    def __enter__(self) -> StepObserver:
        """Begin to look; modules that are called are looked at too."""
        self._hooked = register_module_forward_pre_hook(self._call)
        return super().__enter__()

    def __exit__(self, *told: Any) -> None:
        """End."""
        self._hooked.remove()
        super().__exit__(*told)

    def _call(self, module: nn.Module, _: Any) -> None:
        hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        if any(hooks) or module._backward_pre_hooks:
            self.reason = self.reason or f"a hook looks at its {type(module).__name__}"

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run one operation and look at it."""
        kwargs = kwargs or {}
        told = self._look(func, args, kwargs)
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            if tensor.device != self.device:
                told = told or f"it makes a tensor on {tensor.device} ({func})"
            self._enter(tensor)
            self._form.append(_kind(tensor))
        self.reason = self.reason or told
        return out

    def _look(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> str:
        self._form += [func, self._placed(args), self._placed(kwargs)]
        if torch.Tag.nondeterministic_seeded in func.tags:
            return f"it draws random numbers ({func})"
        if _VALUES_MATTER & set(func.tags):
            return f"it looks at the values of a tensor ({func})"
        if func in _FROM_HOST:
            return f"it makes a tensor of Python's numbers ({func})"
        for tensor in _tensors((args, kwargs)):
            if tensor.device != self.device:
                return f"it reads a tensor on {tensor.device} ({func})"
        if func._schema.is_mutable:
            for at, argument in enumerate(func._schema.arguments):
                info = argument.alias_info
                if info is None or not info.is_write:
                    continue
                value = args[at] if at < len(args) else kwargs.get(argument.name)
                if any(_storage(t) in self._foreign for t in _tensors(value)):
                    return f"it writes into a tensor that it did not make ({func})"
        return ""

    def _enter(self, tensor: Tensor) -> int:
        self._alive.append(tensor)
        if type(tensor) not in _PLAIN:
            self.reason = self.reason or f"it takes a {type(tensor).__name__}"
        return self._number.setdefault(id(tensor), len(self._number))

    def _placed(self, value: Any) -> Hashable:
        """Return an argument as part of the form."""
        if isinstance(value, Tensor):
            if id(value) not in self._number:  # neither given nor made: it belongs to others
                number = self._enter(value)
                self._foreign.add(_storage(value))
                return number, value.data_ptr(), *_kind(value)
            return self._number[id(value)]
        if isinstance(value, (list, tuple)):
            return tuple(map(self._placed, value))
        if isinstance(value, dict):
            return tuple((name, self._placed(part)) for name, part in value.items())
        if isinstance(value, (int, float, complex, str, bool, type(None))):
            return type(value).__name__, repr(value)
        try:
            hash(value)
        except TypeError:
            return repr(value)
        return value


def _kind(tensor: Tensor) -> tuple[Hashable, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict):
        for part in tree.values():
            yield from _tensors(part)
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _tensors(part)
