"""Which kernel runs, why, and that nothing unfit reaches native code."""

from __future__ import annotations

import threading

import pytest
import torch

import throughtime as tt
from throughtime import kernels
from throughtime import sweep as reference
from throughtime.cells import GRU, LSTM, Elman
from throughtime.errors import InputValueError, ShapeError, ThroughTimeError, UnsupportedError
from throughtime.kernels.comparison import term_error
from throughtime.kernels.cpu import library as native

needs_native = pytest.mark.skipif(
    not kernels.available().native, reason=kernels.available().reason or "no kernels"
)


def run(cell, T=5, B=3, **options):
    dtype = cell.weight_ih.dtype
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(T, B, cell.input_size, dtype=dtype, generator=draw)
    return kernels.forward(cell, x, x.new_zeros(B, cell.state_size), **options)


def test_available_says_what_is_missing():
    found = kernels.available()
    assert found.native == (found.reason == "")
    assert found.native == bool(found.isas) and (not found.native or found.isa == found.isas[0])


def test_use_is_undone_by_its_block_and_refuses_unknown_names():
    with kernels.use("reference"):
        run(Elman(2, 3))
        assert kernels.last_choice() == ("reference", "kernels.use('reference') asks for it.")
    assert kernels.choice(Elman(2, 3)).name == (
        "native" if kernels.available().native else "reference"
    )
    with pytest.raises(InputValueError, match="fastest"):
        kernels.use("fastest")


class Own(Elman):
    """A user's variant of a known cell: its step may be another."""


