"""Every kernel against the reference in float64, term by term."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from throughtime import kernels
from throughtime.cells import GRU, LSTM, Elman, LayerNormLSTM
from throughtime.kernels.comparison import Reference, check_kernel, term_error
from throughtime.kernels.cpu import library as native

pytestmark = pytest.mark.skipif(
    not kernels.available().native, reason=kernels.available().reason or "no kernels"
)


def layer_norm_lstm(I, H, *, bias=True):
    """Draw the gains and biases too: at 1 and 0 a mistake in them would not show."""
    cell = LayerNormLSTM(I, H, bias=bias, dtype=torch.float64)
    with torch.no_grad():
        for weight in cell.weights().values():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    return cell


CELLS = {
    "tanh": lambda I, H: Elman(I, H, dtype=torch.float64),
    "relu": lambda I, H: Elman(I, H, "relu", dtype=torch.float64),
    "sigmoid": lambda I, H: Elman(I, H, "sigmoid", dtype=torch.float64),
    "identity": lambda I, H: Elman(I, H, "identity", dtype=torch.float64),
    "lstm": lambda I, H: LSTM(I, H, dtype=torch.float64),
    "gru": lambda I, H: GRU(I, H, dtype=torch.float64),
    "lstm without bias": lambda I, H: LSTM(I, H, bias=False, dtype=torch.float64),
    "gru without bias": lambda I, H: GRU(I, H, bias=False, dtype=torch.float64),
    "layer norm": layer_norm_lstm,
    "layer norm without bias": lambda I, H: layer_norm_lstm(I, H, bias=False),
}
WIDTHS = (1, 3, 17, 63, 127, 130)


def regime(cell, name):
    """Scale or replace W_h so that products of Jacobians shrink, keep, grow or saturate."""
    with torch.no_grad():
        if isinstance(cell, LayerNormLSTM):  # its norm takes W_h's scale away, and the gain sets it
            cell.gain_hh.mul_({"contracting": 0.3, "exploding": 2.5}.get(name, 1))
        for W in cell.weight_hh.split(cell.hidden_size):
            if name == "orthogonal":
                torch.nn.init.orthogonal_(W)
            W.mul_({"contracting": 0.3, "exploding": 2.5}.get(name, 1))
        if name == "saturated":
            cell.weight_ih.mul_(20)
    return cell


@pytest.fixture(autouse=True)
def as_it_was():
    """Leave the instruction set and the number of threads as they were."""
    isa, threads = native.isa(), torch.get_num_threads()
    yield
    native.set_isa(isa)
    torch.set_num_threads(threads)


def check_on_every_isa(cell, tolerance=None, **problem):
    """Return the errors on each; the reference, which takes the time, is computed once."""
    reference, errors = Reference(cell, **problem), {}
    for isa in native.isas():
        native.set_isa(isa)
        errors[isa] = reference.check(tolerance=tolerance)
    return errors


def one_of(choices, name, turn):
    """Return the choice that is a cell's turn, such that every cell meets every choice."""
    return choices[(turn + list(CELLS).index(name)) % len(choices)]


def check_on_threads(cell, **problem):
    reference = Reference(cell, **problem)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        reference.check()


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("H", WIDTHS)
def test_every_term(name, H):
    """Every cell and every width meet every span: see below why not all three at once."""
    torch.manual_seed(H)
    spans = (("all", False), ("prefix", True), ("suffix", False))
    span, resets = one_of(spans, name, WIDTHS.index(H))
    check_on_every_isa(CELLS[name](4, H), span=span, resets=resets)


# What a bias adds is there or not, whatever the products of Jacobians do.
@pytest.mark.parametrize("name", [name for name in CELLS if "without" not in name])
@pytest.mark.parametrize("how", ["contracting", "orthogonal", "exploding", "saturated"])
def test_regimes(name, how):
    torch.manual_seed(1)
    cell = regime(CELLS[name](4, 33), how)
    check_kernel(cell, T=40, B=5, tolerance=1e-8 if how == "exploding" else 1e-10)


@pytest.mark.parametrize("name", CELLS)
def test_one_step_and_one_row(name):
    torch.manual_seed(2)
    for T, B, V in ((1, 1, 1), (1, 3, 2), (9, 1, 1), (9, 1, 5)):
        check_kernel(CELLS[name](3, 20), T=T, B=B, V=V)


