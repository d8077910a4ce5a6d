"""A trace that changes nothing: results, gradients and random numbers are the same to the bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt
from throughtime.errors import GraphError, InputValueError
from throughtime.flow import Sample

T, B, I, H = 12, 4, 3, 8


class Read(nn.Module):
    """A recurrent layer and a readout at every step."""

    def __init__(self, rnn: nn.Module, width: int = H, lengths: list[int] | None = None) -> None:
        super().__init__()
        self.rnn, self.out, self.lengths = rnn, nn.Linear(width, I), lengths

    def forward(self, x: Tensor) -> Tensor:
        if self.lengths is None:
            return self.out(self.rnn(x)[0])
        packed = pack_padded_sequence(x, torch.tensor(self.lengths), enforce_sorted=False)
        return self.out(pad_packed_sequence(self.rnn(packed)[0], total_length=T)[0])


class Pieces(nn.Module):
    """One call after the other, each going on from the state before, detached or not."""

    def __init__(self, rnn: nn.Module, detached: bool) -> None:
        super().__init__()
        self.rnn, self.out, self.detached = rnn, nn.Linear(H, I), detached

    def forward(self, x: Tensor) -> Tensor:
        said, state = [], None
        for piece in x.split(4):
            h, state = self.rnn(piece, state)
            said.append(self.out(h))
            if self.detached:
                state = (
                    tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
                )
        return torch.cat(said)


class Cells(nn.Module):
    """A cell in a loop."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.out = cell, nn.Linear(H, I)

    def forward(self, x: Tensor) -> Tensor:
        said, state = [], None
        for x_t in x:
            state = self.cell(x_t, state)
            said.append(self.out(state[0] if isinstance(state, tuple) else state))
        return torch.stack(said)


class Three(nn.Module):
    """One layer over the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.GRU(I, H), nn.GRU(H, H), nn.GRU(H, H)
        self.out = nn.Linear(H, I)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.c(self.b(torch.relu(self.a(x)[0]))[0])[0])


class Scaled(nn.LSTM):
    """A subclass whose forward calls torch's."""

    def forward(self, input, hx=None):
        return super().forward(0.5 * input, hx)


def function() -> tt.Recurrent:
    weights = {"w": torch.randn(I, H) / 2, "u": torch.randn(H, H) / 4}
    return tt.Recurrent(
        tt.cells.Function(lambda x, s, w, u: torch.tanh(x @ w + s @ u), I, H, weights=weights)
    )


MODELS: dict[str, Callable[[], nn.Module]] = {
    "nn.RNN": lambda: Read(nn.RNN(I, H)),
    "nn.LSTM": lambda: Read(nn.LSTM(I, H)),
    "nn.GRU": lambda: Read(nn.GRU(I, H)),
    "tt.LSTM": lambda: Read(tt.LSTM(I, H)),
    "stack, both ways, dropout": lambda: Read(
        nn.LSTM(I, H, 2, bidirectional=True, dropout=0.5), 2 * H
    ),
    "packed": lambda: Read(nn.GRU(I, H, 2, dropout=0.5), lengths=[12, 1, 5, 12]),
    "projection": lambda: Read(nn.LSTM(I, 2 * H, proj_size=H)),
    "checkpointed": lambda: Read(tt.GRU(I, H, through=tt.Checkpointed(3))),
    "truncated": lambda: Read(tt.LSTM(I, H, through=tt.Truncated(3))),
    "pieces": lambda: Pieces(nn.LSTM(I, H), detached=False),
    "pieces, detached": lambda: Pieces(nn.GRU(I, H), detached=True),
    "cells": lambda: Cells(nn.LSTMCell(I, H)),
    "three": Three,
    "subclass": lambda: Read(Scaled(I, H)),
    "own step": lambda: Read(function()),
}


