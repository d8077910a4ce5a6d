"""What `check_cell` tells the author of a broken cell: which derivative, where, and what it is."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from oracles.mutants import edited
from throughtime.cells import (
    GRU,
    LSTM,
    Elman,
    LayerNormLSTM,
    Leaky,
    MinGRU,
    PeepholeLSTM,
    RefineLSTM,
)
from throughtime.cells.base import AbstractCell, GatedWeights
from throughtime.errors import CheckError
from throughtime.testing import assert_close, check_cell

from .loops import F64


class TransposedW(Elman):
    def vjp(self, saved, delta):
        adjoint = super().vjp(saved, delta)[1]
        return adjoint @ self.weight_hh.T, adjoint


class MissingFactor(Leaky):
    def vjp(self, saved, delta):
        adjoint = delta * (1 - saved[0] * saved[0])
        return (1 - self.alpha) * delta + adjoint @ self.weight_hh, adjoint


class GatesInAnotherOrder(LSTM):
    def vjp(self, saved, delta):
        delta_prev, adjoint = super().vjp(saved, delta)
        i, f, g, o = adjoint.chunk(4, -1)
        return delta_prev, torch.cat((i, g, f, o), -1)


class OneGateWrong(PeepholeLSTM):
    def vjp(self, saved, delta):
        delta_prev, adjoint = super().vjp(saved, delta)
        i, f, g, o = adjoint.chunk(4, -1)
        return delta_prev, torch.cat((i, f.sin(), g, o), -1)


class OneWeightWrong(GRU):
    def param_grads(self, tape, adjoints):
        return GatedWeights.param_grads(self, tape, adjoints)


class WrongInputGrad(Elman):
    def input_grad(self, adjoints):
        return adjoints @ self.weight_ih / 2


class OneLossInputGrad(Elman):
    def input_grad(self, adjoints):
        return torch.einsum("tba,ai->tbi", adjoints, self.weight_ih)


class OtherSign(MinGRU):
    def vjp(self, saved, delta):
        delta_prev, adjoint = super().vjp(saved, delta)
        return -delta_prev, adjoint


class NothingGoesBack(Leaky):
    def vjp(self, saved, delta):
        return torch.zeros_like(delta), super().vjp(saved, delta)[1]


class StateTooNarrow(LSTM):
    def vjp(self, saved, delta):
        delta_prev, adjoint = super().vjp(saved, delta)
        return delta_prev[..., : self.hidden_size], adjoint


class AdjointTooNarrow(LSTM):
    def vjp(self, saved, delta):
        delta_prev, adjoint = super().vjp(saved, delta)
        return delta_prev, adjoint[..., :3]


class TransposedWeightGrad(GRU):
    def param_grads(self, tape, adjoints):
        grads = super().param_grads(tape, adjoints)
        return {**grads, "weight_ih": grads["weight_ih"].T}


class WeightForgotten(Elman):
    def param_grads(self, tape, adjoints):
        grads = super().param_grads(tape, adjoints)
        return {"weight_hh": grads["weight_hh"]}


class ShapesThatDoNotMeet(LSTM):
    def vjp(self, saved, delta):
        return delta @ self.weight_hh.T, delta


class WritesIntoItsInput(Elman):
    def step(self, a_t, s_prev):
        a_t += s_prev @ self.weight_hh.T
        return a_t.tanh(), (a_t.tanh(),)


class WritesIntoDelta(Elman):
    def vjp(self, saved, delta):
        delta *= 1 - saved[0] ** 2
        return delta @ self.weight_hh, delta


class BatchNorm(Elman):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.norm = nn.BatchNorm1d(sizes[1], affine=False)

    def step(self, a_t, s_prev):
        h = self.norm(a_t + s_prev @ self.weight_hh.T).tanh()
        return h, (h,)


class Dropout(Elman):
    def step(self, a_t, s_prev):
        h = nn.functional.dropout(super().step(a_t, s_prev)[0])
        return h, (h,)


class Detached(Elman):
    def step(self, a_t, s_prev):
        h, saved = super().step(a_t, s_prev)
        return h.detach(), saved


class StateAlone(Elman):
    def step(self, a_t, s_prev):
        return super().step(a_t, s_prev)[0]


class SavesANumber(Elman):
    def step(self, a_t, s_prev):
        h, saved = super().step(a_t, s_prev)
        return h, (*saved, self.hidden_size)


class AnotherDtype(Elman):
    def step(self, a_t, s_prev):
        h, saved = super().step(a_t, s_prev)
        return h.float(), saved


class MixesSteps(Elman):
    def drive(self, x):
        return super().drive(x.cumsum(0))


class SkipsTheFirstStep(Elman):
    def param_grads(self, tape, adjoints):
        # Right over all steps only where the first one gives nothing.
        grads = super().param_grads(tape, adjoints)
        return grads if tape.T > 1 else {name: 0 * grad for name, grad in grads.items()}


class TransposedJacobian(GRU):
    def jacobian(self, saved):
        return super().jacobian(saved).mT


CAPTURED = torch.randn(5, 5, dtype=F64, requires_grad=True)


class CapturesAWeight(Elman):
    def step(self, a_t, s_prev):
        h = (a_t + s_prev @ self.weight_hh.T + s_prev @ CAPTURED).tanh()
        return h, (h,)


class CapturesFloat32(Elman):
    def step(self, a_t, s_prev):
        h = (a_t + s_prev @ CAPTURED.detach().float()).tanh()
        return h, (h,)


class NaNOfFinite(Elman):
    def step(self, a_t, s_prev):
        h = (super().step(a_t, s_prev)[0] - 2).log()
        return h, (h,)


class WithoutSizes(AbstractCell):
    drive = step = vjp = param_grads = input_grad = None

    def __init__(self, *sizes):
        nn.Module.__init__(self)
        self.input_size, self.hidden_size = sizes


class IgnoresResets(Elman):
    def param_grads(self, tape, adjoints):
        before = tape.s[:-1].flatten(0, 1)
        return {
            **super().param_grads(tape, adjoints),
            "weight_hh": adjoints.flatten(0, 1).T @ before,
        }


class BiasForgotten(Elman):
    def drive(self, x):
        return x @ self.weight_ih.T


class WrongAffine(MinGRU):
    def affine(self, a):
        return super().affine(a)[::-1]


class AffineOfOneStep(MinGRU):
    def affine(self, a):
        return tuple(part[0] for part in super().affine(a))


BROKEN = {
    CapturesAWeight: r"step uses a tensor that requires grad and is not in weights\(\)",
    CapturesFloat32: r"step raises RuntimeError .*A copy in float64 is checked",
    NaNOfFinite: r"step gives nan at entry \[0, 0\] \(row, state\)",
    WithoutSizes: r" has no state_size, preact_size; set input_size,",
    IgnoresResets: r"dE/d\(weight_hh\).* Without resets .* it is right: .* tape\.s_prev\(\)",
    BiasForgotten: r"dE/d\(bias_ih\) must be 0 everywhere, since neither drive nor step",
    WrongAffine: r"affine: d ⊙ s_prev \+ u beside step: off by .* at entry \[",
    AffineOfOneStep: r"affine: d must be a tensor \(6, 3, 5\); got a tensor \(3, 5\)",
    TransposedW: r"vjp: J_tᵀ delta \(row, state\), dE/da_t being right: off by .* at entry \[",
    MissingFactor: r"vjp: adjoint dE/da_t .*Everywhere it is 5 times what it should be",
    GatesInAnotherOrder: r"vjp: adjoint dE/da_t .*stand at other places: is the order",
    OneGateWrong: r"adjoint dE/da_t \(row, pre-activation\).* 5 to 9 of axis 1 \(0 to 19\)",
    OneWeightWrong: r"param_grads: dE/d\(weight_hh\): .* 10 to 14 of axis 0 \(0 to 14\)",
    WrongInputGrad: r"input_grad \(step, row, input\): .*it is 0\.5 times",
    OneLossInputGrad: r"input_grad raises RuntimeError for \(1, 6, 3, 5\)",
    OtherSign: r"J_tᵀ delta .*Everywhere it is -1 times",
    NothingGoesBack: r"J_tᵀ delta .*Every entry is 0",
    StateTooNarrow: r"delta_prev must be a tensor \(4, 3, 10\); got a tensor \(4, 3, 5\)",
    AdjointTooNarrow: r"the adjoint has shape \(4, 3, 3\), should be \(4, 3, 20\) or wider",
    TransposedWeightGrad: r"dE/d\(weight_ih\): shape \(3, 15\), should be \(15, 3\)",
    WeightForgotten: r"param_grads gives \['weight_hh'\], should give \['bias_hh', 'bias_ih'",
    ShapesThatDoNotMeet: r"vjp raises RuntimeError for \(4, 3, 10\): mat1 and mat2",
    WritesIntoItsInput: r"step writes into its arguments",
    WritesIntoDelta: r"vjp writes into saved or delta",
    BatchNorm: r"step: row 0 beside other rows \(rows must be independent: no batch norm\)",
    Dropout: r"step gives another state when called again with the same \(is it random\?\)",
    Detached: r"s_t is cut off from a_t and s_prev",
    StateAlone: r"step must return s_t and a tuple of tensors; got a tensor \(3, 5\)",
    SavesANumber: r"saved\[1\] must be a tensor \(3, ·\).*got int",
    AnotherDtype: r"s_t must keep the dtype float64 .*got torch\.float32",
    MixesSteps: r"drive of one step alone \(it mixes steps\)",
    SkipsTheFirstStep: r"dE/d\(weight_ih\), steps taken one by one and summed",
    TransposedJacobian: r"jacobian .*It is the transpose of what it should be",
}


@pytest.mark.parametrize("cell", BROKEN, ids=lambda cell: cell.__name__)
def test_the_author_of_a_broken_cell_is_told_what_is_wrong_and_where(cell):
    with pytest.raises(CheckError, match=f"^{cell.__name__}.*{BROKEN[cell]}"):
        check_cell(cell(3, 5))


def test_frozen_weights_are_checked_like_others():
    cell = Leaky(3, 5).requires_grad_(False)
    check_cell(cell)
    assert not any(p.requires_grad for p in cell.parameters())


def test_a_pattern_is_named_only_where_there_is_one():
    want = torch.arange(1.0, 7).view(2, 3)
    with pytest.raises(CheckError, match=r"should be 6\.$"):
        assert_close(want + torch.tensor([[1.0, 0, 0.3], [0, 0.2, 3]]), want)
    with pytest.raises(CheckError, match=r"should be 0\.$"):
        assert_close(want, torch.zeros(2, 3))
    with pytest.raises(CheckError, match=r"lies in 2 to 2 of axis 1 \(0 to 2\)\.$"):
        assert_close(want + torch.tensor([0, 0, 1.0]), want)


# --- the added cells' own mutants: one changed piece of source each --------------------------

MUTANTS = [
    (Leaky, "vjp", "self.alpha * NONLINEARITIES", "NONLINEARITIES"),
    (Leaky, "vjp", "(1 - self.alpha) * delta", "delta"),
    (Leaky, "step", "(1 - self.alpha) * s_prev", "s_prev"),
    (MinGRU, "vjp", "n - h_prev", "n"),
    (MinGRU, "vjp", "delta * (1 - z)", "delta * z"),
    (MinGRU, "param_grads", "flat.sum(0)", "flat[1:].sum(0)"),
    (PeepholeLSTM, "vjp", " + alpha_o * p_o", ""),
    (PeepholeLSTM, "vjp", " + alpha_i * p_i", ""),
    (PeepholeLSTM, "vjp", "c_prev * f * (1 - f)", "s[:, H:] * f * (1 - f)"),
    (PeepholeLSTM, "param_grads", "alpha_o * c)", "alpha_o * c_prev)"),
    (LayerNormLSTM, "vjp", "_back(alpha * self.gain_hh, w_hat, rho_w)", "alpha"),
    (LayerNormLSTM, "vjp", "_back(mu * self.gain_c, c_hat, rho_c)", "mu"),
    (LayerNormLSTM, "vjp", "alpha * self.gain_ih", "alpha"),
    (LayerNormLSTM, "param_grads", "rho[..., 1:2]", "rho[..., :1]"),
    (LayerNormLSTM, "param_grads", "alpha * w_hat", "alpha * u_hat"),
    (RefineLSTM, "vjp", "slope * r * (1 - r)", "slope * f * (1 - r)"),
    (RefineLSTM, "vjp", "r + (1 - 2 * r) * f", "r + (1 - r) * f"),
    (RefineLSTM, "vjp", "s_prev[:, H:] - n", "s_prev[:, H:]"),
    (RefineLSTM, "vjp", "delta_c * g)", "delta_c * f)"),
    (RefineLSTM, "vjp", "(1 - g) * (1 - n * n)", "r * (1 - n * n)"),
    (RefineLSTM, "factors", "slope * r * (1 - r)", "slope * f * (1 - r)"),
    (PeepholeLSTM, "factors", " + of_o * p_o", ""),
    (MinGRU, "factors", "None, 1 - z", "None, z"),
    (GRU, "factors", "hidden=r", "hidden=None"),
    (LSTM, "factors", "f, through_m", "through_m, f"),
    (Leaky, "factors", "1 - self.alpha", "self.alpha"),
]


@pytest.mark.parametrize(
    ("cell", "method", "old", "new"), MUTANTS, ids=lambda value: getattr(value, "__name__", value)
)
def test_check_cell_notices_every_mutant_of_the_added_cells(monkeypatch, cell, method, old, new):
    instance = cell(3, 5, dtype=F64)
    with torch.no_grad():
        for weight in instance.weights().values():
            weight += 0.3 * torch.randn_like(weight)
    monkeypatch.setattr(cell, method, edited(getattr(cell, method), old, new))
    with pytest.raises(CheckError, match=cell.__name__):
        check_cell(instance)
