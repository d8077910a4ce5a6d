"""`rtrl` on a GPU, without one: its steps are recorded and replayed, and the numbers stay."""

from __future__ import annotations

import pytest
import torch
from tests.oracles.on_gpu import F64, B, I, Own, T, gpu, problem, same, with_a_function

import throughtime as tt
from throughtime.cells import GRU
from throughtime.replays import graphs
from throughtime.replays.cuda import CUDA

__all__ = ["gpu"]
CELLS = {
    "gru": lambda: GRU(2, 3, dtype=F64),
    "own": Own,
    "Function": lambda: with_a_function(T)[0],
}


def carried(cell, change=lambda t: None):
    """Return a run of rtrl, and all gradients that it gave."""
    (x, s_0, _, reset), g, _ = problem(cell)

    def loss(t, h):
        change(t)
        return (g[0, t - 1] * h).sum()

    run = tt.rtrl(cell, x, loss, s_0, lengths=[T, 4], reset=reset)
    grads = [step.grads[n].flatten() for step in run for n in step.grads]
    return run, [*grads, run.total_s_0]


@pytest.mark.parametrize("kind", CELLS)
def test_a_step_of_rtrl_is_replayed(kind, gpu, monkeypatch):
    cell = CELLS[kind]()
    run, found = carried(cell)
    assert run.unrecorded == "" and gpu.replayed == T - 2
    monkeypatch.setattr(graphs, "RECORDER", [CUDA])
    run, want = carried(cell)
    assert "this is cpu" in run.unrecorded
    same(found, want, 1e-11)


def test_a_cell_that_changes_between_two_steps_is_seen_anew(gpu, monkeypatch):
    """A loss runs between the steps, and whoever has it may change a weight or an attribute."""
    both = []
    for recorder in (gpu, CUDA):
        monkeypatch.setattr(graphs, "RECORDER", [recorder])
        torch.manual_seed(3)
        cell = Own()

        def change(t, cell=cell):
            if t == 4:
                cell.gain = 0.5
            if t == 6:
                cell.W.data = cell.W.detach() * 2
            cell.U.detach().mul_(0.9)

        both.append(carried(cell, change)[1])
    assert gpu.replayed > 0
    same(*both, 1e-11)


class Mixes(Own):
    """Rows depend on each other where there is an input."""

    def step(self, a_t, s_prev):
        return super().step(a_t, s_prev - (s_prev * (a_t != 0)).mean(0))


@pytest.mark.parametrize("steps", [5, 40])
def test_a_replayed_rtrl_refuses_rows_that_depend_on_each_other(steps, gpu):
    x = torch.zeros(steps, B, I, dtype=F64)
    x[3] = 1.0
    with pytest.raises(tt.errors.UnsupportedError, match="row by row"):
        for step in tt.rtrl(Mixes(), x, lambda t, h: h.sum()):
            assert step.t < 16


def test_rtrl_of_a_step_that_draws_runs_as_ever(gpu):
    class Draws(Own):
        def step(self, a_t, s_prev):
            return super().step(a_t + 0 * torch.rand(3, dtype=F64), s_prev)

    run = tt.rtrl(Draws(), torch.randn(T, B, I, dtype=F64), lambda t, h: h.sum())
    assert len(list(run)) == T and "random" in run.unrecorded and gpu.recorded == 0
