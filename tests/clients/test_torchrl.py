"""torchrl's `LSTMModule`: with `nn.LSTM`, converted, and an episode that begins inside a row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import errors

from .checks import client, judged, terms_sum_up

tensordict = client("tensordict")
modules = client("tensordict.nn")
torchrl = client("torchrl.modules")
pytestmark = pytest.mark.filterwarnings("ignore")
T, B, I, H = 12, 4, 3, 8


def policy(kind="LSTMModule", **how):
    """Return a recurrent policy as torchrl's tutorial builds it: embedding, recurrence, readout."""
    states = {"LSTMModule": ["h", "c"], "GRUModule": ["h"]}[kind]
    recurrent = getattr(torchrl, kind)(
        input_size=H, hidden_size=H,
        in_keys=["embed", *states], out_keys=["features", *(("next", s) for s in states)],
        default_recurrent_mode=True, **how,
    )  # fmt: skip
    return modules.TensorDictSequential(
        modules.TensorDictModule(nn.Linear(I, H), in_keys=["observation"], out_keys=["embed"]),
        recurrent,
        modules.TensorDictModule(nn.Linear(H, 2), in_keys=["features"], out_keys=["logits"]),
    )


def batch(inside):
    starts = torch.zeros(B, T, 1, dtype=torch.bool)
    starts[:, 0] = True
    if inside:
        starts[1, 5] = starts[2, 3] = starts[2, 8] = True
    return tensordict.TensorDict(
        {
            "observation": torch.randn(B, T, I),
            "is_init": starts,
            "action": torch.randint(2, (B, T)),
        },
        batch_size=[B, T],
    )


def losses_of(model, data):
    """Return REINFORCE's loss with a return of one, by step."""
    said = model(data.clone())
    logits = said["logits"].transpose(1, 2)
    return nn.functional.cross_entropy(logits, said["action"], reduction="none").mean(0)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize("kind", ["LSTMModule", "GRUModule"])
def test_its_training_step(kind, convert, inside, tmp_path):
    torch.manual_seed(0)
    model, data = policy(kind), batch(inside)
    plain = losses_of(model, data)
    if convert:
        tt.convert(model)
    with tt.trace(model) as trace:
        losses = losses_of(model, data)
    torch.testing.assert_close(losses, plain)
    flow = trace.flow(losses)
    (name,) = flow
    assert name == f"module.1.{'lstm' if kind == 'LSTMModule' else 'gru'}.l0" and not flow.skipped
    # torchrl lays an episode that begins inside a row out as a row of its own.
    rows = 7 if inside else 4
    assert flow[name].norms.shape == (T, T + 1, rows)
    terms_sum_up(flow, model, losses, [name])
    # Of 12 steps an LSTM with gates of one half keeps less than 1 %, a GRU a little more.
    assert judged(flow, tmp_path)[name] == ("VANISHING" if kind == "LSTMModule" else "HEALTHY")


def test_a_rollout_step_by_step():
    """Sequential mode: each step takes the state that the last one left."""
    torch.manual_seed(0)
    model, data = policy(), batch(True)
    h, c = torch.zeros(B, 1, H), torch.zeros(B, 1, H)
    losses = []
    with tt.trace(model) as trace, torchrl.set_recurrent_mode(False):
        for t in range(T):
            step = data[:, t].clone().update({"h": h, "c": c})
            said = model(step)
            losses.append(nn.functional.cross_entropy(said["logits"], said["action"]))
            h, c = said["next", "h"], said["next", "c"]
    layer = trace.flow(torch.stack(losses))["module.1.lstm.l0"]
    assert type(layer) is tt.LayerFlow and (layer.T, layer.B, layer.cuts) == (T, B, ())
    # Where an episode began, nothing of what comes after it reaches what was before.
    assert bool((layer.norms[5:, :6, 1] == 0).all()) and bool((layer.norms[11, 6:, 1] > 0).all())
    # The whole at once says the same of the rows in which no episode begins.
    with tt.trace(model) as trace:
        whole = losses_of(model, data)
    whole = trace.flow(whole)["module.1.lstm.l0"]
    plain = whole.norms[:, :, (whole.norms[-1] > 0).all(0)]
    torch.testing.assert_close(layer.norms[:, :, [0, 3]], plain)


def test_its_own_lstm_is_named_as_not_followed():
    """``python_based=True`` is a loop of functions; `make_cudnn_based` has an `nn.LSTM` again."""
    model, data = policy(python_based=True), batch(False)
    with (
        pytest.raises(errors.LayerNotFoundError, match=r"nn.RNNBase with a forward of its own"),
        tt.trace(model),
    ):
        losses_of(model, data)
    model.module[1].make_cudnn_based()
    with tt.trace(model) as trace:
        losses = losses_of(model, data)
    assert trace.flow(losses)["module.1.lstm.l0"].T == T
