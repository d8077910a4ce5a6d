"""The schedule of the backward pass, as the horizon asks for it."""

from __future__ import annotations

from torch import nn

from ..layers import GRU, LSTM, RNN, Recurrent, convert
from ..schedules import FULL, Checkpointed, Schedule, Truncated
from .base import Case, Change, Remedy
from .places import Place

__all__ = ["CHECKPOINTED", "TRUNCATED"]

KINDS = (nn.RNN, nn.LSTM, nn.GRU, RNN, LSTM, GRU, Recurrent)
# Bytes that the states alone take, from which on checkpoints are worth their second forward pass.
LARGE = 2**26
# Truncation keeps so many times the horizon, and is worth it where T is so many times that.
KEPT, WORTH = 2, 2


def _takes_schedule(place: Place) -> bool:
    module = place.module
    return type(module) in KINDS and getattr(module, "through", FULL) == FULL


def _window(case: Case, place: Place) -> int:
    """Return twice the horizon, or the lag that is needed where that is more."""
    layers = case.layers(place)
    horizon = max(layer.horizon() for layer in layers)
    farthest = max(len(layer.lag_profile()) - 1 for layer in layers)
    wanted = case.lag + 1 if case.lag < farthest else 0
    return max(1, KEPT * horizon, wanted)


def _truncated_fits(case: Case, place: Place) -> bool:
    if not _takes_schedule(place):
        return False
    T = max(layer.T for layer in case.layers(place))
    return WORTH * _window(case, place) <= T


def _truncate(case: Case, place: Place) -> Change:
    window = _window(case, place)
    return _set(place, Truncated(window), f"tt.Truncated({window})")


def _checkpointed_fits(case: Case, place: Place) -> bool:
    if not _takes_schedule(place):
        return False
    states = [layer.tape.s for layer in case.layers(place)]
    return sum(s.numel() * s.element_size() for s in states) >= LARGE


def _checkpoint(case: Case, place: Place) -> Change:
    del case
    return _set(place, Checkpointed(), "tt.Checkpointed()")


def _set(place: Place, schedule: Schedule, written: str) -> Change:
    layer = place.module
    if isinstance(layer, nn.RNNBase):
        convert(layer)
    layer.through = schedule  # pyright: ignore[reportArgumentType]
    return Change(f"tt.convert({place.expression}).through = {written}")


TRUNCATED = Remedy(
    name="truncated",
    against=("explodes",),
    what="No further back than twice the horizon: what is left out had no size.",
    formula="∂E_t/∂s_k dropped for k beyond the segment of `window` steps",
    source="Williams and Peng (1990), An efficient gradient-based algorithm for on-line training",
    gains="Time and memory where the horizon is short. It lengthens no reach.",
    fits=_truncated_fits,
    change=_truncate,
)

CHECKPOINTED = Remedy(
    name="checkpointed",
    against=(),
    what="The whole gradient in the memory of few states, for a second forward pass.",
    formula="states kept at some steps; those between computed again",
    source="Griewank and Walther (2000), Algorithm 799: Revolve",
    gains="Memory where T is long. The gradient is the same.",
    fits=_checkpointed_fits,
    change=_checkpoint,
)
