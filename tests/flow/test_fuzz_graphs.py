"""A fuzz of random models and losses: every number of a flow beside loops of torch operations.

Layers, links that mix time, repeated runs, hooks, dtypes, lengths, resets, windows. The seeds are
fixed. `make studies` runs ten times as many (``benchmarks/fuzz_graphs.py``).
"""

from __future__ import annotations

import sys
from functools import cache

import pytest
import torch

from oracles.mutants import edited
from throughtime import kernels, sweep
from throughtime.cells import GRU, LSTM, Elman
from throughtime.flow import segments, windows
from throughtime.flow.cascade import Cascade
from throughtime.flow.direct import Direct
from throughtime.flow.layer_flow import LayerFlow

from .graph_checks import check
from .random_graphs import CELLS, KEEPING, OURS, RESIZING, TORCH, draw

SEEDS = 90


@pytest.mark.parametrize("seed", range(0, SEEDS, 3))
def test_a_flow_is_what_loops_by_hand_give(seed):
    report = check(seed)
    assert report.checks > 10
    assert not report.failures, "\n".join(report.failures)


@pytest.mark.parametrize("seed", range(SEEDS, SEEDS + 6))
def test_plain_torch_gives_the_same(seed):
    with kernels.use("reference"):
        report = check(seed)
    assert not report.failures, "\n".join(report.failures)


def test_a_case_is_that_of_its_seed_and_says_so():
    assert repr(draw(7)) == repr(draw(7)) != repr(draw(8))
    assert repr(draw(7)).startswith("Case(seed=7,")


def test_the_seeds_of_the_suite_draw_every_kind():
    cases = [draw(seed) for seed in range(SEEDS)]
    runs = [run for case in cases for run in case.runs]
    assert {plan.kind for case in cases for plan in case.layers} == {*TORCH, *OURS, *CELLS}
    assert {k.through for run in runs for k in run.links} == {*KEEPING, *RESIZING}
    assert {case.regime for case in cases} == {"default", "contracting", "orthogonal", "saturated"}
    assert {case.dtype for case in cases} == {torch.float32, torch.float64}
    assert {of for case in cases for of, _ in case.hooks} == {"signal", "final", "layer"}
    assert {type(run.state) for run in runs} == {int, str, type(None)}
    for value in (True, False):
        assert any(any(k.detach for k in run.links) is value for run in runs)
        assert any(run.reset is value and run.lengths for run in runs)
        assert any(run.packed is value and run.lengths for run in runs)
        assert any(run.residual is value and len(run.links) == 2 for run in runs)
        assert any(case.scalar is value and case.window for case in cases)
        assert any(case.scalar is value and case.every for case in cases)
        assert any((case.losses == "steps") is value for case in cases)
        repeated = [len({run.layer for run in case.runs}) < len(case.runs) for case in cases]
        assert value in repeated


def replace(monkeypatch, owner: object, name: str, old: str, new: str) -> None:
    """Change one piece of a function's source, wherever the function is known."""
    original = getattr(owner, name)
    changed = edited(original, old, new)
    for holder in (owner, *(m for n, m in sys.modules.items() if "throughtime" in n)):
        if getattr(holder, name, None) is original:
            monkeypatch.setattr(holder, name, changed)


def cut_everywhere(monkeypatch) -> None:
    """Leave a run at a window's end though its input may bring steps back that are measured."""
    monkeypatch.setattr(Cascade, "_cuttable", lambda self: [True] * len(self.links))


# Errors of one line, each with a seed whose case passes without it.
MUTANTS = {
    "the forget gate's term is dropped": (
        109, LSTM, "_factors", "s_prev[..., H:] * f * (1 - f),", "0 * f,",
    ),
    "z's way past the gates is dropped": (
        103, GRU, "_back", "delta, z), adjoint", "delta, 0 * z), adjoint",
    ),
    "W_h is transposed": (
        118, Elman, "vjp", "adjoint @ self.weight_hh", "adjoint @ self.weight_hh.T",
    ),
    "a term is that of another step": (
        106, LayerFlow, "weight_grad",
        "adjoint[step - 1 : step]", "adjoint[self.T - step : self.T - step + 1]",
    ),
    "a window leaves out one step more": (
        106, windows, "leave_out",
        "k < stands[:, None, :] - window", "k <= stands[:, None, :] - window",
    ),
    "later losses own a step too": (
        111, Direct, "of", "self.owner[None] == losses", "self.owner[None] >= losses",
    ),
    "a final state is read at the last step of all rows": (
        119, segments.CallSegment, "merge",
        "last_steps(tape) - 1", "tape.T - 1 + 0 * last_steps(tape)",
    ),
    "a window cuts everywhere": (231, cut_everywhere),
    "the tape is off by a step": (
        106, sweep, "adjoints", "back(t - below,", "back(max(t - below - 1, 1),",
    ),
}  # fmt: skip


@cache
def passes(seed: int) -> bool:
    """Check whether a case passes as the code is; more than one mutant shows in some."""
    return not check(seed).failures


@pytest.mark.parametrize("what", MUTANTS)
def test_the_fuzz_notices(monkeypatch, what):
    seed, *change = MUTANTS[what]
    with kernels.use("reference"):
        assert passes(seed)
        if len(change) == 1:
            change[0](monkeypatch)
        else:
            replace(monkeypatch, *change)
        assert check(seed).failures
