"""Sound models raise no alarm: the examples, and untrained layers over short sequences."""

from __future__ import annotations

import runpy

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import cells


def alarms(flow) -> list[tuple[str, str]]:
    """Give the codes of errors and warnings."""
    return [(f.code, f.what) for f in tt.examine(flow) if f.severity != "note"]


def test_the_example_to_profile(root):
    model, batch, losses, _ = runpy.run_path(str(root / "examples" / "profile_lstm.py"))[
        "next_word"
    ]()
    with tt.trace(model) as trace:
        found = losses(model, batch)
    assert alarms(trace.flow(found)) == []


def test_the_example_to_trace(root):
    torch.manual_seed(0)
    model = runpy.run_path(str(root / "examples" / "trace_a_model.py"))["Tagger"]()
    words, tags = torch.randint(50, (4, 60)), torch.randint(7, (4, 60))
    with tt.trace(model) as trace:
        losses = nn.functional.cross_entropy(model(words).mT, tags, reduction="none").mean(0)
    assert alarms(trace.flow(losses)) == []


def test_the_example_of_reinforcement_learning(root):
    torch.manual_seed(0)
    ppo = runpy.run_path(str(root / "examples" / "recurrent_ppo.py"))
    agent = ppo["Agent"]()
    world = ppo["Recall"](16, torch.Generator().manual_seed(0))
    part = next(iter(ppo["rollouts"](agent, world)))
    part["advantage"] = torch.randn_like(part["value"])
    part["return"] = torch.randn_like(part["value"])
    with tt.trace(agent) as trace:
        loss = ppo["objective"](agent, part)[0]
    assert alarms(trace.flow(loss)) == []


LAYERS = {
    "rnn": lambda: nn.RNN(8, 24),
    "relu": lambda: nn.RNN(8, 24, nonlinearity="relu"),
    "lstm": lambda: nn.LSTM(8, 24),
    "projected": lambda: nn.LSTM(8, 24, proj_size=12),
    "gru": lambda: nn.GRU(8, 24),
    "two layers": lambda: nn.LSTM(8, 24, num_layers=2),
    "both ways": lambda: nn.GRU(8, 24, num_layers=2, bidirectional=True),
    "sigmoid": lambda: tt.RNN(8, 24, nonlinearity="sigmoid"),
    "identity": lambda: tt.RNN(8, 24, nonlinearity="identity"),
    "layer norm": lambda: tt.Recurrent(cells.LayerNormLSTM(8, 24)),
    "peephole": lambda: tt.Recurrent(cells.PeepholeLSTM(8, 24)),
    "leaky": lambda: tt.Recurrent(cells.Leaky(8, 24)),
    "minimal": lambda: tt.Recurrent(cells.MinGRU(8, 24)),
}
READS = {
    "last": lambda h: h[-1].pow(2).mean(),
    "mean": lambda h: h.mean(0).pow(2).mean(),
    "each": lambda h: (h - 0.3).pow(2).mean((1, 2)),
    "sum": lambda h: (h - 0.3).pow(2).sum(),
    "tail": lambda h: (h[-3:] - 0.3).pow(2).mean((1, 2)),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("name", LAYERS)
def test_untrained_layers_over_short_sequences(name, read):
    if name == "both ways" and read in ("last", "tail"):
        pytest.skip("the reverse direction is read where it has seen few steps")
    for T in (2, 5, 10):
        torch.manual_seed(T)
        layer = LAYERS[name]()
        words = nn.functional.one_hot(torch.randint(8, (T, 6)), 8).float()
        for x in (torch.randn(T, 6, 8), words):
            with tt.trace(layer) as trace:
                losses = READS[read](layer(x)[0])
            assert alarms(trace.flow(losses)) == []
