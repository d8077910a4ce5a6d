"""The scan of a diagonal recurrence against the sweep step by step, term by term (eq. 1, 9)."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime import sweep
from throughtime.kernels.comparison import term_error
from throughtime.kernels.plain import scan
from throughtime.testing import assert_close

F64 = torch.float64
I, H = 3, 5


def draw(*shape: int, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def masks(T: int, B: int, ragged: bool, resets: bool):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, T + 1, (B,), generator=generator)
    active = torch.arange(T)[:, None] < lengths if ragged else None
    reset = torch.rand(T, B, generator=generator) < 0.2 if resets else None
    if reset is not None and active is not None:
        reset &= active
    return active, reset


def run(way, cell, T, B, V, ragged, resets):
    active, reset = masks(T, B, ragged, resets)
    tape = way.forward(cell, draw(T, B, I), draw(B, H), active, reset)
    g, delta_T = draw(V, T, B, H, seed=2), draw(V, B, H, seed=3)
    adjoints, delta_0 = way.backward(cell, tape, g, delta_T)
    if way is scan:
        deltas, each_adjoint = scan._back(cell, tape, g, delta_T)
    else:
        each = list(sweep.adjoints(cell, tape, g, delta_T))[::-1]
        deltas = torch.stack([delta for _, delta, _ in each], 1)
        each_adjoint = torch.stack([adjoint for _, _, adjoint in each[1:]], 1)
    takes = torch.ones(T, B, 1, dtype=torch.bool) if active is None else active[..., None]
    found = {"s": tape.s, "adjoints": adjoints, "delta_0": delta_0}
    found |= {f"saved[{i}]": k.where(takes, 0) for i, k in enumerate(tape.saved)}
    return found | {"deltas": deltas, "each adjoint": each_adjoint}


@pytest.mark.parametrize("part", [1, 7, 10**6], ids="parts of {} steps".format)
@pytest.mark.parametrize("narrow", [0, 10**6], ids=["step by step", "in pieces"])
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("resets", [False, True], ids=["no reset", "resets"])
@pytest.mark.parametrize(
    ("T", "B", "V"), [(1, 1, 1), (2, 3, 1), (23, 3, 1), (40, 1, 3), (61, 2, 2)]
)
def test_every_term_is_that_of_the_sweep(monkeypatch, T, B, V, ragged, resets, narrow, part):
    monkeypatch.setattr(scan, "NARROW", narrow)
    monkeypatch.setattr(scan, "PART_BYTES", part * B * H * 8)
    cell = tt.cells.MinGRU(I, H, dtype=F64)
    with torch.no_grad():
        cell.weight_ih *= 3
    got = run(scan, cell, T, B, V, ragged, resets)
    want = run(sweep, cell, T, B, V, ragged, resets)
    for name in want:
        assert term_error(got[name], want[name]) < 1e-12, name


@pytest.mark.parametrize("narrow", [0, 10**6], ids=["step by step", "in pieces"])
def test_gates_that_shut_divide_nothing_by_a_product_that_underflows(monkeypatch, narrow):
    """Products of d over 400 steps reach 1e-400: a scan that divided by them would give NaN."""
    monkeypatch.setattr(scan, "NARROW", narrow)
    cell = tt.cells.MinGRU(I, H, dtype=F64)
    with torch.no_grad():
        cell.bias_ih[:H] = 2.3
        cell.weight_ih[:H] = 0
    x, s_0 = draw(400, 2, I), draw(2, H)
    product = cell.affine(cell.drive(x))[0].log10().sum(0).max()
    assert product < -390
    found = []
    for way in (scan, sweep):
        tape = way.forward(cell, x, s_0)
        adjoints, delta_0 = way.backward(cell, tape, torch.ones(1, 400, 2, H, dtype=F64))
        found.append((tape.s, adjoints, delta_0))
    for got, want in zip(*found, strict=True):
        assert term_error(got, want) < 1e-12


def test_nothing_that_is_no_number_passes_a_reset():
    cell = tt.cells.MinGRU(I, H, dtype=F64)
    s_0 = torch.full((2, H), torch.inf, dtype=F64)
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[2] = True
    tape = scan.forward(cell, draw(5, 2, I), s_0, None, reset)
    assert tape.s[3:].isfinite().all() and not tape.s[:3].isfinite().all()
    g = torch.zeros(1, 5, 2, H, dtype=F64)
    g[:, 3] = torch.inf
    clean = tt.cells.MinGRU(I, H, dtype=F64)
    tape = scan.forward(clean, draw(5, 2, I), draw(2, H), None, reset)
    assert (scan.backward(clean, tape, g)[1] == 0).all()


def test_the_scan_is_chosen_by_what_the_cell_says_of_itself():
    cell = tt.cells.MinGRU(I, H)
    assert tt.kernels.choice(cell).name == "scan"
    assert tt.kernels.choice(tt.cells.Leaky(I, H)).name == "reference"
    with tt.kernels.use("reference"):
        assert tt.kernels.choice(cell).name == "reference"
    with pytest.raises(tt.errors.UnsupportedError, match="Its sweeps go step by step"):
        tt.cells.Leaky(I, H).affine(torch.zeros(1, 1, H))


def test_a_layer_and_its_flow_by_the_scan_are_those_step_by_step():
    cell = tt.cells.MinGRU(I, H, dtype=F64)
    x, found = draw(9, 2, I), []
    for kernels in ("auto", "reference"):
        layer = tt.Recurrent(cell)
        layer.zero_grad()
        with tt.kernels.use(kernels):
            with tt.trace(layer) as trace:
                losses = layer(x)[0].pow(2).sum((1, 2))
            flow = trace.flow(losses)["l0"]
            losses.sum().backward()
            assert tt.kernels.last_choice().name == ("scan" if kernels == "auto" else "reference")
        found.append((flow.norms[..., None], cell.weight_ih.grad, cell.bias_ih.grad[None]))
    for got, want in zip(*found, strict=True):
        assert term_error(got, want) < 1e-12


def test_a_scan_off_by_one_step_is_noticed(monkeypatch):
    whole = scan.scan_
    monkeypatch.setattr(scan, "scan_", lambda s, d, *a, **k: whole(s, d.roll(1, 0), *a, **k))
    cell = tt.cells.MinGRU(I, H, dtype=F64)
    got = run(scan, cell, 9, 2, 1, False, False)
    want = run(sweep, cell, 9, 2, 1, False, False)
    with pytest.raises(tt.errors.CheckError):
        assert_close(got["s"], want["s"])
