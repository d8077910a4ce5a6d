"""A CPU that passes for a GPU, and what the tests of it run there."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from throughtime import kernels, torch_state
from throughtime.cells import AbstractCell, Function
from throughtime.kernels.comparison import term_error
from throughtime.kernels.cpu.engine import NATIVE
from throughtime.replays import graphs, steps

from .captured import Captures

F64 = torch.float64
T, B, I, H = 9, 2, 2, 3
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)


@pytest.fixture
def gpu(monkeypatch):
    """Let the CPU pass for a GPU, where recordings are made as a capture would be."""
    captures = Captures()
    monkeypatch.setattr(torch_state, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(NATIVE, "obstacle", lambda cell, demand: "it is for CPUs.")
    monkeypatch.setattr(graphs, "RECORDER", [captures])
    monkeypatch.setattr(graphs.REPLAYS, "_known", type(graphs.REPLAYS._known)())
    monkeypatch.setattr(steps, "WORTH_RECORDING", 1)
    return captures


def problem(cell: AbstractCell, seed: int = 0, steps: int = T, ragged: bool = True):
    draw = torch.Generator().manual_seed(seed)
    new = {"generator": draw, "dtype": F64}
    x, s_0 = torch.randn(steps, B, I, **new), torch.randn(B, cell.state_size, **new)
    active = torch.arange(steps)[:, None] < torch.tensor([steps, steps // 2])
    reset = (torch.rand(steps, B, generator=draw) < 0.3) & active
    masks = (active, reset) if ragged else (None, None)
    g, delta_T = torch.randn(2, steps, B, H, **new), torch.randn(2, B, cell.state_size, **new)
    return (x, s_0, *masks), g[..., : cell.hidden_size], delta_T


def same(got, want, within: float = 1e-12) -> None:
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert term_error(a, b) < within


def by_reference(verb, *args, **options):
    with kernels.use("reference"), torch.no_grad():
        return getattr(kernels, verb)(*args, **options)


class Own(AbstractCell):
    """A cell with a vjp of its own, an attribute and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.state_size, self.preact_size = I, H, H, H
        self.W = torch.nn.Parameter(torch.randn(H, H, dtype=F64) / 2)
        self.U = torch.nn.Parameter(torch.randn(H, I, dtype=F64))
        self.gain = 0.9
        self.register_buffer("shift", torch.ones(H, dtype=F64))

    def drive(self, x):
        return x @ self.U.T

    def step(self, a_t, s_prev):
        u = torch.tanh(a_t + s_prev @ self.W.T + self.shift)
        h = self.gain * u
        return h, (h, u)

    def vjp(self, saved, delta):
        h, u = saved
        adjoint = delta * (self.gain - h * u)
        return adjoint @ self.W, adjoint

    def param_grads(self, tape, adjoints):
        flat = adjoints.flatten(0, 1)
        return {"W": flat.T @ tape.s_prev().flatten(0, 1), "U": flat.T @ tape.x.flatten(0, 1)}

    def input_grad(self, adjoints):
        return adjoints @ self.U


def with_a_function(steps: int):
    torch.manual_seed(1)
    W = torch.randn(I + H, H, dtype=F64)
    cell = Function(lambda x, s, W: torch.tanh(x @ W[:I] + s @ W[I:]), I, H, weights={"W": W / 2})
    return cell, problem(cell, steps=steps)
