"""One layer over any cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..cells.base import AbstractCell
from ..errors import InputTypeError
from ..node.compiled import cell_kind, compiled_bptt
from ..node.operator import onnx_layer
from ..node.recording import Recording
from ..schedules import FULL, Schedule
from ..schedules.base import check_schedule
from ..shapes import check_shape
from ..tape import joined
from ..torch_state import is_to_onnx, is_transforming
from .inputs import from_time_first, to_time_first
from .leaf import leaf
from .own_cell import run_here
from .through import notice
from .unscriptable import Unscriptable

__all__ = ["Recurrent", "run_cell"]

X = TypeVar("X", Tensor, PackedSequence)  # an output comes as its input does


class Recurrent(Unscriptable):
    """One layer over any cell, by exact BPTT (eq. 1, 9, 5).

    Shapes:
        input (T, B, I) → output (T, B, H), final state (B, S).

    Cost:
        the cell's steps; memory T·B·(S + what the cell saves).

    Raises:
        InputTypeError: ``cell`` is no `throughtime.cells.AbstractCell`.

    Example:
        >>> from throughtime.cells import Elman
        >>> output, s_n = Recurrent(Elman(3, 5, "relu"))(torch.zeros(7, 2, 3))
        >>> output.shape, s_n.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 5]))
    """

    through: Schedule = FULL
    streamed = False
    instead = (
        "tt.LSTM, tt.GRU and tt.RNN in its place go through tt.unconvert(model), which it takes"
    )

    def __init__(
        self, cell: AbstractCell, *, batch_first: bool = False, through: Schedule = FULL
    ) -> None:
        """Wrap a cell.

        Args:
            cell: the recurrence.
            batch_first: whether input and output are (B, T, ·).
            through: which steps are kept, recomputed or cut on the backward pass.

        Raises:
            InputTypeError: ``cell`` is no cell, or ``through`` no schedule.
        """
        super().__init__()
        if not isinstance(cell, AbstractCell):
            raise InputTypeError(
                f"cell must be a throughtime.cells.AbstractCell; got {type(cell).__name__}. "
                "throughtime.cells.Function makes one of any step function."
            )
        check_schedule(through)
        self.cell = cell
        self.through = through
        self.batch_first = batch_first

    def forward(
        self,
        input: Tensor,
        hx: Tensor | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        context: Mapping[str, Tensor] | None = None,
    ):
        """Run the cell over a sequence.

        Args:
            input: (T, B, I); (B, T, I) with ``batch_first``; (T, I) without a batch; or packed.
            hx: the initial state s_0 (B, S), or (S,) without a batch; zeros where None.
            lengths: (B,) integers; past a row's length its state stays and its output is 0.
            reset: (T, B) bool, time first also with ``batch_first``; where True the row's state is
                zeroed before that step.
            context: tensors by name that a `cells.Function`'s step is called with beside its
                weights, as it takes them; one with a graph gets its gradient.

        Returns:
            The output and the final state s_T.

        Raises:
            ShapeError: an input, state, or what the step returned has the wrong shape.
            DtypeError: likewise its dtype.
            GraphError: a step function uses a tensor that requires grad and is not its weight.
            InputValueError: lengths outside 1…T; a step function that writes into its arguments,
                or is random.
            NonFiniteError: a step function makes NaN of finite numbers in the first step.
            UnsupportedError: lengths, and a step function whose rows depend on each other; context
                for another cell than a `cells.Function`; within a trace, context that comes from
                another traced layer.
        """
        found = leaf(self, input, hx, {"lengths": lengths, "reset": reset, "context": context})
        if found is not None:
            return found
        return run_cell(self, input, hx, lengths=lengths, reset=reset, context=context)

    if TYPE_CHECKING:  # what `forward` returns; `nn.Module` has Any

        def __call__(
            self,
            input: X,
            hx: Tensor | None = None,
            *,
            lengths: Tensor | Sequence[int] | None = None,
            reset: Tensor | None = None,
            context: Mapping[str, Tensor] | None = None,
        ) -> tuple[X, Tensor]:
            """Run the layer: `forward`."""
            ...


def run_cell(
    module: Recurrent,
    input: Tensor,
    hx: Tensor | None = None,
    *,
    lengths: Tensor | Sequence[int] | None = None,
    reset: Tensor | None = None,
    context: Mapping[str, Tensor] | None = None,
    recording: Recording | None = None,
    path: str = "",
):
    """Run a `Recurrent`; with ``recording``, for a trace."""
    cell = module.cell
    notice(module, cell)
    weights = [w for w in cell.weights().values() if w.is_floating_point()]
    data = input.data if isinstance(input, PackedSequence) else input
    like = weights[0] if weights else data
    batch = to_time_first(
        input, like, cell.input_size, batch_first=module.batch_first, lengths=lengths, reset=reset
    )
    B, S = batch.x.shape[1], cell.state_size
    if hx is None:
        s_0 = batch.x.new_zeros(B, S)
    else:
        check_shape("hx", hx, "B S" if batch.batched else "S", {"B": B, "S": S}, like=like)
        s_0 = hx if batch.batched else hx.unsqueeze(0)
    # An old weight norm is a hook before the call, which the cell itself never gets.
    compiling = torch.compiler.is_compiling()
    transformed = compiling and is_transforming()
    plain = not compiling or transformed or context is not None or cell._forward_pre_hooks
    kind = None if plain else cell_kind(cell)
    if kind is not None and is_to_onnx():
        h, parts = onnx_layer(kind, cell.weights(), batch.x, s_0, batch.active, batch.reset)
        s_T = joined(parts)
    elif kind is not None:
        h, s_T = compiled_bptt(
            kind, cell.weights(), module.through, batch.x, s_0, batch.active, batch.reset
        )
    else:
        if compiling and not transformed:
            from .outside import outside as run  # it imports the compiler, which takes a second
        else:
            run = run_here
        h, s_T = run(module, batch, s_0, recording, f"{path}.l0" if path else "l0", context)
    return from_time_first(batch, h, module.batch_first), s_T if batch.batched else s_T.squeeze(0)
