"""norse's LIF cells: a recurrent one in a loop, and a stack by `SequentialState`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import errors

from .checks import client, judged, left_alone, terms_sum_up

norse = client("norse.torch")
pytestmark = pytest.mark.filterwarnings("ignore")
T, B = 20, 5


class Recurrent(nn.Module):
    """A recurrent spiking layer, with a leaky integrator as readout.

    Without autapses norse zeroes the diagonal of the recurrent weights' gradient by a hook on them,
    which `weight_grad` stands before.
    """

    def __init__(self, method: str = "super") -> None:
        super().__init__()
        p = norse.LIFParameters(method=method, v_th=torch.tensor(0.05))
        self.hidden = norse.LIFRecurrentCell(4, 16, p, autapses=True)
        self.out = norse.LILinearCell(16, 3)

    def forward(self, x):
        one, two, said = None, None, []
        for x_t in x:
            spikes, one = self.hidden(x_t, one)
            y, two = self.out(spikes, two)
            said.append(y)
        return torch.stack(said)


class Stack(nn.Module):
    """Feed-forward spiking layers: the state is a list that `SequentialState` hands on."""

    def __init__(self) -> None:
        super().__init__()
        p = norse.LIFParameters(v_th=torch.tensor(0.02))
        self.net = norse.SequentialState(
            nn.Linear(4, 16), norse.LIFCell(p), nn.Linear(16, 3), norse.LICell()
        )

    def forward(self, x):
        state, said = None, []
        for x_t in x:
            y, state = self.net(x_t, state)
            said.append(y)
        return torch.stack(said)


def losses_of(model, x):
    return model(x).sub(0.1).pow(2).mean((1, 2))


CELLS = (norse.LIFRecurrentCell, norse.LILinearCell, norse.LIFCell, norse.LICell)


@pytest.mark.parametrize("model", [Recurrent, Stack])
def test_cells_in_a_loop(model, tmp_path):
    torch.manual_seed(0)
    net, x = model(), 3 * torch.rand(T, B, 4)
    kinds = [kind for kind in CELLS if any(isinstance(m, kind) for m in net.modules())]
    with tt.trace(net, steps=kinds) as trace:
        losses = losses_of(net, x)
    flow = trace.flow(losses)
    assert len(flow) == 2 and not flow.skipped
    assert {layer.T for layer in flow.values()} == {T}
    for name in flow:
        if flow[name].weight_names:
            terms_sum_up(flow, net, losses, [name])
    verdicts = judged(flow, tmp_path)
    # A step of 1 ms keeps 90 % of the membrane: 13 % are left after these 20.
    assert set(verdicts.values()) == {"HEALTHY"}


def test_a_module_that_runs_over_all_steps_by_itself_is_not_seen():
    """LIF, LIFRecurrent and so on call functions, not modules: their cells are what to follow."""
    net = nn.Sequential(norse.LIFRecurrent(4, 16))
    with (
        pytest.raises(errors.LayerNotFoundError, match="Name a module that is one step"),
        tt.trace(net),
    ):
        net(torch.rand(T, B, 4))


def test_convert_leaves_its_cells_alone_and_says_so():
    left_alone(Recurrent(), "hidden", "out")
    left_alone(Stack(), "net.1", "net.3")
