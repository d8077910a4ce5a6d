"""How runs hang on each other: windows, the step at which a loss stands, and users' hooks."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

import throughtime as tt
from oracles.unrolled import Unrolled, by_state
from throughtime.node import hooks
from throughtime.testing import assert_close

F64 = torch.float64
LINKS = {
    "the last state repeated": lambda h: h[-1:].expand_as(h),
    "flip": lambda h: h.flip(0),
    "mean": lambda h: h.mean(0, keepdim=True).expand_as(h),
    "shift": lambda h: torch.cat((torch.zeros_like(h[:1]), h[:-1])),
    "cumsum": lambda h: h.cumsum(0),
}


class Pair(nn.Module):
    """One recurrent module that feeds another."""

    def __init__(self, link, layers: int = 2, both: bool = False) -> None:
        super().__init__()
        self.enc = nn.LSTM(3, 8, dtype=F64)
        self.dec = nn.LSTM(8, 8, layers, bidirectional=both, dtype=F64)
        self.link = link

    def forward(self, x, run=lambda path, module, *args: module(*args)):
        h = run("enc", self.enc, x)[0]
        return run("dec", self.dec, self.link(h))[0].pow(2).sum((1, 2))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("window", [1, 3, 19])
@pytest.mark.parametrize("name", LINKS)
def test_what_a_window_gives_is_right_or_nan(name, window, both):
    model, x, by_hand = Pair(LINKS[name], both=both), torch.randn(20, 2, 3, dtype=F64), Unrolled()
    want = model(x, by_hand)
    with tt.trace(model) as trace:
        losses = model(x)
    flow = trace.flow(losses, window=window)
    for run in by_hand.runs:
        layer = flow[run.name]
        for v in (0, 9, 19):
            norms = by_state(run, want[v]).norm(dim=-1)
            measured = ~layer.norms[v].isnan()
            assert_close(layer.norms[v][measured], norms[measured], rtol=1e-10)
            k = torch.arange(21)[:, None]
            assert torch.equal(~measured, k < layer.enters[v] - window)


def test_two_runs_of_one_module_have_a_clock_each():
    model = nn.RNN(3, 16, dtype=F64)
    x, y = torch.randn(2, 80, 1, 3, dtype=F64)
    with tt.trace(model) as trace:
        loss = (model(x)[0][49] * model(y)[0][-1]).sum()
    vector, scalar = trace.flow(loss[None]), trace.flow(loss)
    assert vector["l0"].enters.tolist() == [[50]] and vector["l0@2"].enters.tolist() == [[80]]
    for name in ("l0", "l0@2"):
        assert_close(vector[name].lag_profile(), scalar[name].lag_profile(), rtol=1e-12)
        assert tt.diagnose(vector)[name].verdict is tt.diagnose(scalar)[name].verdict
    assert tt.diagnose(vector)["l0"].verdict is tt.Verdict.VANISHING


def test_a_loss_of_a_decoder_stands_at_the_encoders_end():
    encoder, decoder = nn.GRU(3, 4, dtype=F64), nn.GRU(3, 4, dtype=F64)
    model = nn.ModuleList((encoder, decoder))
    x, y = torch.randn(2, 7, 2, 3, dtype=F64)
    with tt.trace(model) as trace:
        losses = decoder(y, encoder(x)[1])[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)
    assert flow["1.l0"].enters.tolist() == [[v] * 2 for v in range(1, 8)]
    assert (flow["0.l0"].enters == 7).all()
    assert (flow["0.l0"].norms[:, -1] > 0).all()


def test_norms_are_exactly_0_after_the_last_step_at_which_anything_enters():
    model, x = Pair(LINKS["shift"], layers=1), torch.randn(9, 2, 3, dtype=F64)
    with tt.trace(model) as trace:
        losses = model(x)
    flow = trace.flow(losses)
    assert flow["enc.l0"].enters[:, 0].tolist() == [0, *range(1, 9)]
    for layer in flow.values():
        k = torch.arange(10)[None, :, None]
        assert not layer.norms[k.expand_as(layer.norms) > layer.enters[:, None]].any()


def hooked(kind: str, fired: list[int]):
    """Return a model with a hook that clips, its losses, and the same without the hook."""
    first, second = nn.GRU(3, 4, dtype=F64), nn.GRU(4, 4, dtype=F64)
    readout = nn.Linear(4, 1, dtype=F64)
    model = nn.ModuleList((first, second, readout))

    def clip(g):
        fired.append(1)
        return g.clamp(-1e-3, 1e-3)

    def seen(module, *grads):
        fired.append(1)

    if kind == "full backward hook of the layer":
        second.register_full_backward_hook(seen)
    if kind == "full backward pre-hook of the readout":
        readout.register_full_backward_pre_hook(seen)

    def losses(x, with_hook=True):
        h, state = first(x)
        if with_hook and kind == "output":
            h.register_hook(clip)
        if with_hook and kind == "carried state":
            state.register_hook(clip)
        if with_hook and kind == "retained":
            h.retain_grad()
            losses.kept = h
        return readout(second(h, state)[0]).pow(2).sum((1, 2))

    return model, losses


@pytest.mark.parametrize(
    "kind",
    [
        "output",
        "carried state",
        "full backward hook of the layer",
        "full backward pre-hook of the readout",
        "retained",
    ],
)
def test_a_measurement_calls_no_hook_and_leaves_it_where_it_was(kind):
    fired: list[int] = []
    before = {id(log) for log in hooks._LOGS}
    torch.manual_seed(0)
    model, losses = hooked(kind, fired)
    torch.manual_seed(0)
    plain, without = hooked("none", fired)
    x = torch.randn(5, 2, 3, dtype=F64)
    with tt.trace(plain) as trace:
        want = trace.flow(without(x))
    with tt.trace(model) as trace:
        found = losses(x)
    flow = trace.flow(found)
    assert not fired
    if kind == "retained":
        assert losses.kept.grad is None
    for name, layer in flow.items():
        assert_close(layer.norms, want[name].norms, rtol=1e-12)
        for v in range(5):
            assert_close(layer.adjoint(v), want[name].adjoint(v), rtol=1e-12)
    assert not fired
    found.sum().backward()
    if kind == "retained":
        assert losses.kept.grad is not None
    else:
        assert len(fired) == 1
    del trace, flow, want, layer
    gc.collect()
    assert {id(log) for log in hooks._LOGS} <= before
    if not before:
        assert torch.Tensor.register_hook is hooks._PLAIN["register_hook"]


def test_losses_beside_one_that_is_no_number_are_what_autograd_says():
    model, x = nn.RNN(3, 4, dtype=F64), torch.randn(6, 2, 3, dtype=F64)
    for at in (0, 2, 5):

        def losses(h, at=at):
            return torch.stack((h[at].sum() * torch.inf, h[2].pow(2).sum(), h[5].sum()))

        with tt.trace(model) as trace:
            found = losses(model(x)[0])
        flow = trace.flow(found)["l0"]
        for v in range(3):
            want = torch.autograd.grad(losses(model(x)[0])[v], model.weight_hh_l0)[0]
            got = flow.weight_grad("weight_hh", loss=v)
            assert torch.equal(got.isfinite(), want.isfinite())


def test_a_loss_a_row_is_refused_unless_it_is_meant():
    model, x = nn.RNN(3, 4, dtype=F64), torch.randn(4, 4, 3, dtype=F64)
    with tt.trace(model) as trace:
        losses = model(x)[0].pow(2).sum((0, 2))
    with pytest.raises(tt.errors.InputValueError, match="per_row=True"):
        trace.flow(losses)
    norms = trace.flow(losses, per_row=True)["l0"].norms
    own = torch.eye(4, dtype=torch.bool)[:, None].expand_as(norms)
    assert (norms[own] > 0).all() and not norms[~own].any()