@needs_native
@pytest.mark.parametrize(
    ("cell", "why"),
    [
        (Own(2, 3), "Own has no compiled kernel"),
        (LSTM(2, 5, proj_size=3), "projected"),
        (GRU(2, 3, dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_what_has_no_kernel_runs_on_the_reference(cell, why):
    tape = run(cell)
    chosen = kernels.last_choice()
    assert chosen.name == "reference" and why in chosen.reason
    assert tape.s.shape == (6, 3, cell.state_size)
    with kernels.use("native"), pytest.raises(UnsupportedError, match=why):
        run(cell)


@needs_native
def test_rows_with_gaps_run_on_the_reference():
    active = torch.tensor([[True], [False], [True]])
    run(Elman(2, 3), T=3, B=1, active=active)
    assert kernels.last_choice().name == "reference"


@needs_native
def test_bad_sizes_are_refused_before_the_call():
    cell = LSTM(3, 4)
    x = torch.zeros(5, 2, 3)
    for s_0 in (torch.zeros(2, 4), torch.zeros(3, 8), torch.zeros(8)):
        with pytest.raises(ThroughTimeError):
            kernels.forward(cell, x, s_0)
    tape = kernels.forward(cell, x, torch.zeros(2, 8))
    for g in (torch.zeros(1, 4, 2, 4), torch.zeros(1, 5, 3, 4), torch.zeros(1, 5, 2, 9)):
        with pytest.raises(ShapeError):
            kernels.backward(cell, tape, g)
    with pytest.raises(ShapeError):
        kernels.backward(cell, tape, torch.zeros(2, 5, 2, 4), torch.zeros(1, 2, 8))
    with pytest.raises(ShapeError):
        kernels.losses(cell, tape, torch.zeros(5, 2, 4), enters=torch.ones(3, 1))


@needs_native
def test_no_step_or_no_row():
    for T, B in ((0, 2), (3, 0)):
        try:
            want = reference.forward(Elman(2, 3), torch.zeros(T, B, 2), torch.zeros(B, 3)).s.shape
        except (RuntimeError, IndexError):
            continue
        assert kernels.forward(Elman(2, 3), torch.zeros(T, B, 2), torch.zeros(B, 3)).s.shape == want


@needs_native
def test_input_and_gradients_need_not_be_contiguous():
    torch.manual_seed(0)
    cell = LSTM(3, 5, dtype=torch.float64)
    x = torch.randn(3, 4, 7, dtype=torch.float64).permute(2, 1, 0)
    s_0 = torch.randn(10, 4, dtype=torch.float64).T
    with torch.no_grad():
        cell.weight_hh = torch.nn.Parameter(cell.weight_hh.T.contiguous().T)
    got, want = kernels.forward(cell, x, s_0), reference.forward(cell, x, s_0)
    assert term_error(got.s, want.s) < 1e-12
    for g in (
        torch.randn(5, 4, 7, 2, dtype=torch.float64).permute(3, 2, 1, 0),
        torch.ones(1, 1, 1, 1, dtype=torch.float64).expand(2, 7, 4, 5),
        torch.ones(1, 1, 1, 1, dtype=torch.float64).expand(2, 7, 4, 1),
    ):
        for a, b in zip(
            kernels.backward(cell, got, g), reference.backward(cell, want, g), strict=True
        ):
            assert term_error(a, b) < 1e-11


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [Elman, LSTM, GRU])
@pytest.mark.parametrize("B, H", [(1, 70), (14, 70), (3, 230)])
def test_bit_for_bit_the_same_again_and_within_a_bound_on_another_number_of_threads(
    make, B, H, dtype
):
    """A row's arithmetic depends on no thread and no other row; a weight's gradient is a sum."""
    torch.manual_seed(0)
    cell = make(40, H).to(dtype)
    x, g = torch.randn(90, B, 40, dtype=dtype), torch.randn(90, B, H, dtype=dtype)
    threads, found = torch.get_num_threads(), []
    try:
        for n in (2, 2, 1, 3):
            torch.set_num_threads(n)
            tape = kernels.forward(cell, x, x.new_zeros(B, cell.state_size))
            grads = kernels.gradients(cell, tape, g)
            found.append(([tape.s, *tape.saved, grads.x, grads.s_0], list(grads.weights.values())))
    finally:
        torch.set_num_threads(threads)
    for rows, weights in found[1:]:
        assert all(map(torch.equal, found[0][0], rows))
        for one, other in zip(found[0][1], weights, strict=True):
            bound = 1e-5 if dtype == torch.float32 else 1e-13
            assert (one - other).norm() <= bound * one.norm()
    assert all(map(torch.equal, found[0][1], found[1][1]))


@needs_native
def test_several_threads_at_once():
    torch.manual_seed(0)
    cell = GRU(4, 40)
    x = torch.randn(30, 6, 4)
    want = kernels.forward(cell, x, x.new_zeros(6, 40)).s
    wrong = []

    def work():
        for _ in range(20):
            if not torch.equal(kernels.forward(cell, x, x.new_zeros(6, 40)).s, want):
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@needs_native
def test_one_openmp_library_in_the_process():
    run(Elman(2, 3), T=4, B=8)
    loaded = {path for path in native._loaded("omp") if "gomp" in path or "iomp" in path}
    assert len(loaded) <= 1 or native.library().pool in loaded


@needs_native
def test_norms_neither_overflow_nor_underflow():
    cell = Elman(1, 64, "identity", dtype=torch.float64)
    with torch.no_grad():
        cell.weight_hh.copy_(torch.eye(64))
    tape = kernels.forward(cell, torch.zeros(3, 1, 1).double(), torch.zeros(1, 64).double())
    for size in (1e-300, 1e-170, 1.0, 1e200, 1e306):
        g = torch.zeros(1, 3, 1, 64, dtype=torch.float64)
        g[0, 2] = size
        norms = kernels.losses(cell, tape, g).norms
        assert torch.allclose(norms / size, torch.full_like(norms, 8.0), rtol=1e-12, atol=0)
    small = Elman.over({n: w.float() for n, w in cell.weights().items()}, nonlinearity="identity")
    tape = kernels.forward(small, torch.zeros(3, 1, 1), torch.zeros(1, 64))
    for size in (1e-38, 1e-25, 1e25, 1e37):
        g = torch.zeros(1, 3, 1, 64)
        g[0, 2] = size
        norms = kernels.losses(small, tape, g).norms
        assert torch.allclose(norms / size, torch.full_like(norms, 8.0), rtol=1e-5, atol=0)


@needs_native
def test_the_losses_above_their_entry_are_exactly_zero():
    torch.manual_seed(0)
    cell = LSTM(3, 8)
    x = torch.randn(6, 2, 3)
    tape = kernels.forward(cell, x, x.new_zeros(2, 16))
    found = kernels.losses(cell, tape, torch.randn(6, 2, 8), enters=torch.arange(1, 7))
    above = torch.arange(7) > torch.arange(1, 7)[:, None]
    assert bool((found.norms[above] == 0).all()) and bool((found.norms[~above] > 0).all())


@needs_native
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda x, s: (x, s), ""),
        (lambda x, s: (x, None), ""),
        (lambda x, s: (x.double(), s), "dtype torch.float64"),
        (lambda x, s: (x.half(), s), "dtype torch.float16"),
        (lambda x, s: (x.to("meta"), s), "on meta"),
        (lambda x, s: (x, s.to_sparse()), "layout torch.sparse_coo"),
        (lambda x, s: (torch.func.functionalize(lambda y: y)(x), s), ""),
    ],
)
@pytest.mark.parametrize("cell", [Elman(2, 3), LSTM(2, 3), LSTM(2, 5, proj_size=3), Own(2, 3)])
def test_what_is_chosen_is_what_choice_says_and_why(cell, change, why):
    tensors = change(torch.zeros(5, 3, 2), torch.zeros(3, cell.state_size))
    engine = kernels.choose.choose(cell, *tensors)
    assert kernels.last_choice() == kernels.choice(cell, *tensors)
    assert engine.name == kernels.choice(cell, *tensors).name
    if type(cell) is not Own and not getattr(cell, "projected", False):
        assert (engine.name == "native") == (why == "")
        assert why in kernels.last_choice().reason


