"""Steps of cells of others on a GPU, without one: seen, recorded and replayed one by one."""

from __future__ import annotations

import pytest
import torch
from tests.oracles.on_gpu import (
    F64,
    B,
    H,
    I,
    Own,
    T,
    by_reference,
    gpu,
    problem,
    same,
    with_a_function,
)

import throughtime as tt
from throughtime import kernels, sweep
from throughtime.cells import GRU, LSTM, Elman, Function, MinGRU
from throughtime.kernels.gpu import fused, replayed_steps
from throughtime.kernels.gpu.fused import FUSED

__all__ = ["gpu"]


@pytest.fixture
def no_kernel(gpu, monkeypatch):
    monkeypatch.setattr(fused, "_no_kernel", lambda device: "triton is not installed.")


def test_the_steps_of_an_own_cell_are_replayed_once_two_were_seen_to_be_alike(gpu):
    cell = Own()
    given, g, delta_T = problem(cell)
    tape = FUSED.forward(cell, *given)
    assert (gpu.recorded, gpu.replayed) == (1, T - 2)
    want = by_reference("forward", cell, *given)
    same((tape.s, *tape.saved), (want.s, *want.saved))
    same(FUSED.backward(cell, want, g, delta_T), sweep.backward(cell, want, g, delta_T))
    assert (gpu.recorded, gpu.replayed) == (2, 2 * (T - 2))
    FUSED.forward(cell, *given)  # the recording is known
    assert (gpu.recorded, gpu.replayed) == (2, 3 * (T - 2))


@pytest.mark.parametrize("small", [True, False])
def test_losses_that_join_one_by_one_are_one_shape_where_they_are_small(small, gpu, monkeypatch):
    cell = Own()
    given, g, _ = problem(cell)
    tape = sweep.forward(cell, *given)
    if not small:
        monkeypatch.setattr(replayed_steps, "SMALL", 0)
    wanted = {"enters": torch.arange(1, T + 1), "deltas": True, "adjoints": True}
    wanted["floors"] = torch.arange(T) // 2
    found = FUSED.losses(cell, tape, g[0], **wanted)
    assert gpu.replayed == (T - 2 if small else 0)
    same(found, by_reference("losses", cell, tape, g[0], **wanted))


def change_attribute(cell):
    cell.gain = 0.5


def change_buffer(cell):
    cell.shift = torch.full((H,), -1.0, dtype=F64)


def change_in_place(cell):
    cell.shift.mul_(-2)


def change_weight(cell):
    cell.W = torch.nn.Parameter(-cell.W.detach().clone())


@pytest.mark.parametrize(
    "change", [change_attribute, change_buffer, change_in_place, change_weight]
)
def test_a_recording_is_not_taken_for_a_step_that_is_another(change, gpu):
    cell = Own()
    given, g, _ = problem(cell)
    for _ in range(2):
        tape = FUSED.forward(cell, *given)
        want = sweep.forward(cell, *given)
        same((tape.s,), (want.s,))
        same(FUSED.backward(cell, want, g), sweep.backward(cell, want, g))
        change(cell)


class Looks(Own):
    def step(self, a_t, s_prev):
        return super().step(a_t, s_prev) if float(s_prev.sum()) > 0 else super().step(a_t, -s_prev)


def test_a_step_that_cannot_be_recorded_runs_as_ever_and_it_is_said(gpu):
    cell = Looks()
    given, _, _ = problem(cell)
    tape = FUSED.forward(cell, *given)
    assert "looks at the values" in kernels.last_choice().reason and gpu.recorded == 0
    same((tape.s,), (sweep.forward(cell, *given).s,))


# --- The choice, and what it is chosen for ------------------------------------------------------


def test_on_a_gpu_the_best_there_is_runs_and_says_so(gpu):
    for cell in (Own(), MinGRU(I, H), LSTM(I, H, proj_size=2), Elman(I, H, "sigmoid")):
        chosen = kernels.choice(cell)
        assert (chosen.name == "fused") == (type(cell) is not LSTM)
    assert "CUDA graph" in kernels.choice(Own()).reason
    layer = tt.GRU(I, H)
    with tt.trace(layer):
        layer(torch.randn(T, B, I))
    assert kernels.last_choice().name == "fused"


def test_without_triton_it_falls_back_and_says_why(no_kernel):
    cell = GRU(I, H, dtype=F64)
    given, g, _ = problem(cell)
    tape = sweep.forward(cell, *given)
    enters = torch.arange(1, T + 1)
    found = FUSED.losses(cell, tape, g[0], enters=enters)
    assert "triton is not installed" in kernels.last_choice().reason
    same(found, by_reference("losses", cell, tape, g[0], enters=enters))


def test_on_a_cpu_nothing_of_it_runs():
    assert kernels.choice(Own()).name == "reference"
    with kernels.use("reference"):
        assert kernels.choice(GRU(I, H)).name == "reference"


WEIGHT = {"GRU": "weight_hh", "own": "W", "Function": "W"}


@pytest.mark.parametrize("kind", WEIGHT)
def test_a_flow_there_is_that_of_the_reference(kind, no_kernel):
    torch.manual_seed(0)
    step = lambda x, s, W: torch.tanh(x @ W[:I] + s @ W[I:])  # noqa: E731
    layer = {
        "GRU": lambda: tt.GRU(I, H, dtype=F64), "own": lambda: tt.Recurrent(Own()),
        "Function": lambda: tt.Recurrent(
            Function(step, I, H, weights={"W": torch.randn(I + H, H, dtype=F64)})
        ),
    }[kind]()  # fmt: skip
    x = torch.randn(T, B, I, dtype=F64)

    def measured():
        with tt.trace(layer) as traced:
            losses = layer(x)[0].square().mean((1, 2))
        flow = traced.flow(losses)
        (one,) = (flow[name] for name in flow)
        assert one.first_nonfinite is None
        return one.norms, one.adjoint(1), one.total_norms, one.weight_grad(WEIGHT[kind])

    got = measured()
    assert kernels.last_choice().name == "fused"
    with kernels.use("reference"):
        want = measured()
    same(got, want, 1e-11)


# --- Function's backward pass, and rtrl --------------------------------------------------------


def test_the_blocks_of_a_function_are_replayed(gpu, monkeypatch):
    cell, (given, g, delta_T) = with_a_function(32)
    tape = sweep.forward(cell, *given)
    want = by_reference("gradients", cell, tape, g[0], delta_T[0])
    way = fused._BLOCKS.way._replace(block_bytes=8 * tape.s[0].nbytes)
    monkeypatch.setattr(fused._BLOCKS, "way", way)
    found = FUSED.gradients(cell, tape, g[0], delta_T[0])
    assert (gpu.recorded, gpu.replayed) == (1, 3)  # of four blocks
    same((found.x, found.s_0, found.weights["W"]), (want.x, want.s_0, want.weights["W"]))
    again = FUSED.gradients(with_a_function(32)[0], tape, g[0], delta_T[0])  # another, of one kind
    assert (gpu.recorded, gpu.replayed) == (1, 7)
    same((again.x,), (want.x,))
    assert kernels.choice(cell).name == "fused"


def test_many_losses_through_a_function_are_replayed_by_steps(gpu):
    cell, (given, g, delta_T) = with_a_function(T)
    tape = sweep.forward(cell, *given)
    found = FUSED.backward(cell, tape, g, delta_T)
    assert gpu.replayed == T - 2
    same(found, sweep.backward(cell, tape, g, delta_T))
