"""Rows that end early or begin anew on torch's modules: packed, and equal to the reference."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime as tt
from throughtime import kernels
from throughtime.cells import GRU, LSTM, Elman
from throughtime.kernels.comparison import term_error
from throughtime.kernels.torch import packing
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H = 9, 6, 3, 5
CELLS = {
    "LSTM": lambda: LSTM(I, H, dtype=F64),
    "projected LSTM": lambda: LSTM(I, H, proj_size=2, dtype=F64),
    "GRU": lambda: GRU(I, H, dtype=F64),
    "tanh": lambda: Elman(I, H, dtype=F64),
    "relu, no bias": lambda: Elman(I, H, "relu", bias=False, dtype=F64),
}
LAYERS = {"LSTM": (tt.LSTM, nn.LSTM), "GRU": (tt.GRU, nn.GRU), "RNN": (tt.RNN, nn.RNN)}


def masks(kind: str):
    """Return active and reset (T, B), or None for one of them."""
    draw = torch.Generator().manual_seed(3)
    steps = torch.arange(T)[:, None]
    lengths = torch.tensor([4, 9, 0, 1, 9, 6])
    prefix = steps < lengths
    resets = torch.rand(T, B, generator=draw) < 0.3
    resets[0, 1], resets[0, 3], resets[:, 4] = True, False, True
    return {
        "prefix": (prefix, None),
        "suffix": (steps >= T - lengths, None),
        "gaps": (torch.rand(T, B, generator=draw) < 0.5, None),
        "resets": (None, resets),
        "no resets": (None, torch.zeros(T, B, dtype=torch.bool)),
        "prefix, resets": (prefix, resets & prefix),
        "gaps, resets": (g := torch.rand(T, B, generator=draw) < 0.5, resets & g),
        "one row": (prefix & (torch.arange(B) == 1), None),
        "nothing": (torch.zeros(T, B, dtype=torch.bool), None),
    }[kind]


KINDS = (
    "prefix", "suffix", "gaps", "resets", "no resets", "prefix, resets", "gaps, resets", "one row",
    "nothing",
)  # fmt: skip


def both_ways(cell, engine, active, reset, given=True):
    """Return everything that a forward and a backward sweep give, with an s_0 or from zeros."""
    draw = torch.Generator().manual_seed(1)
    new = {"generator": draw, "dtype": F64}
    x, s_0 = torch.randn(T, B, I, **new), torch.randn(B, cell.state_size, **new)
    g, delta = torch.randn(T, B, cell.hidden_size, **new), torch.randn(B, cell.state_size, **new)
    if active is not None:  # what is not taken must not be looked at
        x = x.masked_fill(~active[..., None], torch.nan)
        g = g.masked_fill(~active[..., None], 1e9)
    found = {}
    with kernels.use(engine):
        choose = kernels.choose.choose(cell, x, s_0, active, reset, states=False)
        done = choose.outputs(cell, x, s_0 if given else None, active, reset)
        back = kernels.gradients(cell, done.tape, g, delta)
        found["without a tape"] = choose.outputs(
            cell, x, s_0 if given else None, active, reset, keep=False
        ).h
    found |= {"h": done.h, "x": back.x, "s_0": back.s_0}
    found |= {f"final {i}": final for i, final in enumerate(done.finals)}
    return found | {name: grad.flatten() for name, grad in back.weights.items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", CELLS.values(), ids=CELLS)
def test_every_term_is_the_references(make, kind):
    torch.manual_seed(0)
    cell = make()
    for given in (True, False):
        want = both_ways(cell, "reference", *masks(kind), given)
        got = both_ways(cell, "torch", *masks(kind), given)
        assert {n: e for n in want if not (e := term_error(got[n], want[n])) < 1e-11} == {}


def layers(kind: str, **options):
    torch.manual_seed(0)
    ours, theirs = (make(I, H, dtype=F64, **options) for make in LAYERS[kind])
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def states(s):
    return s if isinstance(s, tuple) else (s,)


@pytest.mark.parametrize("order", [True, False], ids=["sorted", "unsorted"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}], ids=str)
@pytest.mark.parametrize("kind", LAYERS)
def test_one_direction_is_torchs_on_a_packed_sequence_bit_by_bit(kind, options, order):
    L = options.get("num_layers", 1)
    lengths = torch.tensor([9, 7, 7, 4, 1, 1] if order else [4, 7, 1, 9, 7, 1])
    found = []
    for layer in layers(kind, **options):
        draw = torch.Generator().manual_seed(2)
        x = torch.randn(T, B, I, dtype=F64, generator=draw).requires_grad_()
        hx = [torch.randn(L, B, H, dtype=F64, generator=draw).requires_grad_() for _ in range(2)]
        hx = hx if kind == "LSTM" else hx[:1]
        packed = pack_padded_sequence(x, lengths, enforce_sorted=order)
        with kernels.use("torch"):
            out, s = layer(packed, tuple(hx) if kind == "LSTM" else hx[0])
            loss = out.data.pow(2).sum() + sum(p.pow(3).sum() for p in states(s))
            grads = torch.autograd.grad(loss, [x, *hx, *layer.parameters()])
        found.append([out.data.detach(), *states(s), *grads])
    assert kernels.last_choice().name == "torch"
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("how", ["lengths", "on the CPU", "mask", "packed"])
@pytest.mark.parametrize("kind", LAYERS)
def test_both_directions_and_several_layers_equal_torchs(kind, how):
    lengths = torch.tensor([4, 7, 1, 9, 7, 2])
    found = []
    for layer in layers(kind, num_layers=2, bidirectional=True, batch_first=True):
        x = torch.randn(B, T, I, dtype=F64, generator=torch.Generator().manual_seed(2))
        x.requires_grad_()
        given, options = x, {}
        if type(layer).__module__.startswith("torch") or how == "packed":
            given = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        elif how == "mask":
            options["mask"] = torch.arange(T) < lengths[:, None]
        else:
            options["lengths"] = lengths.tolist() if how == "lengths" else lengths
        with kernels.use("torch"):
            out, s = layer(given, **options)
        if not isinstance(out, torch.Tensor):
            out = nn.utils.rnn.pad_packed_sequence(out, batch_first=True)[0]
        loss = out.pow(2).sum() + sum(p.pow(3).sum() for p in states(s))
        grads = torch.autograd.grad(loss, [x, *layer.parameters()])
        found.append([out.detach(), *states(s), *grads])
    for got, want in zip(*found, strict=True):
        assert_close(got, want, rtol=1e-12)


def test_a_batch_is_packed_once_for_all_layers_forward_and_back(monkeypatch):
    found = []
    real = packing._find
    monkeypatch.setattr(packing, "_find", lambda *masks: found.append(1) or real(*masks))
    layer = tt.LSTM(I, H, num_layers=3)
    with kernels.use("torch"):
        layer(torch.randn(T, B, I), lengths=[4, 7, 1, 9, 7, 2])[0].sum().backward()
        assert len(found) == 1
        both = tt.GRU(I, H, num_layers=3, bidirectional=True)
        both(torch.randn(T, B, I), lengths=[4, 7, 1, 9, 7, 2])[0].sum().backward()
    assert len(found) == 2


def test_a_mask_that_is_written_to_or_another_beside_it_is_packed_anew():
    active = torch.ones(T, B, dtype=torch.bool)
    first = packing.packed(active, None)
    assert first.sizes.tolist() == [B] * T and packing.packed(active, None) is first
    reset = torch.zeros_like(active)
    reset[3] = True
    assert packing.packed(active, reset).sizes.tolist() == [2 * B] * 3 + [B] * 3
    assert packing.packed(active, torch.zeros_like(reset)).episodes == B
    active[4:, 0] = False
    assert packing.packed(active, None).sizes.tolist() == [B] * 4 + [B - 1] * 5


def test_rows_cost_what_they_take(monkeypatch):
    """What reaches torch's module has as many rows as there are steps, and no padding."""
    seen = []
    real = torch._VF.gru
    monkeypatch.setattr(
        torch._VF, "gru", lambda data, *a: seen.append(data.shape) or real(data, *a)
    )
    layer, x = tt.GRU(I, H), torch.randn(T, B, I)
    with kernels.use("torch"):
        layer(x, lengths=[9, 1, 1, 1, 1, 1])
        layer(x, reset=torch.ones(T, B, dtype=torch.bool))
    assert seen == [(14, I), (T * B, I)]


def test_an_error_in_the_packing_is_noticed(monkeypatch):
    """The comparison must be able to fail: episodes begin from the state of another row."""
    real = packing._find

    def shifted(*masks):
        how = real(*masks)
        return how._replace(given=how.given.roll(1))

    monkeypatch.setattr(packing, "_find", shifted)
    with pytest.raises(AssertionError):
        test_every_term_is_the_references(CELLS["GRU"], "prefix")
