"""Flows to draw: small, each in a regime whose picture is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt


def flow_of(rnn: nn.Module, T: int = 20, B: int = 2, *, dtype=torch.float32, losses=None, **run):
    """Trace a layer on noise; by default one loss a step, the mean square of its output."""
    torch.manual_seed(5)
    rnn = rnn.to(dtype)
    with tt.trace(rnn) as trace:
        out = rnn(torch.randn(T, B, rnn.input_size, dtype=dtype), **run)[0]
        each = out.pow(2).mean((1, 2))
        asked = each if losses is None else losses(each)
    return trace.flow(asked)


def linear(gain: float, H: int = 4, **options):
    """Build h_t = gain · Q h_{t-1} + W_x x_t with an orthogonal Q."""
    torch.manual_seed(2)
    rnn = tt.RNN(3, H, nonlinearity="identity", bias=False, **options)
    with torch.no_grad():
        rnn.weight_hh_l0.copy_(gain * torch.linalg.qr(torch.randn(H, H))[0])
    return rnn


def regime(name: str):
    """Give a flow by the name of what is special about it."""
    torch.manual_seed(1)
    build = {
        "vanishing": lambda: flow_of(nn.RNN(3, 6), T=40),
        "gated": lambda: flow_of(nn.LSTM(3, 5)),
        "two layers": lambda: flow_of(nn.GRU(3, 4, num_layers=2, bidirectional=True), T=12),
        "both ways": lambda: flow_of(nn.GRU(3, 4, bidirectional=True), T=12),
        "orthogonal": lambda: flow_of(linear(1.0)),
        "exploding": lambda: flow_of(linear(1.5), T=30),
        "underflow": lambda: flow_of(tt.RNN(3, 4, nonlinearity="sigmoid"), T=160),
        "overflow": lambda: flow_of(linear(4.0), T=100),
        "one step": lambda: flow_of(nn.RNN(3, 4), T=1, B=1),
        "one loss": lambda: flow_of(nn.GRU(3, 4), losses=lambda each: each[-1:]),
        "scalar": lambda: flow_of(nn.GRU(3, 4), losses=lambda each: each.sum()),
        "no gradient": lambda: flow_of(nn.GRU(3, 4), losses=lambda each: 0 * each),
        "nan": lambda: flow_of(nn.GRU(3, 4), losses=lambda each: each * float("nan")),
        "one unit": lambda: flow_of(nn.RNN(3, 1)),
        "long": lambda: flow_of(nn.RNN(3, 2), T=450, B=1),
    }
    return build[name]()


REGIMES = (
    "vanishing",
    "gated",
    "two layers",
    "orthogonal",
    "exploding",
    "underflow",
    "overflow",
    "one step",
    "one loss",
    "scalar",
    "no gradient",
    "nan",
    "one unit",
)


@pytest.fixture(scope="session")
def flows():
    """Give flows by regime, each measured once."""
    kept: dict[str, tt.Flow] = {}

    def give(name: str) -> tt.Flow:
        if name not in kept:
            kept[name] = regime(name)
        return kept[name]

    return give
