"""Opacus on this package's layers, against Opacus's own recurrent modules and one row at a time."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, TensorDataset

import throughtime as tt
from throughtime.integrations.opacus import register
from throughtime.kernels import by_row
from throughtime.testing import assert_close

opacus = pytest.importorskip("opacus", reason="Opacus is not installed: pip install opacus")
from opacus import GradSampleModule, PrivacyEngine  # noqa: E402
from opacus.layers import DPGRU, DPLSTM, DPRNN  # noqa: E402
from opacus.validators import ModuleValidator  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("float64"),
    # Opacus says these of every model.
    pytest.mark.filterwarnings("ignore:Secure RNG turned off"),
    pytest.mark.filterwarnings("ignore:Full backward hook is firing"),
]

F64 = torch.float64
T, B, I, H = 7, 4, 3, 5
KINDS = {"LSTM": (nn.LSTM, DPLSTM), "GRU": (nn.GRU, DPGRU), "RNN": (nn.RNN, DPRNN)}
SHAPES = {
    "one layer": {},
    "without bias": {"bias": False},
    "rows first": {"batch_first": True},
    "two layers, both ways": {"num_layers": 2, "bidirectional": True},
}


@pytest.fixture(autouse=True)
def registered():
    register()


def draw(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Model(nn.Module):
    """A layer that is read at every step and in its final state, and a readout."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(I, I, dtype=F64)
        self.layer, self.readout = layer, nn.Linear(width, 2, dtype=F64)

    def forward(self, x, **options):
        h, final = self.layer(self.embed(x), **options)
        final = final[0] if isinstance(final, tuple) else final
        rows_first = getattr(self.layer, "batch_first", False)
        steps = h.pow(2).mean(1 if rows_first else 0)
        return self.readout(torch.tanh(steps + final.reshape(-1, len(steps), H).pow(3).sum(0).sum(
            1, keepdim=True)))


def pair(kind: str, **options):
    """Return a model with this package's layer and one with Opacus's, over equal weights."""
    torch.manual_seed(0)
    theirs, dp = KINDS[kind]
    layer = theirs(I, H, dtype=F64, **options)
    width = H * (2 if options.get("bidirectional") else 1)
    ours = tt.convert(Model(layer, width))
    other = copy.deepcopy(ours)
    other.layer = dp(I, H, **options).to(F64)
    other.layer.load_state_dict(layer.state_dict())
    return ours, other


def named(model):
    return dict(model.named_parameters())


def loss_of(out, reduction):
    rows = out.pow(3).sum(1)
    return rows.mean() if reduction == "mean" else rows.sum()


def shares(model, x, reduction="mean", *, batch_first=True, **options):
    wrapped = GradSampleModule(model, batch_first=batch_first, loss_reduction=reduction)
    loss_of(wrapped(x, **options), reduction).backward()
    return {name: p.grad_sample for name, p in model.named_parameters()}


def alone(model, x, **options):
    """Return the gradient of each row's own loss, taken with a batch of that row."""
    model = copy.deepcopy(model)
    found = []
    rows_first = getattr(model.layer, "batch_first", False)
    for b in range(B):
        model.zero_grad()
        row = x[b : b + 1] if rows_first else x[:, b : b + 1]
        own = {name: value[b : b + 1] for name, value in options.items()}
        loss_of(model(row, **own), "sum").backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return {name: torch.stack([row[name] for row in found]) for name in found[0]}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_are_those_of_opacus_own_modules(kind, shape, reduction):
    options = SHAPES[shape]
    rows_first = options.get("batch_first", False)
    ours, theirs = pair(kind, **options)
    x = draw(B, T, I) if rows_first else draw(T, B, I)
    want_alone = alone(ours, x)
    if rows_first:
        got, want = shares(ours, x, reduction), shares(theirs, x, reduction)
    else:  # Opacus has one axis for all modules, and the readout's rows come first
        got = {n: p for n, p in shares(ours, x, reduction).items() if n.startswith("layer")}
        want = shares(theirs, x, reduction)
    for name, share in got.items():
        assert_close(share, want[name], rtol=1e-10, name=name)
        assert_close(share, want_alone[name], rtol=1e-10, name=f"{name}, row by row")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_different_lengths_are_packed_in_any_order_or_padded(kind, reduction):
    def make():
        return pair(kind, num_layers=2, bidirectional=True, batch_first=True)

    ours, theirs = make()
    x, lengths = draw(B, T, I), torch.tensor([7, 5, 2, 1])
    order = torch.tensor([2, 0, 3, 1])

    def packed(model, x, lengths, enforce_sorted):
        wrapped = GradSampleModule(model, loss_reduction=reduction)
        given = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=enforce_sorted)
        final = wrapped._module.layer(given)[1]
        h_n = final[0] if isinstance(final, tuple) else final
        loss_of(h_n.sum(0), reduction).backward()
        return {n: p.grad_sample for n, p in model.layer.named_parameters()}

    got, want = (packed(model, x, lengths, True) for model in (ours, theirs))
    for name, share in got.items():
        assert_close(share, want[name], rtol=1e-10, name=name)
    mixed = packed(make()[0], x[order], lengths[order], False)
    for name, share in got.items():
        assert_close(mixed[name], share[order], rtol=1e-10, name=f"{name}, unsorted")
    fresh = make()[0]
    padded = GradSampleModule(fresh, loss_reduction=reduction)
    final = padded._module.layer(x, lengths=lengths)[1]
    loss_of((final[0] if isinstance(final, tuple) else final).sum(0), reduction).backward()
    for name, p in fresh.layer.named_parameters():
        assert_close(p.grad_sample, got[name], rtol=1e-10, name=f"{name}, padded")


class Gated(nn.Module):
    """A step of one's own, with modules that Opacus would otherwise hook."""

    def __init__(self) -> None:
        super().__init__()
        self.f, self.n = nn.Linear(I + H, H, dtype=F64), nn.Linear(I + H, H, dtype=F64)

    def forward(self, x, s):
        f = torch.sigmoid(self.f(torch.cat((x, s), 1)))
        return s + f * (torch.tanh(self.n(torch.cat((x, f * s), 1))) - s)


CELLS = {
    "LSTM": lambda: tt.cells.LSTM(I, H),
    "layer-norm LSTM": lambda: tt.cells.LayerNormLSTM(I, H),
    "minGRU": lambda: tt.cells.MinGRU(I, H),
    "a module as step": lambda: tt.cells.Function(Gated(), I, H),
}
SCHEDULES = [tt.Full(), tt.Checkpointed(2), tt.Truncated(3)]


@pytest.mark.parametrize("through", SCHEDULES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_any_cell_under_any_schedule(cell, through):
    layer = tt.Recurrent(CELLS[cell]().to(F64), through=through, batch_first=True)
    model = Model(layer, H)
    x = draw(B, T, I)
    want = {}
    for b in range(B):
        model.zero_grad()
        loss_of(state_free(model, x[b : b + 1]), "sum").backward()
        for name, p in model.named_parameters():
            want.setdefault(name, []).append(p.grad.clone())
    wrapped = GradSampleModule(model)
    loss_of(state_free(wrapped._module, x), "mean").backward()
    for name, p in model.named_parameters():
        assert_close(p.grad_sample, torch.stack(want[name]), rtol=1e-10, name=name)


def state_free(model, x):
    return model.readout(model.layer(model.embed(x))[0].pow(2).mean(1))
