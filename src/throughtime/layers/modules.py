"""`RNN`, `LSTM` and `GRU`: the modules of ``torch.nn``, trained by exact BPTT in one node."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..cells.elman import check_nonlinearity
from ..errors import DtypeError, InputTypeError, InputValueError
from ..schedules import FULL, Schedule
from ..schedules.base import check_schedule
from ..shapes import check_sizes
from .leaf import leaf
from .quick import quick
from .stack import run_bptt
from .through import notice
from .unscriptable import Unscriptable

__all__ = ["GRU", "LSTM", "RNN"]

X = TypeVar("X", Tensor, PackedSequence)  # an output comes as its input does


class _Through(Unscriptable, nn.RNNBase):
    """What the three modules share: the call.

    The base is `nn.RNNBase` and not `nn.RNN` and so on, because ``torch.compile`` refuses whatever
    is an instance of those three. What ``convert`` turns into one of these keeps the class's
    schedule, so it has no attribute of its own.
    """

    through: Schedule = FULL
    streamed = False

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int = 0,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        through: Schedule,
    ) -> None:
        """Look at the arguments before `nn.RNNBase` does, whose errors do not say what came."""
        check_schedule(through)
        check_sizes(input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        _check_options(dropout, proj_size, hidden_size, dtype)
        super().__init__(
            mode, int(input_size), int(hidden_size), int(num_layers), bias, batch_first,
            dropout, bidirectional, proj_size, device=device, dtype=dtype,
        )  # fmt: skip
        if through != FULL:
            self.through = through

    def extra_repr(self) -> str:
        """Say what differs from the defaults."""
        told = super().extra_repr()
        return told if self.through == FULL else f"{told}, through={self.through}"

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx=None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
        mask: Tensor | None = None,
    ):
        """Run the layers over a sequence (eq. 1) and be ready for exact BPTT (eq. 9, 5).

        Args:
            input: (T, B, I); (B, T, I) with ``batch_first``; (T, I) without a batch; or packed.
            hx: the initial state as ``torch.nn`` takes it; zeros where None.
            lengths: (B,) integers; past a row's length its state stays and its output is 0.
            reset: (T, B) bool, time first also with ``batch_first``; where True the row's state is
                zeroed before that step, and no gradient passes. The reverse direction is cut at the
                same boundary.
            mask: the lengths as a bool mask, True on the first steps of each row: (T, B), or (B, T)
                with ``batch_first``. So torchrl's ``LSTMModule`` and ``GRUModule`` give them to a
                layer that is no `nn.LSTM` or `nn.GRU`.

        Returns:
            The output and the final state, as ``torch.nn`` returns them.

        Raises:
            ShapeError: an input or state of the wrong shape, or T = 0.
            DtypeError: an input or state of another dtype than the weights.
            DeviceError: an input or state on another device than the weights.
            InputTypeError: an input or state of the wrong type.
            InputValueError: lengths outside 1…T, or beside a PackedSequence; a mask with a hole.
        """
        notice(self)
        if mask is None:
            found = quick(self, input, hx, lengths, reset)
            if found is not None:
                return found
        found = leaf(self, input, hx, {"lengths": lengths, "reset": reset, "mask": mask})
        if found is not None:
            return found
        return run_bptt(self, input, hx, lengths=lengths, reset=reset, mask=mask)


def _check_options(dropout: float, proj_size: int, hidden_size: int, dtype) -> None:
    number = isinstance(dropout, Real) and not isinstance(dropout, bool)
    if not number or not 0 <= dropout <= 1:
        raise (InputValueError if number else InputTypeError)(
            f"dropout must be a probability, 0 to 1; got {dropout!r}."
        )
    if not isinstance(proj_size, int) or isinstance(proj_size, bool):
        raise InputTypeError(f"proj_size must be an integer; got {proj_size!r}.")
    if not 0 <= proj_size < hidden_size:
        raise InputValueError(
            f"proj_size must be 0 (no projection) or below hidden_size={hidden_size}; "
            f"got {proj_size}."
        )
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise InputTypeError(f"dtype must be a torch.dtype; got {dtype!r}.")
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        raise DtypeError(f"dtype must be a floating-point one, such as torch.float32; got {dtype}.")


class RNN(_Through):
    """`torch.nn.RNN` by exact BPTT: h_t = f(W_x x_t + W_h h_{t-1} + b) (eq. 1).

    Arguments, ``state_dict``, call and results are those of `torch.nn.RNN`; ``nonlinearity`` may
    also be ``"sigmoid"`` or ``"identity"``, and the call takes ``lengths=`` and ``reset=``.
    ``through=`` is the schedule: `tt.Full`, `tt.Truncated` or `tt.Checkpointed`.
    Under autocast the layer keeps the precision of its weights; on a GPU, where torch's own module
    runs it, it has autocast's.

    Shapes:
        input (T, B, I) → output (T, B, D·H), h_n (L·D, B, H), for L layers in D directions.

    Cost:
        memory T·B·H a layer beyond the input, and no autograd graph of the steps.

    Raises:
        InputTypeError: an argument of the wrong type.
        InputValueError: an unknown nonlinearity, a size below 1, or no probability.

    Source:
        Elman (1990); BPTT as in Werbos (1990).

    Example:
        >>> output, h_n = RNN(3, 5, nonlinearity="sigmoid")(torch.zeros(7, 2, 3))
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 5]), torch.Size([1, 2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        through: Schedule = FULL,
    ) -> None:
        """Take the arguments of `torch.nn.RNN`, and the schedule of the backward pass."""
        if not isinstance(nonlinearity, str):
            raise InputTypeError(f"nonlinearity must be a name; got {nonlinearity!r}.")
        check_nonlinearity(nonlinearity)
        super().__init__(
            "RNN_TANH", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype, through=through,
        )  # fmt: skip
        self.nonlinearity = nonlinearity
        self.mode = f"RNN_{nonlinearity.upper()}"

    if TYPE_CHECKING:  # what `forward` returns; `nn.Module` has Any

        def __call__(
            self,
            input: X,
            hx: Tensor | None = None,
            *,
            lengths: Tensor | Sequence[int] | None = None,
            reset: Tensor | None = None,
            mask: Tensor | None = None,
        ) -> tuple[X, Tensor]:
            """Run the layer: `forward`."""
            ...


class LSTM(_Through):
    """`torch.nn.LSTM` by exact BPTT (eq. 1, 9, 5); equations at `throughtime.cells.LSTM`.

    Arguments, ``state_dict``, call and results are those of `torch.nn.LSTM`, ``proj_size``
    included; the call also takes ``lengths=`` and ``reset=``. ``through=`` is the schedule of the
    backward pass: `tt.Full`, `tt.Truncated` or `tt.Checkpointed`. Under autocast the layer keeps
    the precision of its weights; on a GPU, where torch's own module runs it, it has autocast's.

    Shapes:
        input (T, B, I) → output (T, B, D·H), (h_n, c_n) each (L·D, B, H).

    Cost:
        memory 6·T·B·H a layer beyond the input, and no autograd graph of the steps.

    Raises:
        InputTypeError: an argument of the wrong type.
        InputValueError: a size below 1, ``proj_size`` not below H, or no probability.

    Source:
        Hochreiter and Schmidhuber (1997); Gers, Schmidhuber and Cummins (2000).

    Example:
        >>> output, (h_n, c_n) = LSTM(3, 5, num_layers=2)(torch.zeros(7, 2, 3))
        >>> output.shape, c_n.shape
        (torch.Size([7, 2, 5]), torch.Size([2, 2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        through: Schedule = FULL,
    ) -> None:
        """Take the arguments of `torch.nn.LSTM`, and the schedule of the backward pass."""
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device=device, dtype=dtype, through=through,
        )  # fmt: skip

    if TYPE_CHECKING:  # what `forward` returns; `nn.Module` has Any

        def __call__(
            self,
            input: X,
            hx: tuple[Tensor, Tensor] | None = None,
            *,
            lengths: Tensor | Sequence[int] | None = None,
            reset: Tensor | None = None,
            mask: Tensor | None = None,
        ) -> tuple[X, tuple[Tensor, Tensor]]:
            """Run the layer: `forward`."""
            ...


class GRU(_Through):
    """`torch.nn.GRU` by exact BPTT (eq. 1, 9, 5); equations at `throughtime.cells.GRU`.

    Arguments, ``state_dict``, call and results are those of `torch.nn.GRU`; the call also takes
    ``lengths=`` and ``reset=``. ``through=`` is the schedule of the backward pass: `tt.Full`,
    `tt.Truncated` or `tt.Checkpointed`. Under autocast the layer keeps the precision of its
    weights; on a GPU, where torch's own module runs it, it has autocast's.

    Shapes:
        input (T, B, I) → output (T, B, D·H), h_n (L·D, B, H).

    Cost:
        memory 5·T·B·H a layer beyond the input, and no autograd graph of the steps.

    Raises:
        InputTypeError: an argument of the wrong type.
        InputValueError: a size below 1, or no probability.

    Source:
        Cho et al. (2014), in the variant of cuDNN.

    Example:
        >>> output, h_n = GRU(3, 5, bidirectional=True)(torch.zeros(7, 2, 3))
        >>> output.shape, h_n.shape
        (torch.Size([7, 2, 10]), torch.Size([2, 2, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        through: Schedule = FULL,
    ) -> None:
        """Take the arguments of `torch.nn.GRU`, and the schedule of the backward pass."""
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, device=device, dtype=dtype, through=through,
        )  # fmt: skip

    if TYPE_CHECKING:  # what `forward` returns; `nn.Module` has Any

        def __call__(
            self,
            input: X,
            hx: Tensor | None = None,
            *,
            lengths: Tensor | Sequence[int] | None = None,
            reset: Tensor | None = None,
            mask: Tensor | None = None,
        ) -> tuple[X, Tensor]:
            """Run the layer: `forward`."""
            ...
