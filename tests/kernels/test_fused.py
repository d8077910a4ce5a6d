"""Whole sweeps on a GPU, without one: a CPU passes for it, and recordings are replayed there."""

from __future__ import annotations

import pytest
import torch
from tests.oracles.captured import Launched
from tests.oracles.on_gpu import F64, H, I, by_reference, gpu, needs_triton, problem, same

from throughtime import kernels, sweep
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
from throughtime.kernels.comparison import term_error
from throughtime.kernels.gpu import fused, two_launches
from throughtime.kernels.gpu.fused import FUSED
from throughtime.norms import vector_norm
from throughtime.replays import graphs

__all__ = ["gpu"]

GATED = {
    "tanh": lambda: Elman(I, H),
    "relu": lambda: Elman(I, H, "relu"),
    "leaky": lambda: Leaky(I, H, alpha=0.3, nonlinearity="sigmoid"),
    "gru": lambda: GRU(I, H),
    "lstm": lambda: LSTM(I, H),
    "peephole": lambda: PeepholeLSTM(I, H),
    "refine": lambda: RefineLSTM(I, H),
    "mingru": lambda: MinGRU(I, H),
}
OTHERS = {
    "projected": lambda: LSTM(I, H, proj_size=2),
    "normed": lambda: LayerNormLSTM(I, H),
}


@pytest.fixture
def kernel(gpu, monkeypatch):
    """Let the kernel of a step back run in Triton's interpreter."""
    launched = Launched(two_launches.step_back)
    monkeypatch.setattr(two_launches, "step_back", launched)
    monkeypatch.setattr(fused, "_no_kernel", lambda device: "")
    return launched


# --- The kernel of a step back ---------------------------------------------------------------


@needs_triton
@pytest.mark.parametrize("name", GATED)
def test_a_sweep_back_over_factors_is_that_of_vjp(name, kernel):
    cell = GATED[name]().double()
    given, g, delta_T = problem(cell, steps=3)
    with torch.no_grad():
        tape = sweep.forward(cell, *given)
        if name == "mingru":
            enters, floors = torch.tensor([3, 2, 3]), torch.tensor([0, 1, 2])
            some = {"enters": enters, "floors": floors, "deltas": True, "adjoints": True}
            found = FUSED.losses(cell, tape, g[0], **some)
            assert kernel.count == 4
            return same(found, by_reference("losses", cell, tape, g[0], **some))
        same(FUSED.backward(cell, tape, g, delta_T), sweep.backward(cell, tape, g, delta_T))
    assert kernel.count == 4  # T steps, and delta_0
    return None


@needs_triton
@pytest.mark.parametrize(("name", "ragged"), [("gru", True), ("lstm", False)])
def test_losses_between_their_entries_and_their_floors(name, ragged, kernel):
    cell = GATED[name]().double()
    given, g, _ = problem(cell, 1, steps=3, ragged=ragged)
    g[1, 2:] = 0
    with torch.no_grad():
        tape = sweep.forward(cell, *given)
        for direct, bounds in (
            (g[0], {"enters": torch.tensor([1, 2, 3])}),
            (g[0], {"enters": torch.tensor([3, 0, 2]), "floors": torch.tensor([2, 0, 1])}),
            (g, {"floors": torch.tensor([1, 0])}),
        ):
            wanted = {"norms": True, "deltas": True, "adjoints": True, **bounds}
            found = FUSED.losses(cell, tape, direct, **wanted)
            same(found, by_reference("losses", cell, tape, direct, **wanted))


@needs_triton
def test_norms_neither_overflow_nor_underflow_and_nan_stays_where_it_is(kernel):
    cell = GRU(I, H).double()
    given, g, _ = problem(cell, steps=2)
    for scale in (1e-200, 1e200):
        tape = sweep.forward(cell, *given)
        found = FUSED.losses(cell, tape, scale * g, deltas=True)
        assert found.deltas is not None and found.norms is not None
        assert term_error(found.norms, vector_norm(found.deltas)) < 1e-12
    weight = cell.weight_hh.detach()
    weight[0, 0] = float("nan")  # of the row whose second step is none the last delta is g alone
    tape = sweep.forward(cell, *given)
    found = FUSED.losses(cell, tape, g, deltas=True)
    same(found, by_reference("losses", cell, tape, g, deltas=True))