@needs_native
def test_the_quick_decision_sees_what_vmap_hides():
    seen, cell = [], Elman(2, 3)

    def one(x):
        seen.append(kernels.choose.choose(cell, x).name)
        return x

    torch.func.vmap(one)(torch.zeros(4, 5, 3, 2))
    assert seen == ["reference"]
    assert "vmap" in kernels.last_choice().reason


@needs_native
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        (tt.LSTM, ((20, 6), (20, 4), (19, 5))),
        (tt.GRU, ((15, 6), (15, 4), (12, 5))),
        (tt.RNN, ((5, 6), (5, 4), (4, 5))),
    ],
)
def test_a_recurrent_weight_of_other_sizes_never_reaches_native_code(kind, sizes):
    x = torch.zeros(7, 4, 3)
    for size in sizes:
        given, written = kind(3, 5), kind(3, 5)
        given.weight_hh_l0 = torch.nn.Parameter(torch.zeros(size))
        written(x)  # its cell is kept
        written.weight_hh_l0.data = torch.zeros(size)
        over = tt.Recurrent(tt.layers.directions.cell_of(kind(3, 5), "l0"))
        over.cell.weight_hh.data = torch.zeros(size)
        for layer in (given, written, over):
            with pytest.raises(ShapeError, match="weight_hh"):
                layer(x)


def test_only_a_cell_has_a_choice():
    with pytest.raises(tt.errors.InputTypeError, match="last_choice"):
        kernels.choice(tt.LSTM(3, 5))


@needs_native
def test_bools_where_numbers_belong_never_reach_native_code():
    cell, T, B = GRU(2, 3), 5, 3
    x, s_0 = torch.zeros(T, B, 2), torch.zeros(B, 3)
    mask, g = torch.ones(T, B, dtype=torch.bool), torch.zeros(1, T, B, 3)
    tape = kernels.forward(cell, x, s_0)
    for call in (
        lambda: kernels.forward(cell, x.bool(), s_0),
        lambda: kernels.forward(cell, x, s_0.bool()),
        lambda: kernels.forward(cell, x, s_0, None, mask.float()),
        lambda: kernels.forward(cell, x, s_0, torch.ones(T + 3, B, dtype=torch.bool)),
        lambda: kernels.backward(cell, tape, g.bool()),
        lambda: kernels.backward(cell, tape, g, torch.zeros(1, B, 3).bool()),
    ):
        with pytest.raises(ThroughTimeError):
            call()
