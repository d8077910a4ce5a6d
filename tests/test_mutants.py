"""Seeded mutants: errors put into cells and sweeps, each of which the oracles must notice.

Each judge runs what the suite's own oracles run: it passes for the code as it is, and must fail for
every mutant that lists it.
"""

from __future__ import annotations

import math
import statistics
import sys

import pytest
import torch

import throughtime as tt
from oracles.by_hand import draw, gradient, layer, unrolled
from oracles.models import LENGTHS, B, I, T, per_step, resets
from oracles.mutants import MUTANTS, edited
from throughtime.cells import GRU, LSTM, Elman
from throughtime.errors import CheckError
from throughtime.testing import assert_close, check_cell

pytestmark = pytest.mark.usefixtures("reference")


def judged_gradients(kind: str) -> None:
    """Compare a ragged layer's gradients with the unrolled loop's."""
    module = layer(kind, I, 4)
    x = draw(T, B, I).requires_grad_()
    reset = resets() & (torch.arange(T)[:, None] < torch.tensor(LENGTHS))
    of = [x, *module.parameters()]
    output, final = module(x, lengths=LENGTHS, reset=reset)
    final = torch.cat(final, -1) if kind == "lstm" else final
    got = gradient(per_step(output).sum() + final.pow(2).sum(), of)
    output, runs = unrolled(module, x, None, LENGTHS, reset)
    want = gradient(per_step(output).sum() + runs["l0"].states[-1].pow(2).sum(), of)
    for a, b in zip(got, want, strict=True):
        assert_close(a, b)


def judged_flow(kind: str) -> None:
    """Compare a flow's norms, adjoints and terms with autograd's."""
    module = layer(kind, I, 4)
    reset = resets()
    x = draw(T, B, I)
    with tt.trace(module) as trace:
        losses = per_step(module(x, reset=reset)[0])
    one = trace.flow(losses)["l0"]
    output, runs = unrolled(module, x, None, None, reset)
    oracle, run = per_step(output), runs["l0"]
    for v in range(T):
        want = torch.stack(gradient(oracle[v], run.states))
        assert_close(one.norms[v], want.norm(dim=-1))
        assert_close(one.adjoint(v), want)
        for k, copies in enumerate(run.weights, 1):
            term = gradient(oracle[v], copies["weight_hh"])
            assert_close(one.weight_grad("weight_hh", loss=v, step=k), term)
    profile = one.lag_profile()
    relative = [one.norms[v, v, b] / one.norms[v, v + 1, b] for v in range(T) for b in range(B)]
    kept = [r for r, at in zip(relative, reset.flatten().tolist(), strict=True) if not at]
    middle = statistics.median(float(r) for r in kept)
    assert_close(profile[1], torch.tensor(middle, dtype=profile.dtype))


def judged_exponents(kind: str) -> None:
    """Compare the sum of the exponents with the mean log-determinant, and a product's factors."""
    module = layer(kind, I, 3)
    with tt.trace(module) as trace:
        losses = per_step(module(draw(T, B, I))[0])
    one = trace.flow(losses)["l0"]
    dets = torch.stack([torch.linalg.slogdet(one.jacobian(t))[1] for t in range(1, T + 1)])
    assert_close(one.lyapunov().sum(1), dets.mean(0))
    assert_close(one.jacobian_product(4, 2), one.jacobian(4) @ one.jacobian(3))


def judged_overflow(_: str) -> None:
    """Find the first inf of a gain of 2 at step 128."""
    module = tt.RNN(1, 1, nonlinearity="identity", bias=False)
    with torch.no_grad():
        module.weight_hh_l0.fill_(2)
    with tt.trace(module) as trace:
        losses = module(torch.zeros(140, 1, 1), torch.ones(1, 1, 1))[0].flatten()
    assert trace.flow(losses)["l0"].first_nonfinite == ("forward", 128, 0, 0, "inf")


JUDGES = {
    "gradients": judged_gradients,
    "flow": judged_flow,
    "exponents": judged_exponents,
    "overflow": judged_overflow,
    "check_cell": lambda kind: check_cell(
        {"tanh": Elman, "sigmoid": lambda i, h: Elman(i, h, "sigmoid"), "lstm": LSTM, "gru": GRU}[
            kind
        ](I, 4)
    ),
}


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "lstm", "gru"])
def test_the_code_as_it_is_passes_every_judge(kind, judge):
    JUDGES[judge](kind)


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.what) for mutant in MUTANTS])
def test_every_judge_notices_the_mutant(monkeypatch, mutant):
    original = getattr(mutant.owner, mutant.function)
    changed = edited(original, mutant.old, mutant.new)
    for holder in (mutant.owner, *(m for n, m in sys.modules.items() if "throughtime" in n)):
        if getattr(holder, mutant.function, None) is original:
            monkeypatch.setattr(holder, mutant.function, changed)
    for judge in mutant.judges.split():
        with pytest.raises((CheckError, AssertionError)):
            JUDGES[judge](mutant.kind)


def test_the_sigmoid_bound_of_1_in_place_of_a_quarter_is_noticed(monkeypatch):
    from throughtime.cells import elman

    wrong = elman.NONLINEARITIES["sigmoid"]._replace(sup=1.0)
    monkeypatch.setitem(elman.NONLINEARITIES, "sigmoid", wrong)
    module = layer("sigmoid", I, 4)
    with tt.trace(module) as trace:
        losses = per_step(module(draw(T, B, I))[0])
    bound = float(trace.flow(losses)["l0"].bound(2, 0)[0])
    true = (float(torch.linalg.matrix_norm(module.weight_hh_l0.detach(), 2)) / 4) ** 2
    assert not math.isclose(bound, true)