@needs_triton
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # NumPy's, of 0 * inf
def test_where_a_relu_is_shut_not_even_inf_passes(kernel):
    relu = Elman(I, H, "relu").double()
    given, g, _ = problem(relu, steps=2)
    tape, g = sweep.forward(relu, *given), g.fill_(float("inf"))
    found = FUSED.losses(relu, tape, g, deltas=True)
    same(found, by_reference("losses", relu, tape, g, deltas=True))


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_keeps_its_sums_in_float32(dtype, kernel):
    cell = LSTM(I, H)
    given, g, _ = problem(cell, steps=3, ragged=False)
    with torch.no_grad():
        low = cell.to(dtype)
        tape = sweep.forward(low, *(t if t is None else t.to(dtype) for t in given))
        found = FUSED.losses(low, tape, g.to(dtype))
        wide = LSTM(I, H, dtype=F64)
        wide.load_state_dict(low.state_dict())
        args = tape.x, tape.s, *tape.saved
        tape = type(tape)(args[0].double(), args[1].double(), tuple(a.double() for a in args[2:]))
        want = by_reference("losses", wide, tape, g.to(dtype).double())
    limit = 1e-5 if dtype == torch.float32 else 0.05
    assert found.norms.dtype == dtype and term_error(found.norms.double(), want.norms) < limit


# --- Whole sweeps, recorded --------------------------------------------------------------------


def replayed_alike(gpu, cell, take) -> None:
    """Take a sweep of a shape three times, with other numbers and weights each time."""
    for seed in range(3):
        with torch.no_grad():
            for weight in cell.weights().values():
                weight.copy_(torch.randn(weight.shape, dtype=F64) / 2)
        got, want = take(problem(cell, seed, steps=2))
        same(got, want)
    assert gpu.recorded > 0 and gpu.replayed == 2 * gpu.recorded


@needs_triton
def test_a_sweep_back_is_recorded_the_second_time(kernel, gpu):
    cell = GATED["peephole"]().double()
    enters = torch.tensor([1, 2])

    def take(drawn):
        given, g, _ = drawn
        tape = sweep.forward(cell, *given)
        wanted = {"enters": enters, "deltas": True, "adjoints": True}
        return FUSED.losses(cell, tape, g[0], **wanted), by_reference(
            "losses", cell, tape, g[0], **wanted
        )

    replayed_alike(gpu, cell, take)
    assert gpu.recorded == 1


@pytest.mark.parametrize("name", ["lstm", "leaky", "normed", "projected"])
def test_a_forward_sweep_of_the_packages_cells_is_recorded(name, gpu):
    cell = {**GATED, **OTHERS}[name]().double()

    def take(drawn):
        found, want = FUSED.forward(cell, *drawn[0]), by_reference("forward", cell, *drawn[0])
        return (found.s, *found.saved), (want.s, *want.saved)

    replayed_alike(gpu, cell, take)


@pytest.mark.parametrize("name", OTHERS)
def test_a_sweep_back_without_factors_is_recorded_in_plain_torch(name, gpu):
    cell = OTHERS[name]().double()

    def take(drawn):
        given, g, delta_T = drawn
        tape = sweep.forward(cell, *given)
        return FUSED.backward(cell, tape, g, delta_T), sweep.backward(cell, tape, g, delta_T)

    replayed_alike(gpu, cell, take)


def test_another_alpha_is_another_recording(gpu):
    for alpha in (0.2, 0.2, 0.2, 0.7, 0.7):
        cell = Leaky(I, H, alpha=alpha, dtype=F64)
        given = problem(cell)[0]
        same((FUSED.forward(cell, *given).s,), (sweep.forward(cell, *given).s,))
    assert gpu.recorded == 2


def test_a_large_sweep_is_not_recorded_and_it_is_said(gpu, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_BYTES", 100)
    cell = GRU(I, H, dtype=F64)
    for _ in range(3):
        FUSED.forward(cell, *problem(cell)[0])
    assert gpu.recorded == 0 and "would keep" in kernels.last_choice().reason


def test_a_sweep_whose_recording_fails_is_done_as_ever_and_it_is_said(gpu, monkeypatch):
    cell = GRU(I, H, dtype=F64)
    given = problem(cell)[0]
    monkeypatch.setattr(gpu, "record", lambda *_, **__: 1 / 0)
    for _ in range(3):
        same((FUSED.forward(cell, *given).s,), (sweep.forward(cell, *given).s,))
    assert "ZeroDivisionError" in kernels.last_choice().reason


def test_a_cell_whose_step_somebody_replaced_is_not_taken_for_the_packages(gpu):
    for _ in range(3):
        plain, cell = GRU(I, H, dtype=F64), GRU(I, H, dtype=F64)
        step = cell.step
        cell.step = lambda a, s, step=step: step(2 * a, s)
        for taken in (cell, plain):
            given = problem(taken, steps=3)[0]
            same((FUSED.forward(taken, *given).s,), (sweep.forward(taken, *given).s,))


@needs_triton
def test_the_kernel_is_launched_on_the_tensors_device_and_not_on_the_current_one(
    kernel, monkeypatch
):
    seen, real = [], torch.cuda.device_of
    monkeypatch.setattr(torch.cuda, "device_of", lambda t: seen.append(kernel.count) or real(t))
    cell = GRU(I, H, dtype=F64)
    given, g, _ = problem(cell, steps=2)
    with torch.no_grad():
        FUSED.backward(cell, sweep.forward(cell, *given), g)
    assert seen == [0] and kernel.count == 3