@pytest.mark.parametrize("name", ["lstm", "gru", "layer norm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tape_written_past_the_caches(name, dtype):
    """Over 4 MB, and H a multiple of what a line holds."""
    torch.manual_seed(5)
    tolerance = 1e-10 if dtype is torch.float64 else 1e-3
    T = 70 * 8 // dtype.itemsize
    for span, resets in (("all", False), ("prefix", True)):
        check_on_every_isa(
            CELLS[name](4, 64), T=T, B=32, V=1, span=span, resets=resets, dtype=dtype,
            tolerance=tolerance,
        )  # fmt: skip


@settings(max_examples=40)
@given(
    name=st.sampled_from(list(CELLS)),
    T=st.integers(1, 12),
    B=st.integers(1, 60),
    I=st.integers(1, 9),
    H=st.integers(1, 140),
    V=st.integers(1, 4),
    span=st.sampled_from(("all", "prefix", "suffix")),
    resets=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_shapes_drawn(name, T, B, I, H, V, span, resets, seed):
    torch.manual_seed(seed)
    check_kernel(CELLS[name](I, H), T=T, B=B, V=V, span=span, resets=resets, seed=seed)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "lstm", "gru", "layer norm"])
def test_float32_within_1e5_of_float64_over_2000_steps(name):
    torch.manual_seed(3)
    found = check_on_every_isa(
        regime(CELLS[name](4, 24), "contracting"), T=2000, B=2, V=1, dtype=torch.float32,
        tolerance=1.0,
    )  # fmt: skip
    for isa, errors in found.items():
        for quantity in ("s", "x", "delta_0", "weight_hh", "weight_ih", "bias_hh"):
            assert errors[quantity] < 1e-5, (isa, quantity, errors)


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("isa", native.isas())
def test_non_finite_input_comes_out_where_torch_puts_it(name, bad, isa):
    native.set_isa(isa)
    torch.manual_seed(4)
    cell = CELLS[name](1, 18)
    x = torch.randn(6, 3, 1, dtype=torch.float64)
    x[2, 1, 0] = bad
    with kernels.use("reference"):
        want = kernels.forward(cell, x, x.new_zeros(3, cell.state_size))
    with kernels.use("native"):
        got = kernels.forward(cell, x, x.new_zeros(3, cell.state_size))
    assert term_error(got.s, want.s) < 1e-10
    for mine, theirs in zip(got.saved, want.saved, strict=True):
        assert term_error(mine, theirs) < 1e-10
    g = torch.randn(2, 6, 3, cell.state_size, dtype=torch.float64)
    with kernels.use("native"):
        mine = kernels.backward(cell, want, g)
    with kernels.use("reference"):
        theirs = kernels.backward(cell, want, g)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())
        assert term_error(a.where(a.isfinite(), 0), b.where(b.isfinite(), 0)) < 1e-10


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("turn", range(3))
def test_more_steps_than_may_wait(name, turn):
    """The products outside the steps are taken in rounds, while what they read is in cache.

    Every cell takes every shape and every span, and every shape every span, but not all three at
    once: native/schedule.cpp deals out rows and steps (lo_, hi_) before a cell is known, and a cell
    is a template's argument that never sees which rows are ragged.
    """
    torch.manual_seed(6)
    cell = CELLS[name](70, 26)
    T, B = ((110, 7), (400, 1), (9, 70))[turn]
    span = one_of(("all", "prefix", "suffix"), name, turn)
    check_on_threads(cell, T=T, B=B, V=1, span=span, resets=span != "all")


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("B", [1, 2, 3, 5, 7])
def test_columns_shared_by_threads(name, B):
    """Few rows and a large H: the threads of a group share its columns, with a barrier a step."""
    torch.manual_seed(B)
    spans = (("all", False), ("prefix", False), ("suffix", True))
    span, resets = one_of(spans, name, B // 2)
    check_on_threads(CELLS[name](4, 300), T=5, B=B, V=1, span=span, resets=resets)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("isa", native.isas())
def test_the_sigmoid_is_a_number_where_its_exponential_is_about_to_overflow(dtype, isa):
    native.set_isa(isa)
    cell = CELLS["sigmoid"](1, 1).to(dtype)
    with torch.no_grad():
        for weight in cell.weights().values():
            weight.zero_()
        cell.weight_ih.fill_(1)
    edge = -88.5 if dtype is torch.float32 else -709.5
    x = torch.cat((torch.linspace(edge - 2, edge + 2, 4001), torch.linspace(-30, 30, 301)))
    x = x.to(dtype)
    with kernels.use("native"):
        got = kernels.forward(cell, x.view(1, -1, 1), x.new_zeros(len(x), 1)).s[1, :, 0]
    assert term_error(got, x.sigmoid()) < 4 * torch.finfo(dtype).eps
