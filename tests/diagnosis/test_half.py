"""What half precision holds of a gradient, and the loss scale that makes it fit (eq. 10)."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import torch_state
from throughtime.diagnosis import half_range
from throughtime.diagnosis.findings.half import _gone, _made_zero, _remedy, half_underflow
from throughtime.diagnosis.half_precision import range_of
from throughtime.diagnosis.look import Look
from throughtime.kernels.cpu.engine import NATIVE

T, B, I, H = 12, 16, 4, 24
F16, BF16 = torch.float16, torch.bfloat16
TINY = 2.0**-24  # float16's smallest number


class Model(nn.Module):
    """A layer and a readout of every step, or of some units of it, with dropout or without."""

    def __init__(self, layer: nn.Module, *, units: int = H, p: float = 0.0) -> None:
        super().__init__()
        self.rnn, self.units, self.dropout = layer, units, nn.Dropout(p)
        self.out = nn.Linear(units, 3)

    def forward(self, x):
        return self.out(self.dropout(self.rnn(x)[0][..., : self.units]))


def batch():
    torch.manual_seed(1)
    x = torch.randn(T, B, I)
    return x, torch.stack((x.sum(2), x[..., 0], x[..., 1]), 2).cumsum(0).tanh()


def flow_of(model, *, weight=1.0, autocast=None):
    x, y = batch()
    enabled = autocast is not None
    with tt.trace(model) as trace:
        dtype = next(model.parameters()).dtype
        with torch.autocast("cpu", dtype=autocast or BF16, enabled=enabled):
            loss = weight * nn.functional.mse_loss(model(x.to(dtype)).float(), y)
    return trace.flow(loss)


def make(layer, **options):
    torch.manual_seed(0)
    return Model(layer(I, H), **options)


def found(flow):
    return next((f for f in tt.examine(flow) if f.code == "half-underflow"), None)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_the_shares_are_those_of_casting_each_term(dtype):
    """The terms by hand: what enters, dE/ds_t and dE/da_t, each cast."""
    flow = flow_of(make(tt.GRU), weight=3e-5)
    layer = flow["rnn.l0"]
    terms = [layer.entering, layer.adjoint()[1:], layer.preact_adjoints]
    sizes = torch.cat([t.flatten() for t in terms]).abs()
    sizes = sizes[sizes > 0]
    got = half_range(flow, dtype)["rnn.l0"]
    assert got.terms == len(sizes)
    assert got.zero == pytest.approx(float((sizes.to(dtype) == 0).double().mean()))
    assert got.coarse == pytest.approx(
        float((sizes < torch.finfo(dtype).smallest_normal).double().mean())
    )
    weights = [layer.weight_grad(name).abs().max() for name in layer.weight_names]
    assert got.largest == pytest.approx(float(max(*weights, sizes.max())))
    if dtype is F16:
        assert 0.05 < got.zero < 1 and got.coarse == 1
    else:  # bfloat16 has float32's range
        assert got.zero == got.coarse == 0 and got.scale == 1


@pytest.mark.parametrize("weight", [1e-2, 1e-5, 1e-9, 1e-20])
def test_the_scale_is_the_smallest_power_of_two_that_holds_nearly_all(weight):
    got = half_range(flow_of(make(tt.LSTM), weight=weight))["rnn.l0"]
    assert got.fits and math.log2(got.scale) % 1 == 0
    assert got.largest * got.scale < 65504 and got.left <= 1e-3
    scaled = half_range(flow_of(make(tt.LSTM), weight=weight * got.scale))["rnn.l0"]
    assert scaled.zero == pytest.approx(got.left, abs=2e-4) and scaled.scale == 1
    if got.scale > 1:
        half = half_range(flow_of(make(tt.LSTM), weight=weight * got.scale / 2))["rnn.l0"]
        assert half.scale == 2


def test_where_no_scale_holds_all_it_is_the_largest_that_overflows_nothing():
    """A sigmoid cell's gradient spans more than float16's 40 binary orders."""
    torch.manual_seed(0)
    rnn = tt.RNN(I, H, nonlinearity="sigmoid")
    with tt.trace(rnn) as trace:
        loss = rnn(torch.randn(60, 2, I))[0][-1].pow(2).mean()
    got = half_range(trace.flow(loss))["l0"]
    assert not got.fits and got.left > 0.1
    assert got.largest * got.scale < 65504 <= 2 * got.largest * got.scale


@pytest.mark.parametrize("layer", [tt.GRU, nn.RNN, nn.GRU])
def test_under_autocast_it_is_a_warning_and_without_it_is_none(layer):
    assert found(flow_of(make(layer), autocast=F16)) is None
    assert found(flow_of(make(layer), weight=1e-4)) is None
    assert found(flow_of(make(layer), weight=1e-4, autocast=BF16)) is None
    finding = found(flow_of(make(layer), weight=2e-5, autocast=F16))
    assert finding is not None and finding.severity == "warning" and finding.layer == "rnn.l0"
    assert finding.evidence[0].value > 0.5 and finding.evidence[0].decides
    assert "Scale the loss by 2^" in finding.remedy and "below 65504" in finding.remedy
    look = Look(flow_of(make(layer), weight=2e-5, autocast=F16))
    assert [f.severity for f in half_underflow(look, warn=1.1)] == ["note"]
    assert not list(half_underflow(look, note=1.1))


@pytest.mark.parametrize("layer", [tt.GRU, nn.RNN])
def test_zeros_of_dropout_and_of_unread_units_are_none_of_it(layer):
    for options in ({"units": 8}, {"p": 0.7}):
        assert found(flow_of(make(layer, **options), autocast=F16)) is None


def test_half_weights_are_judged_by_what_float64_would_hold():
    model = make(tt.RNN).half()
    flow = flow_of(model, weight=2e-4)
    finding = found(flow)
    assert (
        finding is not None and finding.fix == "dtype" and "divide the gradients" in finding.remedy
    )
    exact = half_range(flow_of(make(tt.RNN).half().float(), weight=2e-4))["rnn.l0"].zero
    assert finding.evidence[0].value == pytest.approx(exact, abs=0.1)
    assert found(flow_of(make(tt.RNN).half())) is None


def test_a_gradient_that_is_gone_before_the_layer_is_the_cause_of_no_gradient():
    first, second = tt.examine(flow_of(make(tt.GRU), weight=1e-7, autocast=F16))
    assert (first.code, second.code) == ("half-underflow", "no-gradient")
    assert second.follows == "half-underflow" and "GradScaler" in first.remedy


def test_a_cell_in_a_loop_is_told_the_same():
    """What comes before its first step is not known, which is no gradient."""
    torch.manual_seed(0)
    cell, read = nn.GRUCell(I, H), nn.Linear(H, 1)
    with tt.trace(nn.ModuleList([cell, read])) as trace, torch.autocast("cpu", dtype=F16):
        state, said = None, []
        for x_t in batch()[0]:
            state = cell(x_t, state)
            said.append(read(state))
        loss = 1e-12 * torch.stack(said).float().pow(2).mean()
    codes = [finding.code for finding in tt.examine(trace.flow(loss))]
    assert codes == ["half-underflow", "no-gradient"]


def test_a_loop_whose_first_step_breaks_is_not_blamed_on_a_carried_state():
    """Under autocast the loop does not show what its first step began with."""
    torch.manual_seed(0)
    cell = nn.GRUCell(I, H)
    with torch.no_grad():
        cell.weight_ih.mul_(1e8)  # inf in float16
        cell.weight_hh.mul_(1e8)
    with tt.trace(cell) as trace, torch.autocast("cpu", dtype=F16):
        state = None
        for x_t in batch()[0]:
            state = cell(x_t, state)
        loss = state.float().sum()  # pyright: ignore
    codes = [finding.code for finding in tt.examine(trace.flow(loss))]
    assert codes[0] == "state-overflow" and "initial-state-nonfinite" not in codes


def test_an_unread_layer_under_autocast_is_not_blamed_on_it():
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.unread = tt.GRU(I, H), tt.GRU(I, H)

        def forward(self, x):
            return self.read(x)[0] + self.unread(x)[0].detach()

    model = Unread()
    with tt.trace(model) as trace, torch.autocast("cpu", dtype=F16):
        loss = model(batch()[0]).pow(2).mean()
    codes = [f.code for f in tt.examine(trace.flow(loss))]
    assert "no-gradient" in codes and "half-underflow" not in codes


@pytest.mark.parametrize("layer", [tt.GRU, nn.RNN])
def test_following_it_training_that_stood_still_learns(layer):
    """The same model, seed and updates; only the loss scale that the finding names is new."""
    weight = 2e-6  # of one loss among others, or a mean over very many outputs

    def train(scale):
        model, (x, y) = make(layer), batch()
        optimizer = torch.optim.Adam(model.rnn.parameters(), lr=1e-2, eps=1e-20)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=F16):
                loss = weight * nn.functional.mse_loss(model(x).float(), y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        return losses[-1] / losses[0]

    flow = flow_of(make(layer), weight=weight, autocast=F16)
    finding = found(flow)
    scale = next((e.value for e in finding.evidence if "scale that holds" in e.quantity), 2.0**16)
    assert train(1) > 0.97
    assert train(scale) < 0.7
    again = flow_of(make(layer), weight=weight * scale, autocast=F16)
    assert found(again) is None
    if layer is nn.RNN:  # which computes in float16 itself
        assert half_range(again)["rnn.l0"].zero < 1e-2


def test_bad_input_says_so():
    with pytest.raises(tt.errors.InputTypeError, match="got list"):
        half_range([])
    with pytest.raises(tt.errors.DtypeError, match=r"got torch\.float32"):
        half_range(flow_of(make(tt.GRU)), torch.float32)


@pytest.mark.parametrize("layer", [tt.GRU, tt.LSTM])
def test_on_a_gpu_what_autocast_does_outside_the_trace_counts(layer, monkeypatch):
    """A trace keeps the weights' precision; training there runs torch's own module in float16."""
    on_cpu = flow_of(make(layer), weight=1e-4, autocast=F16)
    assert on_cpu.facts.wide == {"rnn.l0"}
    monkeypatch.setattr(torch_state, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(NATIVE, "obstacle", lambda cell, demand: "it is for CPUs.")
    flow = flow_of(make(layer), weight=1e-4, autocast=F16)
    assert not flow.facts.wide and flow["rnn.l0"].tape.s.dtype == torch.float32
    with torch.autocast("cpu", dtype=F16):
        assert make(layer).rnn(batch()[0])[0].dtype == F16
    look = Look(flow)
    (finding,) = half_underflow(look, note=0)
    (seen,) = look.seen
    beside, within = (range_of(seen, F16, inside=i, lost=_made_zero(seen)).zero for i in (0, 1))
    assert finding.evidence[0].value == within != beside
    # What has no module of torch's keeps its precision there too.
    own = flow_of(make(lambda *of: tt.RNN(*of, nonlinearity="sigmoid")), autocast=F16)
    assert own.facts.wide == {"rnn.l0"}


def test_the_remedy_names_the_device():
    held = next(iter(half_range(flow_of(make(nn.GRU), weight=2e-5), F16).values()))
    for kind in ("cuda", "cpu"):
        seen = SimpleNamespace(device=torch.device(kind), name="l0", called="l0")
        assert f'GradScaler("{kind}", init_scale=' in _remedy(seen, held, own=False)
        assert f'GradScaler("{kind}")' in _gone(seen).remedy
