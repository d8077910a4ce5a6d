"""How many operations a step of a sweep back in plain torch takes; on a GPU each is a launch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from throughtime import kernels, sweep
from throughtime.cells import (
    GRU,
    LSTM,
    AbstractCell,
    Elman,
    LayerNormLSTM,
    Leaky,
    PeepholeLSTM,
    RefineLSTM,
)
from throughtime.kernels.comparison import term_error
from throughtime.kernels.gpu import fused, two_launches
from throughtime.kernels.gpu.fused import FUSED

F64 = torch.float64
B, I, H = 4, 3, 5
CELLS = {"RNN": Elman, "GRU": GRU, "LSTM": LSTM}
# What moves no data, and what runs on the host.
FREE = {"view", "select", "slice", "detach", "t", "expand", "unsqueeze", "squeeze", "unbind",
        "split", "alias", "transpose", "_unsafe_view", "reshape"}  # fmt: skip


class Counted(TorchDispatchMode):
    """Count the operations that would be launched, and those that would wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function).split(".")[1]
        if name not in FREE:
            self.launches[name] += 1
        return function(*args, **(kwargs or {}))


def swept(cell, T, what):
    draw = torch.Generator().manual_seed(0)
    new = {"generator": draw, "dtype": cell.weight_hh.dtype}
    x, g = torch.randn(T, B, I, **new), torch.randn(T, B, H, **new)
    with kernels.use("reference"), torch.no_grad():
        tape = kernels.forward(cell, x, x.new_zeros(B, cell.state_size))
        with Counted() as counted:
            if what == "one loss":
                found = sweep.backward(cell, tape, g[None])
            elif what == "T losses":
                found = kernels.losses(cell, tape, g, enters=torch.arange(1, T + 1), adjoints=True)
            else:
                found = kernels.losses(cell, tape, torch.stack([g, 2 * g]), deltas=True)
    return found, counted.launches


def of_a_step(cell, what):
    """Return what one step more costs, over as many as it takes to ask which losses are 0."""
    few, many = (swept(cell, T, what)[1] for T in (16, 32))
    each = {name: (many[name] - few[name]) / 16 for name in many}
    return sum(each.values()), each


@pytest.mark.parametrize(
    ("kind", "what", "most"),
    [
        ("RNN", "one loss", 8), ("GRU", "one loss", 8), ("LSTM", "one loss", 10),
        ("RNN", "T losses", 14), ("GRU", "T losses", 14), ("LSTM", "T losses", 16),
        ("RNN", "two losses", 14), ("GRU", "two losses", 14), ("LSTM", "two losses", 16),
    ],
)  # fmt: skip
def test_a_step_back_is_few_launches_and_no_wait(kind, what, most):
    cell = CELLS[kind](I, H)
    total, each = of_a_step(cell, what)
    assert total <= most, each
    # Once in 16 steps it is asked which losses are 0: the only wait.
    assert each.get("_local_scalar_dense", 0) <= 2 / 16


@pytest.mark.parametrize("what", ["one loss", "T losses", "two losses"])
@pytest.mark.parametrize("kind", CELLS)
def test_and_gives_what_the_steps_give_one_by_one(kind, what, monkeypatch):
    cell = CELLS[kind](I, H, dtype=F64)
    got = swept(cell, 20, what)[0]
    monkeypatch.setattr(type(cell), "swept", AbstractCell.swept)
    want = swept(cell, 20, what)[0]
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert term_error(a, b) < 1e-11


class Own(GRU):
    """A cell whose step back is another."""

    def vjp(self, saved, delta):
        delta, adjoint = super().vjp(saved, delta)
        return 2 * delta, adjoint


@pytest.mark.parametrize(
    "cell", [Own(I, H), LSTM(I, H, proj_size=2), LayerNormLSTM(I, H), Elman(I, H, "relu")]
)
def test_a_step_back_that_is_another_is_taken_as_it_is(cell, monkeypatch):
    cell, T = cell.double(), 5
    g = torch.randn(1, T, B, cell.hidden_size, dtype=F64)
    with torch.no_grad():
        tape = sweep.forward(cell, torch.ones(T, B, I, dtype=F64), g.new_zeros(B, cell.state_size))
        got = sweep.backward(cell, tape, g)
        monkeypatch.setattr(type(cell), "swept", AbstractCell.swept)
        assert all(map(torch.equal, got, sweep.backward(cell, tape, g)))


# --- On a GPU, with the kernel of a step back --------------------------------------------------


class Kernel:
    """Stands in for the kernel: a launch is counted, and nothing is computed."""

    def __init__(self) -> None:
        self.launches = 0

    def __getitem__(self, grid):
        def launch(*_, **__):
            self.launches += 1

        return launch


def fused_step(cell, enters, monkeypatch):
    """Return what one step more costs, with the kernel: operations, its launches, and waits."""
    each = []
    for T in (16, 32):
        kernel = Kernel()
        monkeypatch.setattr(two_launches, "step_back", kernel)
        x = torch.zeros(T, B, I)
        tape = sweep.forward(cell, x, x.new_zeros(B, cell.state_size))
        with Counted() as counted:
            g = torch.ones(T, B, H)
            if enters:
                FUSED.losses(cell, tape, g, enters=torch.arange(1, T + 1), adjoints=True)
            else:
                FUSED.losses(cell, tape, torch.stack([g, g]), deltas=True, adjoints=True)
        waits = counted.launches["_local_scalar_dense"]
        each.append((counted.launches.total(), kernel.launches, waits))
    return [(many - few) / 16 for few, many in zip(*each, strict=True)]


@pytest.mark.parametrize("enters", [True, False], ids=["T losses", "two losses"])
@pytest.mark.parametrize(
    "kind", [Elman, GRU, LSTM, Leaky, PeepholeLSTM, RefineLSTM], ids=lambda k: k.__name__
)
def test_with_the_kernel_a_step_back_is_two_launches(kind, enters, monkeypatch):
    monkeypatch.setattr(fused, "_no_kernel", lambda device: "")
    cell = kind(I, H).requires_grad_(False)
    products, kernels_, waits = fused_step(cell, enters, monkeypatch)
    assert (products, kernels_, waits) == (1, 1, 0)
