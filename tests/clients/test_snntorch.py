"""snntorch's tutorial network: two spiking layers, and the loss of each step's membrane."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt

from .checks import client, judged, left_alone, terms_sum_up

snn = client("snntorch")
pytestmark = pytest.mark.filterwarnings("ignore")
T, B = 25, 6


def cell(kind: str, **how) -> nn.Module:
    learnt = {"beta": 0.9, "learn_beta": True}
    if kind == "Synaptic":
        learnt |= {"alpha": 0.8, "learn_alpha": True}
    return getattr(snn, kind)(**learnt, **how)


def state(layer: nn.Module) -> list[torch.Tensor]:
    """Return zeros: given none, a layer would go on from where the last sequence left it."""
    found = layer.reset_mem()
    return [found] if isinstance(found, torch.Tensor) else list(found)


class Net(nn.Module):
    """The state goes by the hand of the loop."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(10, 20), nn.Linear(20, 4)
        self.lif1, self.lif2 = cell(kind), cell(kind)

    def forward(self, x):
        one, two = state(self.lif1), state(self.lif2)
        membranes = []
        for x_t in x:
            spikes, *one = self.lif1(self.fc1(x_t), *one)
            _, *two = self.lif2(self.fc2(spikes), *two)
            membranes.append(two[-1])
        return torch.stack(membranes)


class Hidden(nn.Module):
    """The cells keep their state themselves: ``init_hidden=True`` in an `nn.Sequential`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(10, 20),
            cell(kind, init_hidden=True),
            nn.Linear(20, 4),
            cell(kind, init_hidden=True, output=True),
        )

    def forward(self, x):
        for layer in (self.net[1], self.net[3]):
            layer.reset_mem()
        return torch.stack([self.net(x_t)[-1] for x_t in x])


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
@pytest.mark.parametrize("model", [Net, Hidden])
def test_a_spiking_network(model, kind, tmp_path):
    torch.manual_seed(0)
    net = model(kind)
    x, labels = torch.rand(T, B, 10), torch.randint(4, (B,))
    for _ in range(2):  # the second time states are there from the first
        with tt.trace(net, steps=[snn.SpikingNeuron]) as trace:
            membranes = net(x)
            losses = torch.stack([nn.functional.cross_entropy(m, labels) for m in membranes])
        flow = trace.flow(losses)
        assert len(flow) == 2 and not flow.skipped
        assert {layer.T for layer in flow.values()} == {T}
        terms_sum_up(flow, net, losses, list(flow))
    widths = [layer.S for layer in flow.values()]
    assert widths == ([40, 8] if kind == "Synaptic" else [20, 4])
    verdicts = judged(flow, tmp_path)
    # What is left after 24 steps is .9^24 = 8 % and more: no layer forgets within its window.
    assert set(verdicts.values()) == {"HEALTHY"}


def test_a_state_that_is_detached_between_chunks_is_cut():
    torch.manual_seed(0)
    # What is written in place must not be needed: a learned beta would need the membrane.
    leaky = snn.Leaky(beta=0.9, init_hidden=True)
    lift, x = nn.Linear(10, 20), torch.rand(T, B, 10)
    net = nn.Sequential(lift, leaky)
    with tt.trace(net, steps=[snn.Leaky]) as trace:
        said = []
        for t, x_t in enumerate(x):
            if t == 10:
                snn.Leaky.detach_hidden()
            said.append(net(x_t).mean())
    layer = trace.flow(torch.stack(said))["1"]
    assert layer.T == T and layer.cuts == (11,)


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_convert_leaves_spiking_layers_alone_and_says_so(kind):
    left_alone(Net(kind), "lif1", "lif2")
    left_alone(Hidden(kind), "net.1", "net.3")
