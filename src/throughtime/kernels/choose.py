"""Which engine runs: one table, in the order of preference, and one function that reads it."""

from __future__ import annotations

from torch import Tensor

from .. import torch_state
from ..cells import AbstractCell
from ..errors import InputTypeError, InputValueError, UnsupportedError
from ..tape import Tape
from .by_row import CALLS, COLLECTORS, around
from .chosen import Choice, ask_for, is_allowed, is_free, note, wanted
from .cpu.engine import NATIVE
from .engine import Demand, Engine, Prepared
from .gpu.engine import TRITON
from .gpu.fused import FUSED
from .plain import blocks
from .plain.engine import BLOCKS, REFERENCE, SCAN
from .torch.calling import KINDS
from .torch.engine import TORCH

__all__ = [
    "ENGINES",
    "choice",
    "choose",
    "choose_back",
    "follows_autocast",
    "in_one_call",
    "keeps_no_steps",
    "leaves_a_graph",
    "prepare",
    "use",
]

# The engines, best first; the last one takes everything. A new engine is a folder and a row here.
ENGINES: list[Engine] = [TRITON, NATIVE, TORCH, FUSED, SCAN, BLOCKS, REFERENCE]


class use:  # noqa: N801 - called like a function, and usable with `with`
    """Choose which engine runs, from now on or within a ``with`` block, in all threads.

    Args:
        name: "auto" (the best that applies); "reference" (one step at a time in plain torch);
            "torch" (torch's own fused modules, as ``torch.nn`` runs them, which a GPU has under
            "auto" too; what looks at single steps runs as under "reference"); or the name of
            another engine, such as "native", or "triton" on a CUDA device, or on a CPU with
            TRITON_INTERPRET=1 in the environment. It is an error where the engine that is named
            does not apply.

    Raises:
        InputValueError: another name.
        UnsupportedError: an engine that is not there at all, as "native" without a compiler.

    Example:
        >>> with use("reference"):
        ...     choice(tt.cells.Elman(3, 5)).name
        'reference'
    """

    def __init__(self, name: str) -> None:
        """Switch at once; leaving the ``with`` block switches back."""
        names = ["auto", *(engine.name for engine in ENGINES if engine.asked_for)]
        if name not in names:
            raise InputValueError(f"kernels must be one of {', '.join(names)}; got {name!r}.")
        missing = "" if name == "auto" else _named(name).missing()
        if missing:
            raise UnsupportedError(f"There are no {name} kernels: {missing}")
        self._before = ask_for(name)

    def __enter__(self) -> use:
        """Return the choice itself, which is already in force."""
        return self

    def __exit__(self, *_: object) -> None:
        """Switch back to what was chosen before."""
        ask_for(self._before)


def choice(cell: AbstractCell, *tensors: Tensor | None) -> Choice:
    """Return which engine would run for this cell and these tensors, and why no preferred one.

    Args:
        cell: the recurrence.
        tensors: what else the sweep would be given, if that is known.

    Raises:
        InputTypeError: ``cell`` is no cell.

    Example:
        >>> with use("reference"):
        ...     choice(tt.cells.Elman(3, 5)).reason
        "kernels.use('reference') asks for it."
    """
    if not isinstance(cell, AbstractCell):
        raise InputTypeError(
            f"cell must be a throughtime.cells.AbstractCell; got {type(cell).__name__}. What a "
            "layer ran on is said by kernels.last_choice() after its call."
        )
    return _pick(cell, Demand(tensors))[1]


def choose(
    cell: AbstractCell,
    x: Tensor,
    s_0: Tensor | None = None,
    active: Tensor | None = None,
    reset: Tensor | None = None,
    *,
    states: bool = True,
) -> Engine:
    """Return the engine for a forward sweep, and remember the choice for `last_choice`.

    Args:
        cell: the recurrence.
        x: inputs (T, B, I).
        s_0: the initial state (B, S), or None.
        active: (T, B) bool, or None.
        reset: (T, B) bool, or None.
        states: whether single steps are looked at afterwards.

    Raises:
        UnsupportedError: `use` asks for an engine that cannot take it.
    """
    T, B = x.shape[:2]
    return _chosen(cell, Demand((x, s_0, active, reset), T, B, active, states))


