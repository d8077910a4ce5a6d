"""One line changed in what runs on a GPU must be noticed by the tests of it."""

from __future__ import annotations

import pytest
import torch
from tests.oracles.mutants import changed
from tests.oracles.on_gpu import F64, Own, by_reference, gpu, needs_triton, problem, same

from throughtime import sweep
from throughtime.cells import GRU, LSTM, Elman
from throughtime.kernels.gpu import replayed_steps, replayed_sweeps, two_launches
from throughtime.kernels.gpu.fused import FUSED
from throughtime.replays import graphs, seen, steps

from .test_fused import kernel

__all__ = ["gpu", "kernel"]

KERNEL = [
    ("h = tl.where(took & stays, h + sum_, h)", "h = tl.where(took, h + sum_, h)", GRU),
    ("enters_here = now == last", "enters_here = now <= last", LSTM),
    ("if t >= floor:", "if t >= 0:", Elman),
]
MORE = [
    ("alpha = alpha * side.to(kind)", "pass", GRU),
    ("h = tl.where(took & stays, h + sum_, h)", "h = h + sum_", GRU),
    ("source = h  # of two parts", "source = d  #", LSTM),
    ("value = tl.where(takes, alpha, 0.0)", "value = alpha", GRU),
    ("past_c = tl.where(takes, tl.where(keeps, past, 0.0), c)", "past_c = past", LSTM),
    ("tl.where(keeps, past_h, 0.0), h)", "past_h, h)", GRU),
    ("// rows + begin", "// rows", GRU),
]
KERNEL += [pytest.param(*mutant, marks=pytest.mark.slow) for mutant in MORE]


@needs_triton
@pytest.mark.parametrize(("old", "new", "kind"), KERNEL, ids=lambda part: str(part)[:24])
def test_a_mutant_of_the_kernel_is_noticed(old, new, kind, kernel, tmp_path, monkeypatch):
    module = two_launches.step_back.kernel.fn.__module__
    kernel.kernel = changed(module, old, new, tmp_path).step_back
    cell = kind(2, 3).double()
    given, g, _ = problem(cell, 4, steps=4)
    active = torch.arange(4)[:, None] < torch.tensor([4, 2])
    reset = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0]], dtype=torch.bool)
    with torch.no_grad():
        tape = sweep.forward(cell, *given[:2], active, reset)
        wanted = {"enters": torch.tensor([2, 3, 4]), "floors": torch.tensor([0, 3, 1]),
                  "deltas": True, "adjoints": True}  # fmt: skip
        found = FUSED.losses(cell, tape, g[0], **wanted)
        with pytest.raises(AssertionError):
            same(found, by_reference("losses", cell, tape, g[0], **wanted))


def three_sweeps(cell, changes=lambda cell, seed: None) -> None:
    """Take three sweeps of a shape, with other numbers each time, as `test_fused` does."""
    for seed in range(3):
        changes(cell, seed)
        given = problem(cell, seed)[0]
        same((FUSED.forward(cell, *given).s,), (by_reference("forward", cell, *given).s,))


def doubled(cell, seed):
    with torch.no_grad():
        cell.weight_hh.mul_(1.5)


def test_recordings_that_are_right_pass(gpu):
    three_sweeps(GRU(2, 3, dtype=F64), doubled)
    three_sweeps(Own(), lambda cell, seed: setattr(cell, "gain", 0.5 + seed))


def nothing_is_copied(monkeypatch):
    monkeypatch.setattr(graphs, "copy_all", lambda to, given: None)
    monkeypatch.setattr(steps, "copy_all", lambda to, given: None)


def weights_are_left_where_they_were(monkeypatch):
    monkeypatch.setattr(replayed_sweeps, "rebind", lambda cell, weights: GRU(2, 3, dtype=F64))


def every_form_is_one(monkeypatch):
    monkeypatch.setattr(seen.StepObserver, "form", lambda self, out: "the same")
    monkeypatch.setattr(steps, "_attributes", lambda owner: "the same")


def kinds_are_not_asked(monkeypatch):
    monkeypatch.setattr(replayed_sweeps, "sweep_key", lambda cell: "any")


@pytest.mark.parametrize(
    ("seed_error", "cell", "changes"),
    [
        (nothing_is_copied, lambda: GRU(2, 3, dtype=F64), doubled),
        (nothing_is_copied, Own, lambda cell, seed: None),
        (weights_are_left_where_they_were, lambda: GRU(2, 3, dtype=F64), doubled),
        (every_form_is_one, Own, lambda cell, seed: setattr(cell, "gain", 0.5 + seed)),
        (kinds_are_not_asked, Own, lambda cell, seed: setattr(cell, "gain", 0.5 + seed)),
    ],
)
def test_a_mutant_of_the_recordings_is_noticed(seed_error, cell, changes, gpu, monkeypatch):
    seed_error(monkeypatch)
    with pytest.raises(AssertionError):
        three_sweeps(cell(), changes)


def test_a_step_that_looks_at_values_would_fail_a_capture(gpu, monkeypatch):
    """Without the question that is asked first, the recorder refuses, and it is said."""
    monkeypatch.setattr(seen.StepObserver, "_look", lambda self, func, args, kwargs: "")

    class Looks(Own):
        def step(self, a_t, s_prev):
            return super().step(a_t + float(s_prev.sum()), s_prev)

    cell = Looks()
    given = problem(cell)[0]
    stand_in = replayed_steps.Replaying(cell, given[0].device)
    sweep.forward(stand_in, *given)
    assert "not permitted when stream is capturing" in stand_in.reason
