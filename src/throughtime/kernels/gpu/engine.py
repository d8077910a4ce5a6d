"""Triton's kernels as an engine, where they are asked for: on a CUDA device, or interpreted."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import sysconfig
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ... import torch_state
from ...cells import AbstractCell
from ...tape import Tape, complete
from ...torch_state import is_faked
from ..chosen import Choice, wanted
from ..engine import Demand, Losses, unfit
from ..plain.engine import Plain
from .tiling import MULTIPROCESSOR, plan_of, recurrence

__all__ = ["TRITON", "Triton", "compiler_missing"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Triton(Plain):
    """The sweeps in Triton, in float32, float16 and bfloat16, with float32 state and sums."""

    name = "triton"

    @property
    def sweeps(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The two sweeps; Triton is imported when they are first asked for."""
        return _launch()

    def missing(self) -> str:
        """Return why Triton's kernels cannot run at all here; "" if they can."""
        return _missing()

    def concerns(self, cell: AbstractCell) -> bool:
        """Check whether these kernels are asked for, or the cell is on a GPU."""
        if wanted() == self.name:
            return True
        weight = cell._parameters.get("weight_hh")
        return weight is not None and torch_state.is_on_gpu(weight)

    def serves(self, cell: AbstractCell) -> bool:
        """Check whether there is a kernel for such a cell."""
        return recurrence(cell) is not None

    def chosen(self, cell: AbstractCell) -> Choice:
        """Return the choice, with what was chosen by shape and the counts behind it."""
        reason = plan_of(cell).reason
        return Choice(self.name, f"{type(cell).__name__} runs on a Triton kernel: {reason}.")

    def obstacle(self, cell: AbstractCell, demand: Demand) -> str:
        """Return why Triton's kernels do not apply; "" if they do."""
        weight = cell._parameters.get("weight_hh")
        missing = self.missing()
        if weight is None or recurrence(cell) is None or weight.dtype not in DTYPES or missing:
            told = f" for {weight.dtype} on {weight.device}" if weight is not None else ""
            return f"{type(cell).__name__} has no compiled kernel{told}" + (
                f": {missing}" if missing else "."
            )
        if wanted() != self.name:  # nobody is given by default what has never run on a device
            return (
                f"{type(cell).__name__} has no compiled kernel on {weight.device}, unless "
                "kernels.use('triton') asks for Triton's."
            )
        if not weight.is_cuda and not (weight.is_cpu and _interpreted()):
            return f"Triton's kernels are for a CUDA device; the weights are on {weight.device}."
        if is_faked(weight):
            return "a mode of torch's dispatcher makes tensors without memory."
        for tensor in (*demand.tensors, *cell._parameters.values()):
            if tensor is not None and (told := unfit(tensor, weight)):
                return told
        if demand.T == 0 or demand.rows == 0:
            return "there is nothing to compute: no step or no row."
        return _trial(weight.device) if weight.is_cuda else ""

    def losses(
        self,
        cell: AbstractCell,
        tape: Tape,
        g: Tensor,
        *,
        enters: Tensor | None = None,
        floors: Tensor | None = None,
        norms: bool = True,
        deltas: bool = False,
        adjoints: bool = False,
    ) -> Losses:
        """Send V losses back in one sweep, each only between its entry and its floor (eq. 9)."""
        launch = _launch()
        with torch.no_grad():
            entry = _last_entry(g) if enters is None else enters
            asked = launch.Bound(adjoints, deltas, norms, enters is not None)
            found = launch.backward_with_norms(
                cell, complete(cell, tape), g, None, asked, entry.contiguous(), floors
            )
        return Losses(norms=found[2], deltas=found[1], adjoints=found[0], s_0=found[3])


TRITON = Triton()


def _launch() -> ModuleType:
    return importlib.import_module(f"{__package__}.launch")


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@cache
def _missing() -> str:
    """Return what is not there: a device or the interpreter, Triton, a compiler for its stubs."""
    if not torch.cuda.is_available() and not _interpreted():
        return "there is no CUDA device, and TRITON_INTERPRET=1 is not set."
    return compiler_missing()


def compiler_missing() -> str:
    """Return what is missing of Triton, a compiler for its stubs and headers; "" if nothing is."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed."
    compilers = (os.environ.get("CC"), "cc", "gcc", "clang")
    if not _interpreted() and not any(c and shutil.which(c) for c in compilers):
        return "Triton needs a C compiler, and there is none: install gcc or set CC."
    headers = sysconfig.get_path("include")
    if not _interpreted() and not os.path.exists(os.path.join(headers, "Python.h")):
        return f"Triton needs Python's headers, and {headers} has none: install python3-dev."
    return ""


@cache
def _trial(device: torch.device) -> str:
    """Return why a device is not for these kernels, or a first sweep failed; "" if all is well."""
    found = torch.cuda.get_device_properties(device)
    shared = getattr(found, "shared_memory_per_block_optin", 0)
    if shared < MULTIPROCESSOR:
        return (
            f"Triton's kernels are planned for {MULTIPROCESSOR // 1024} KiB of shared memory a "
            f"program, and {found.name} has {shared // 1024}."
        )
    return _launch().trial(device)


def _last_entry(g: Tensor) -> Tensor:
    """Return the last step, from 1, at which each loss has a gradient that is not 0."""
    entered = (g != 0).flatten(2).any(-1)
    return (entered * torch.arange(1, g.shape[1] + 1, device=g.device)).amax(1)
