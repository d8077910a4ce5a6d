"""An update is made whole, or refused with the weights as they were."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import NonFiniteError
from throughtime.train import began, update


def recurrence(gain: float) -> nn.RNN:
    layer = tt.RNN(1, 1, nonlinearity="identity", bias=False)
    with torch.no_grad():
        layer.weight_hh_l0.fill_(gain)
        layer.weight_ih_l0.fill_(1)
    return layer


def test_update_goes_down_the_clipped_gradient():
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([w], lr=1.0)
    assert update([w], (w * w).sum() / 2, optimizer, clip=1.0) == pytest.approx(5.0)
    torch.testing.assert_close(w.data, torch.tensor([2.4, 3.2]))
    update([w], (w * w).sum() / 2, optimizer, clip=None)
    torch.testing.assert_close(w.data, torch.zeros(2))


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda w: (w * float("nan")).sum(), "the loss is nan"),
        (lambda w: (w + float("inf")).sum(), "the loss is inf"),
        (lambda w: w.clamp(min=0).sqrt().sum(), "the norm of its gradient is inf"),
    ],
)
def test_update_refuses_what_is_not_finite_and_leaves_the_weights(loss, words):
    w = nn.Parameter(torch.tensor([0.0, 1.0]))
    optimizer = torch.optim.SGD([w], lr=1.0)
    with pytest.raises(NonFiniteError, match=words):
        update([w], loss(w), optimizer, clip=1.0)
    assert w.tolist() == [0.0, 1.0]


def test_began_names_the_first_step_forward():
    layer = recurrence(2.0)
    with tt.trace(layer) as trace:
        loss = layer(torch.ones(200, 1, 1))[0][-1].sum()
    assert began(trace.flow(loss)) == (
        "it began in the forward pass, in l0 at step 128, batch row 0, unit 0: inf"
    )


@pytest.mark.parametrize(
    ("gain", "blamed"), [(1.0, "below.l0 at step 73"), (2.0, "above.l0 at step 72")]
)
def test_began_names_the_first_step_backward_and_the_layer_nearest_to_the_loss(gain, blamed):
    below, above = recurrence(2.0), recurrence(gain)
    model = nn.ModuleDict({"below": below, "above": above})
    x = torch.zeros(200, 1, 1)
    with tt.trace(model) as trace:
        h, _ = below(x)
        loss = above(h)[0][-1].sum()
    # 2^(200-k) at step k of a layer of gain 2, 1 at every step of one of gain 1, above which the
    # lower layer sums to 2^(201-k) - 1. Float32 ends at 2^128.
    flow = trace.flow(loss)
    # Where the upper layer overflows, the lower one does too; the upper one is where it began.
    assert flow["below.l0"].first_nonfinite is not None
    assert f"in the backward pass, in {blamed}" in began(flow)


def test_began_says_when_no_recurrent_layer_is_to_blame():
    layer, readout = tt.RNN(2, 3), nn.Linear(3, 1)
    before = copy.deepcopy(readout.state_dict())
    model = nn.ModuleDict({"layer": layer, "readout": readout})
    with tt.trace(model) as trace:
        loss = readout(layer(torch.randn(5, 2, 2))[0][-1]).sum()
    assert "it began in the readout" in began(trace.flow(loss))
    assert all(torch.equal(before[k], v) for k, v in readout.state_dict().items())