def trained(make: Callable[[], nn.Module], look: Callable[[tt.Trace, Tensor], object] | None):
    """Train for three updates, and return all losses, weights and the random state after them."""
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    found = []
    for _ in range(3):
        x, y = torch.randn(T, B, I), torch.randn(T, B, I)
        if look is None:
            loss = (model(x) - y).pow(2).mean()
        else:
            with tt.trace(model, unchanged=True) as trace:
                loss = (model(x) - y).pow(2).mean()
            look(trace, loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found += [loss.detach(), *(p.detach().clone() for p in model.parameters())]
    return [*found, torch.get_rng_state()]


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODELS)
def test_a_training_is_the_same_to_the_bit(name):
    flows = []
    plain = trained(MODELS[name], None)
    traced = trained(MODELS[name], lambda trace, loss: flows.append(trace.flow(loss)))
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))
    assert all(
        layer.T == T and layer.total_norms.any() for flow in flows for layer in flow.values()
    )


@pytest.mark.parametrize(
    "name", ["nn.GRU", "pieces", "pieces, detached", "three", "subclass", "checkpointed"]
)
def test_what_is_measured_is_what_any_trace_measures(name, float64):
    model, x = MODELS[name](), torch.randn(T, B, I)
    found = []
    for unchanged in (False, True):
        with tt.trace(model, unchanged=unchanged) as trace:
            losses = model(x).pow(2).mean((1, 2))
        found.append(trace.flow(losses))
    usual, beside = found
    assert list(usual) == list(beside)
    assert usual.facts is not None and beside.facts is not None
    assert beside.facts.fed_by == usual.facts.fed_by
    assert beside.facts.unreached == usual.facts.unreached == ()
    for layer in usual:
        tt.testing.assert_close(beside[layer].norms, usual[layer].norms, rtol=1e-9)
        assert beside[layer].cuts == usual[layer].cuts


def test_a_layer_that_cannot_be_followed_runs_as_it_is():
    model, x = Read(nn.LSTM(I, H)).half(), torch.randn(T, B, I).half()
    model.rnn.weight_hh_l0 = nn.Parameter(model.rnn.weight_hh_l0.detach().half())
    with tt.trace(model, unchanged=True) as trace:
        outside = torch.utils.checkpoint.checkpoint(model, x.requires_grad_(), use_reentrant=True)
    assert outside.isfinite().all()
    with pytest.raises(GraphError, match=r"use_reentrant=True"):
        trace.flow(outside.float().sum())


def test_without_gradients_nothing_is_recorded():
    model, x = Read(nn.LSTM(I, H)), torch.randn(T, B, I)
    with tt.trace(model, unchanged=True) as trace:
        with torch.no_grad():
            model(x)
        loss = model(x).sum()
    assert list(trace.flow(loss)) == ["rnn.l0"]


def test_a_sample_has_the_norms_of_the_whole(float64):
    model, x = Read(nn.GRU(I, H)), torch.randn(T, B, I)
    with tt.trace(model) as trace:
        loss = model(x).pow(2).mean()
    whole, some = trace.flow(loss)["rnn.l0"], trace.flow(loss, sample=Sample(3, 2))["rnn.l0"]
    assert some.loss_index.tolist() == [3, 7, 11]
    rows = (some.enters > 0).all(0).nonzero().flatten()
    assert rows.tolist() == [1, 3]
    tt.testing.assert_close(
        some.norms[:, :, rows], whole.norms[some.loss_index][:, :, rows], rtol=1e-9
    )
    tt.testing.assert_close(some.total_norms, whole.total_norms, rtol=1e-9)
    assert not some.lag_profile().isnan().any()


def test_a_sample_begins_where_the_loss_enters():
    model, x = Read(nn.GRU(I, H)), torch.randn(T, B, I)
    with tt.trace(model) as trace:
        loss = model(x)[6, 2].pow(2).mean()
    layer = trace.flow(loss, sample=Sample(4, 2))["rnn.l0"]
    assert layer.loss_index.tolist() == [6] and layer.enters.tolist() == [[0, 0, 7, 0]]
    assert layer.horizon() > 0


def test_a_sample_is_of_a_scalar():
    model, x = Read(nn.GRU(I, H)), torch.randn(T, B, I)
    with tt.trace(model) as trace:
        losses = model(x).pow(2).mean((1, 2))
    with pytest.raises(InputValueError, match=r"pass losses\.sum\(\)"):
        trace.flow(losses, sample=Sample())
