"""The view is what readers rest on: nothing else of a layer's flow is asked, and all of it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.flow import LayerView, view
from throughtime.report.terminal_table import table

MEMBERS = {
    *(name for name in vars(LayerView) if not name.startswith("_")),
    *LayerView.__annotations__,
}


class Narrow:
    """A layer's flow that answers what the view names, and nothing else."""

    def __init__(self, layer: tt.LayerFlow) -> None:
        self._layer, self.asked = layer, set()

    def __getattr__(self, name: str):
        assert name in MEMBERS, f"{name} is not in the view"
        self.asked.add(name)
        return getattr(self._layer, name)


def narrow(model: nn.Module, x: torch.Tensor, *, scalar: bool = False, window: int | None = None):
    with tt.trace(model) as trace:
        losses = model(x)[0].pow(2).mean((1, 2))
        losses = losses.sum() if scalar else losses
    return {name: Narrow(layer) for name, layer in trace.flow(losses, window=window).items()}


def overflowing():
    """Return a flow in which nothing but a term of dE/dW_x overflows."""
    layer = tt.RNN(1, 1, nonlinearity="identity", bias=False)
    with torch.no_grad():
        layer.weight_hh_l0.zero_()
        layer.weight_ih_l0.fill_(1e-10)
    return narrow(layer, torch.full((5, 1, 1), 1e24))


def outside_large_input():
    """Return the flow of a step function with large input."""
    cell = tt.cells.Function(lambda x, s: torch.tanh(x.sum(-1, keepdim=True) + s), 2, 3)
    return narrow(tt.Recurrent(cell), 100 + torch.randn(6, 2, 2))


def far():
    """Return a flow whose first steps get exactly 0."""
    model = tt.RNN(3, 8, nonlinearity="sigmoid")
    with tt.trace(model) as trace:
        loss = model(torch.randn(150, 2, 3))[0][-1].pow(2).mean()
    return {name: Narrow(layer) for name, layer in trace.flow(loss).items()}


def read(flow, tmp_path) -> set[str]:
    """Let everything that reads a flow read this one; return what it asked."""
    judged = tt.diagnose(flow)
    tt.examine(flow)
    table(flow, judged).build()
    words = [str(k) for k in range(12)]
    tt.write_report(flow, tmp_path / "flow.html", diagnosis=judged, words=words)
    return set().union(*(layer.asked for layer in flow.values()))


def test_readers_ask_what_the_view_names_and_no_more(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(12, 2, 3)
    flows = [
        narrow(nn.GRU(3, 4, bidirectional=True), x, window=4),
        narrow(tt.RNN(3, 4, through=tt.Truncated(3)), x, scalar=True),
        # A loss at no row, so that the share of a weight is asked of a gradient that is 0.
        narrow(nn.RNN(3, 4), 0 * x, scalar=True),
        narrow(nn.RNN(3, 4), x.fill_(torch.nan)),
    ]
    with pytest.raises(tt.errors.InputValueError, match="l0 took 12 steps"):
        tt.figure({"a": flows[1]["l0"]}, "words", words=["too", "few"])
    asked = set().union(*(read(flow, tmp_path) for flow in flows))
    for flow in (overflowing(), outside_large_input(), far()):
        tt.examine(flow)
        asked |= set().union(*(layer.asked for layer in flow.values()))
    assert asked == MEMBERS


def test_a_layer_flow_is_named_by_its_cell():
    flow = narrow(nn.LSTM(3, 4), torch.randn(3, 2, 3))
    assert flow["l0"].kind == "LSTM"


def test_gain_is_the_base_of_the_bound_whatever_rows_take_a_step():
    torch.manual_seed(0)
    rnn = tt.RNN(3, 4)
    with tt.trace(rnn) as trace:
        # Row 0 ends early, so that its bound over the last step is that of no step (eq. 6, 7).
        losses = rnn(torch.randn(6, 2, 3), lengths=torch.tensor([2, 6]))[0].pow(2).mean((1, 2))
    layer = trace.flow(losses)["l0"]
    norm = torch.linalg.matrix_norm(rnn.weight_hh_l0.detach().double(), 2)
    assert abs(view.gain(layer) - float(norm)) < 1e-6 * float(norm)
    assert float(layer.bound(6, 5)[0]) == 1
    assert "β_W·β_f = 1:" not in tt.figure({"l0": layer}, "lag").layout.meta["caption"]


def test_there_is_no_gain_without_a_cell():
    class NoCell:
        cell = None

    assert view.gain(NoCell()) is None
