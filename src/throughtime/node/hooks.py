"""Users' hooks in a traced graph: logged when they are registered, suspended during a measurement.

A measurement sends many gradients back, some of them cut off, and none of them is the training's. A
hook would be called with each, and one that clips would change what is measured.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.hooks import BackwardHook

__all__ = ["HookLog"]

_LOGS: weakref.WeakSet[HookLog] = weakref.WeakSet()
_PLAIN = {
    "register_hook": Tensor.register_hook,
    "retain_grad": Tensor.retain_grad,
    "__init__": BackwardHook.__init__,
}


class HookLog:
    """The hooks that were put on tensors and modules while this log exists."""

    def __init__(self) -> None:
        """Begin to log, until the log is no longer referenced."""
        self.hooks: list[weakref.ref[Any]] = []
        self.modules: list[weakref.ref[BackwardHook]] = []
        self.retaining: list[weakref.ref[Tensor]] = []
        _LOGS.add(self)
        _listen()
        weakref.finalize(self, _listen)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Suspend every logged hook, and protect what `retain_grad` keeps, within a block."""
        kept = [(hooks, list(hooks.items())) for hooks in _alive(self.hooks)]
        modules = [(m, m.user_hooks, m.user_pre_hooks) for m in _alive(self.modules)]
        grads = [(tensor, tensor.grad) for tensor in _alive(self.retaining)]
        try:
            for hooks, _ in kept:
                hooks.clear()
            for module, _, _ in modules:
                module.user_hooks, module.user_pre_hooks = [], []
            yield
        finally:
            for hooks, items in kept:
                hooks.update(items)
            for module, user_hooks, user_pre_hooks in modules:
                module.user_hooks, module.user_pre_hooks = user_hooks, user_pre_hooks
            for tensor, grad in grads:
                tensor.grad = grad


def _alive(refs: list[weakref.ref[Any]]) -> list[Any]:
    """Return what still exists, each once."""
    return list({id(thing): thing for ref in refs if (thing := ref()) is not None}.values())


def _listen() -> None:
    """Replace three of torch's functions by those below while there is a log, and only then."""
    there = any(True for _ in _LOGS)  # len would count a log that is just being freed
    for owner, name, own in (
        (Tensor, "register_hook", _register_hook),
        (Tensor, "retain_grad", _retain_grad),
        (BackwardHook, "__init__", _backward_hook),
    ):
        setattr(owner, name, own if there else _PLAIN[name])


def _register_hook(tensor: Tensor, hook: Any) -> Any:
    handle = _PLAIN["register_hook"](tensor, hook)
    for log in list(_LOGS):
        log.hooks.append(weakref.ref(tensor._backward_hooks))
    return handle


def _retain_grad(tensor: Tensor) -> None:
    _PLAIN["retain_grad"](tensor)
    for log in list(_LOGS):
        log.retaining.append(weakref.ref(tensor))


def _backward_hook(hook: BackwardHook, *args: Any, **named: Any) -> None:
    _PLAIN["__init__"](hook, *args, **named)
    for log in list(_LOGS):
        log.modules.append(weakref.ref(hook))