def choose_back(
    cell: AbstractCell, tape: Tape, g: Tensor | None = None, delta_T: Tensor | None = None
) -> Engine:
    """Return the engine for a backward sweep, and remember the choice for `last_choice`.

    Args:
        cell: the recurrence.
        tape: what its forward sweep kept.
        g: direct gradients (V, T, B, G) or (T, B, G), or None.
        delta_T: what else arrives at s_T, or None.

    Raises:
        UnsupportedError: `use` asks for an engine that cannot take it.
    """
    lead = g if g is not None and g.dim() == 4 else delta_T
    V = len(lead) if lead is not None and lead.dim() >= 3 else 1
    if tape.holds_graph and V == 1 and not COLLECTORS:
        note(TORCH.chosen(cell))
        return TORCH  # whose graph it is
    T, B = tape.x.shape[:2]
    tensors = (tape.x, tape.s, *tape.saved, g, delta_T, tape.active)
    states = tape.holds_graph or tape.T == T  # or a schedule computes the steps anew
    return _chosen(cell, Demand(tensors, T, V * B, tape.active, states))


def _chosen(cell: AbstractCell, demand: Demand) -> Engine:
    engine, found = _pick(cell, demand)
    note(found)
    if not is_allowed(engine.name):
        raise UnsupportedError(
            f"kernels.use({wanted()!r}) is in force, but {found.reason} Use kernels.use('auto')."
        )
    instead = engine.instead(cell, demand)
    if instead is not None:
        engine, found = instead
        note(found)
    return around(engine, cell) if COLLECTORS else engine


def _pick(cell: AbstractCell, demand: Demand) -> tuple[Engine, Choice]:
    """Return the first engine of the table that can take the sweep, and why it is that one."""
    if wanted() == REFERENCE.name:
        return REFERENCE, _ASKED_FOR
    why = ""
    for engine in _in_order():
        if not engine.concerns(cell):
            continue
        obstacle = engine.obstacle(cell, demand)
        if not obstacle:
            return engine, engine.chosen(cell) if not why else Choice(engine.name, why + engine.how)
        why = why or obstacle
    raise AssertionError("the last engine of the table takes everything")


def _in_order() -> list[Engine]:
    """Return the table, with what is asked for by name in front."""
    return ENGINES if is_free() else [_named(wanted()), *ENGINES]


_ASKED_FOR = Choice("reference", "kernels.use('reference') asks for it.")


def _named(name: str) -> Engine:
    return next(engine for engine in ENGINES if engine.name == name)


def leaves_a_graph(cell: AbstractCell, T: int) -> bool:
    """Check whether so few steps should rather leave autograd's graph in the forward pass; note it.

    That is what a loop written by hand does. It cannot provide each row's share of a gradient.

    Args:
        cell: the recurrence.
        T: how many steps there are.
    """
    by_row = COLLECTORS or CALLS
    few = T < blocks.WORTH_LEARNING and not by_row and is_free() and BLOCKS.serves(cell)
    if few:
        name = type(cell).__name__
        note(Choice("graph", f"{name} leaves autograd's graph of so few steps, {T}."))
    return few


def in_one_call(cell: AbstractCell, *tensors: Tensor | None) -> Choice | None:
    """Return the choice where the engine takes all layers and directions of a module in one call.

    Args:
        cell: the recurrence of the module's first layer.
        tensors: what else the call is given, as far as it is known.
    """
    # First what is quick to ask, since every call on a CPU comes by.
    if not is_allowed(TORCH.name) or not TORCH.concerns(cell) or not TORCH.serves(cell):
        return None
    found = choice(cell, *tensors)
    return found if found.name == TORCH.name else None


def keeps_no_steps(kind: str, x: Tensor) -> bool:
    """Check whether the engine of a layer keeps no single steps, as `torch.compile` may ask.

    A compiler has no cell, only what it is called, and a tensor without memory.

    Args:
        kind: "LSTM", "GRU", or an Elman cell's nonlinearity.
        x: inputs (T, B, I).
    """
    if kind not in KINDS:
        return False
    return wanted() == TORCH.name or (is_free() and torch_state.is_on_gpu(x))


def follows_autocast(cell: AbstractCell) -> bool:
    """Check whether a layer over this cell, outside of a trace, has autocast's precision.

    Args:
        cell: the recurrence.
    """
    return _pick(cell, Demand(()))[0].follows_autocast(cell)


def prepare(cell: AbstractCell) -> Prepared | None:
    """Prepare what a cell's sweeps need in every call, or return None.

    What is prepared holds for as long as the same is asked for by `use`.

    Args:
        cell: the recurrence, over weights that stay.
    """
    engine, found = _pick(cell, Demand(()))
    return engine.prepare(cell, found) if is_allowed(engine.name) else None
