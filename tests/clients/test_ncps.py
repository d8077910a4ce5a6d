"""ncps' liquid networks: LTC and CfC, each of which loops over a cell of its own."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt

from .checks import client, judged, left_alone, terms_sum_up

ncps = client("ncps.torch")
wirings = client("ncps.wirings")
pytestmark = pytest.mark.filterwarnings("ignore")
T, B, I = 16, 4, 3


def losses_of(model, x):
    said, _ = model(x)
    return said.sub(0.3).pow(2).mean((0, 2))


def ltc(**how):
    return ncps.LTC(I, wirings.AutoNCP(12, 2), batch_first=True, **how)


def cfc(**how):
    return ncps.CfC(I, 12, batch_first=True, **how)


def wired():
    return ncps.CfC(I, wirings.AutoNCP(12, 2), batch_first=True)


MODELS = [ltc, cfc, wired]


@pytest.mark.parametrize("make", MODELS)
def test_its_own_loop_is_followed(make, tmp_path):
    torch.manual_seed(0)
    model, x = make(), torch.randn(B, T, I)
    with tt.trace(model, steps=["rnn_cell"]) as trace:
        losses = losses_of(model, x)
    flow = trace.flow(losses)
    (name,) = flow
    layer = flow[name]
    assert name == "rnn_cell" and (layer.T, layer.B, layer.S) == (T, B, 12)
    assert not flow.skipped
    terms_sum_up(flow, model, losses, [name], by_step=make is ltc)
    # One step is one unit of time, some time constants of these cells at their initialisation.
    assert judged(flow, tmp_path) == {"rnn_cell": "VANISHING"}


@pytest.mark.parametrize("make", [ltc, cfc])
def test_with_a_memory_beside(make, tmp_path):
    torch.manual_seed(0)
    model, x = make(mixed_memory=True), torch.randn(B, T, I)
    with tt.trace(model, steps=["rnn_cell", "lstm"]) as trace:
        losses = losses_of(model, x)
    flow = trace.flow(losses)
    assert {name: (layer.T, layer.S) for name, layer in flow.items()} == {
        "lstm": (T, 12), "rnn_cell": (T, 12)
    }  # fmt: skip
    terms_sum_up(flow, model, losses, list(flow), by_step=False)
    judged(flow, tmp_path)
    # What the memory is for: the LSTM hands on more than the liquid cell does alone.
    with tt.trace(without := make(), steps=["rnn_cell"]) as trace:
        alone = losses_of(without, x)
    end = {name: float(layer.lag_profile()[-1]) for name, layer in flow.items()}
    assert end["lstm"] > 10 * float(trace.flow(alone)["rnn_cell"].lag_profile()[-1])


def test_convert_leaves_its_cells_alone_and_says_so():
    left_alone(ltc(mixed_memory=True), "rnn_cell", "lstm")
    left_alone(cfc(), "rnn_cell")
