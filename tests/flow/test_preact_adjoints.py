"""The adjoints of a loop's pre-activations: those of the same cell as a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.testing import assert_close


@pytest.mark.parametrize(("cell", "layer"), [(nn.LSTMCell, nn.LSTM), (nn.GRUCell, nn.GRU)])
def test_a_loop_has_those_of_its_layer(cell, layer):
    torch.manual_seed(0)
    step, whole = cell(3, 5).double(), layer(3, 5).double()
    for name, weight in step.named_parameters():
        getattr(whole, f"{name}_l0").data.copy_(weight.data)
    x = torch.randn(9, 2, 3, dtype=torch.float64)
    with tt.trace(step) as looped:
        state, out = None, []
        for x_t in x:
            state = step(x_t, state)
            out.append(state[0] if isinstance(state, tuple) else state)
        loss = torch.stack(out).pow(2).sum()
    with tt.trace(whole) as straight:
        same = whole(x)[0].pow(2).sum()
    mine, theirs = looped.flow(loss)[""], straight.flow(same)["l0"]
    assert_close(mine.preact_adjoints, theirs.preact_adjoints)
