"""`Keeper`: what is needed to take a broken step of a training again, at the cost of a copy."""

from __future__ import annotations

import math
import os
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from ...errors import InputTypeError, InputValueError, KeepWarning
from ..telling import warn
from .breaking import Break
from .bundling import broke
from .copies import Copies, Weights
from .folders import check_can_be_folder, clear_partial_folders
from .harmless import harmless
from .hook import Hook
from .judge import Judge
from .moment import Moment, autocast_now
from .randomness import Randomness
from .sizes import bad_names

__all__ = ["Keeper"]

# Of so many first steps it is looked whether they draw from NumPy or Python.
LOOKED = 3
REMEMBERED = 64


class Keeper:
    """Watches a training for its first inf or NaN, and writes what is needed to replay that step.

    Before each step it takes down the random state and copies weights and batch, into memory that
    is laid out once; after it, it looks at loss, gradient and weights, one norm each. Nothing of
    that changes a bit of the training. When a number is not finite, the step is taken again on a
    copy of the model, a bundle is written, and a `KeepWarning` says what broke; then it is quiet.

    The optimizer's step is noticed by itself, and so is the model's call. Only a loop that updates
    weights without `torch.optim` has to call `stepped`.

    Attributes:
        model: the model.
        folder: where bundles go.
        every: of so many steps weights and batch are copied at one. At the others, the weights as
            they are and the batch itself are used, which is exact unless it is the update that
            breaks, or the batch was written into.
        broken: what broke; None as long as nothing did.
        bundle: where its bundle is; None where there is none.
        closed: whether it watches no more.

    Example:
        >>> import tempfile, warnings
        >>> model = torch.nn.LSTM(2, 4)
        >>> keeper = Keeper(model, tempfile.mkdtemp())
        >>> keeper.before(1)
        >>> loss = model(torch.full((5, 3, 2), torch.inf))[0].sum() / 0
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     keeper.after(loss)
        >>> keeper.broken.what, keeper.bundle.name
        ('loss', 'step-1')
    """

    def __init__(
        self,
        model: nn.Module,
        folder: str | os.PathLike[str],
        *,
        every: int = 1,
        steps: Iterable[type[nn.Module] | nn.Module | str] = (),
        memory: int = 64 * 2**20,
    ) -> None:
        """Begin to watch a model.

        Args:
            model: what is trained.
            folder: where a bundle goes, made when there is one. Halves of bundles that killed
                processes left there are removed.
            every: how many steps lie between two copies of the weights.
            steps: as for `tt.trace`.
            memory: bytes that may be held of what the loss sends back into the model.

        Raises:
            InputTypeError: ``model`` is no module, ``folder`` no path.
            InputValueError: ``every`` is below 1.
            FileError: ``folder`` lies where none can be made.
        """
        if not isinstance(model, nn.Module):
            raise InputTypeError(f"model must be an nn.Module; got {type(model).__name__}.")
        if not isinstance(folder, str | os.PathLike):
            raise InputTypeError(f"keep must be a folder's path; got {type(folder).__name__}.")
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InputValueError(f"every must be an integer of at least 1; got {every!r}.")
        self.model, self.folder, self.every = model, Path(folder), every
        check_can_be_folder(self.folder)
        self.steps, self.memory = steps, memory
        self.broken: Break | None = None
        self.bundle: Path | None = None
        self.closed = False
        self.history: deque[list[float | None]] = deque(maxlen=REMEMBERED)
        self.start: float | None = None
        self.optimizer: weakref.ref[Optimizer] | None = None
        self.weights = Weights(model)
        self._moment: Moment | None = None
        self._batches, self._calls = Copies(), Copies()
        self._count, self._begun, self._asked, self._drawn = 0, 0, False, False
        self._ours: weakref.WeakKeyDictionary[Optimizer, bool] = weakref.WeakKeyDictionary()
        self._judge = Judge(model)
        clear_partial_folders(self.folder)
        self._hooks = [
            model.register_forward_pre_hook(Hook(self, "_called"), with_kwargs=True),
            model.register_forward_hook(Hook(self, "_returned")),
            register_optimizer_step_pre_hook(Hook(self, "_stepping")),
            register_optimizer_step_post_hook(Hook(self, "_stepped")),
        ]
        weakref.finalize(self, _remove, self._hooks)

    # --- what a loop calls ----------------------------------------------------------------------

    @harmless
    def before(self, step: int | None = None, batch: Any = None) -> None:
        """Begin a step: take down what it begins with.

        Args:
            step: its number; None counts from 1.
            batch: what the loss will be computed from, where it is known by now.
        """
        self._asked = True
        self._begin(step)
        if batch is not None and self._moment is not None:
            self._see(batch)

    @harmless
    def after(self, loss: Tensor, batch: Any = None) -> None:
        """Look at the loss of a step, before its backward pass.

        Args:
            loss: a scalar, or several.
            batch: what it was computed from, in any nesting; it makes the replay independent of
                how the model is called.
        """
        moment = self._moment
        if moment is None:
            return
        if batch is not None:
            self._see(batch)
        moment.loss = loss.detach()
        moment.loss_node = None if loss.grad_fn is None else loss.grad_fn.name()
        if loss.device.type == "cpu":
            moment.sizes["loss"] = float(moment.loss.sum() if moment.loss.dim() else moment.loss)
            if not math.isfinite(moment.sizes["loss"]):
                moment.ask(loss)
                self._look()
        moment.outputs.clear()

    @harmless
    def stepped(self) -> None:
        """Look at the weights after an update; an optimizer of torch's calls it by itself."""
        moment = self._moment
        if moment is None:
            return
        moment.stepped = True
        self._look(gradient=not moment.measured, weight=True)

    def close(self, settle: bool = True) -> None:
        """Look at what was not looked at yet, and let the model go.

        Args:
            settle: whether to look.
        """
        if settle and not self.closed and self._moment is not None:
            harmless(Keeper._settle)(self)
        self.closed = True
        _remove(self._hooks)
        self._moment, self._judge = None, Judge(self.model)
        self.weights = Weights(self.model)
        self._batches, self._calls = Copies(), Copies()

    # --- what the hooks call --------------------------------------------------------------------

    @harmless
    def _called(self, module: nn.Module, args: Any, named: Mapping[str, Any]) -> None:
        """Note what the model is called with."""
        if module is not self.model or not torch.is_grad_enabled():
            return
        moment = self._moment
        if not self._asked and (moment is None or moment.stepped or moment.loss is not None):
            self._begin(None)
            moment = self._moment
        if moment is None:
            return
        moment.calls += 1
        if moment.calls == 1:
            moment.autocast = autocast_now()
            moment.see("call", {"args": args, "named": dict(named)}, self._calls)

    @harmless
    def _returned(self, module: nn.Module, _: Any, output: Any) -> None:
        """Note what the loss sends back into what the model returned."""
        moment = self._moment
        if module is not self.model or moment is None or moment.calls != 1:
            return
        if not torch.is_grad_enabled():
            return
        moment.listen(output, self.memory)

    @harmless
    def _stepping(self, optimizer: Optimizer, *_: Any) -> None:
        """Look at the gradient before an update."""
        moment = self._moment
        if moment is None or not self._is_ours(optimizer):
            return
        self.optimizer = weakref.ref(optimizer)
        moment.outputs.clear()
        if getattr(optimizer, "found_inf", None) is not None:
            moment.measured = True  # by a loss scaler, which leaves a step out where it is not
        elif not moment.copied:  # what is not copied must be looked at before it is changed
            self._look(gradient=True)

    @harmless
    def _stepped(self, optimizer: Optimizer, *_: Any) -> None:
        if self._is_ours(optimizer):
            self.stepped()

    # --- inside -----------------------------------------------------------------------------------

    def _begin(self, step: int | None) -> None:
        if self._moment is not None:
            self._settle()
        if self.closed:
            return
        self._count = self._count + 1 if step is None else step
        looking = self._drawn or len(self.history) < LOOKED
        moment = Moment(self._count, Randomness.now(all_of_it=looking))
        moment.buffers = self.weights.begin()
        if self._begun % self.every == 0:
            moment.copied = self.weights.take(moment.step)
        if self.start is None:
            self.start = self._judge.size(self.weights.parameters)
        self._begun += 1
        self._moment = moment

    def _see(self, batch: Any) -> None:
        assert self._moment is not None
        self._moment.autocast = self._moment.autocast or autocast_now()
        self._moment.see("batch", batch, self._batches)

    def _settle(self) -> None:
        """Look at what a step left that no hook has looked at, and remember its sizes."""
        moment = self._moment
        assert moment is not None
        left = not moment.stepped
        self._look(gradient=left and not moment.measured, weight=left, left=left)
        if self.closed:
            return
        if len(self.history) < LOOKED:
            self._drawn = self._drawn or moment.randomness.also_moved()
        loss = moment.sizes.get("loss")
        sizes = (moment.sizes.get("gradient"), moment.sizes.get("weight"))
        self.history.append([moment.step, loss, *sizes])

    def _is_ours(self, optimizer: Optimizer) -> bool:
        """Check whether an optimizer updates this model."""
        if optimizer not in self._ours:
            own = set(map(id, self.model.parameters()))
            held = (p for group in optimizer.param_groups for p in group["params"])
            self._ours[optimizer] = any(id(p) in own for p in held)
        return self._ours[optimizer]

    def _look(self, *, gradient: bool = False, weight: bool = False, left: bool = False) -> None:
        """Look at what is known of the step by now; here a device is waited for.

        Args:
            gradient: whether its gradient is measured.
            weight: whether its weights are.
            left: whether it ended without an update.
        """
        moment = self._moment
        assert moment is not None
        if gradient or weight:
            self._judge.measure(moment, self.weights.parameters, gradient=gradient, weight=weight)
        broken = self._judge.verdict(moment, self._begun, left=left)
        if broken is not None:
            self._moment, what = broken
            self._break(what)
        elif self._judge.suspected is moment:  # what it holds must not be written over
            self._batches, self._calls = Copies(), Copies()

    def _break(self, what: str) -> None:
        """Say what broke and keep what is needed to take the step again."""
        moment = self._moment
        assert moment is not None
        names = () if what == "loss" else tuple(bad_names(self.model, what))
        self.broken, self.bundle, said = broke(self, moment, what, names)
        self.close(settle=False)
        warn(said, KeepWarning)


def _remove(hooks: list[Any]) -> None:
    while hooks:
        hooks.pop().remove()
