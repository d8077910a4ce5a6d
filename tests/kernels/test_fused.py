"""Single steps on a GPU, without one: a CPU passes for it, and recordings are replayed there."""

from __future__ import annotations

import gc
import importlib.util
import weakref

import pytest
import torch
from tests.oracles.captured import Captured, Launched, Recorder

import throughtime as tt
from throughtime import kernels, replays, sweep, torch_state
from throughtime.cells import (
    GRU,
    LSTM,
    AbstractCell,
    Elman,
    Function,
    LayerNormLSTM,
    Leaky,
    MinGRU,
    PeepholeLSTM,
    RefineLSTM,
)
from throughtime.kernels.check import term_error
from throughtime.kernels.cpu.engine import NATIVE
from throughtime.kernels.gpu import fused, swept
from throughtime.kernels.gpu.fused import FUSED
from throughtime.norms import vector_norm
from throughtime.replays import graphs

F64 = torch.float64
T, B, I, H = 9, 2, 2, 3
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
GATED = {
    "tanh": lambda: Elman(I, H),
    "relu": lambda: Elman(I, H, "relu"),
    "identity": lambda: Elman(I, H, "identity"),
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
def gpu(monkeypatch):
    """Let the CPU pass for a GPU, where recordings are made as a capture would be."""
    recorder = Recorder()
    monkeypatch.setattr(torch_state, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(NATIVE, "obstacle", lambda cell, demand: "it is for CPUs.")
    monkeypatch.setattr(graphs.REPLAYS, "record", recorder)
    monkeypatch.setattr(graphs.REPLAYS, "_known", type(graphs.REPLAYS._known)())
    return recorder


@pytest.fixture
def kernel(gpu, monkeypatch):
    """Let the kernel of a step back run in Triton's interpreter."""
    launched = Launched(swept.step_back)
    monkeypatch.setattr(swept, "step_back", launched)
    monkeypatch.setattr(fused, "_no_kernel", lambda device: "")
    return launched


@pytest.fixture
def no_kernel(gpu, monkeypatch):
    monkeypatch.setattr(fused, "_no_kernel", lambda device: "triton is not installed.")


def problem(cell: AbstractCell, seed: int = 0, steps: int = T, ragged: bool = True):
    draw = torch.Generator().manual_seed(seed)
    new = {"generator": draw, "dtype": F64}
    x, s_0 = torch.randn(steps, B, I, **new), torch.randn(B, cell.state_size, **new)
    active = torch.arange(steps)[:, None] < torch.tensor([steps, steps // 2])
    reset = (torch.rand(steps, B, generator=draw) < 0.3) & active
    masks = (active, reset) if ragged else (None, None)
    g, delta_T = torch.randn(2, steps, B, H, **new), torch.randn(2, B, cell.state_size, **new)
    return (x, s_0, *masks), g[..., : cell.hidden_size], delta_T


def same(got, want, within: float = 1e-12) -> None:
    for a, b in zip(got, want, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert term_error(a, b) < within


def by_reference(verb, *args, **options):
    with kernels.use("reference"), torch.no_grad():
        return getattr(kernels, verb)(*args, **options)


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
@pytest.mark.parametrize("name", ["gru", "lstm"])
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
def test_losses_between_their_entries_and_their_floors(name, ragged, kernel):
    cell = GATED[name]().double()
    given, g, _ = problem(cell, 1, steps=4, ragged=ragged)
    g[1, 2:] = 0
    with torch.no_grad():
        tape = sweep.forward(cell, *given)
        for direct, bounds in (
            (g[0], {"enters": torch.tensor([1, 2, 3, 4])}),
            (g[0], {"enters": torch.tensor([4, 0, 2]), "floors": torch.tensor([2, 0, 1])}),
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
        got, want = take(problem(cell, seed, steps=3))
        same(got, want)
    assert gpu.recorded > 0 and gpu.replayed == 2 * gpu.recorded


@needs_triton
@pytest.mark.parametrize("name", ["gru", "peephole"])
def test_a_sweep_back_is_recorded_the_second_time(name, kernel, gpu):
    cell = GATED[name]().double()
    enters = torch.arange(1, 4)

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


def test_a_large_sweep_is_not_recorded(gpu, monkeypatch):
    from throughtime.kernels.gpu import replaying

    monkeypatch.setattr(replaying.replays, "MOST_BYTES", 100)
    cell = GRU(I, H, dtype=F64)
    for _ in range(3):
        FUSED.forward(cell, *problem(cell)[0])
    assert gpu.recorded == 0


# --- Cells of others, by steps -----------------------------------------------------------------


class Own(AbstractCell):
    """A cell with a vjp of its own, an attribute and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.state_size, self.preact_size = I, H, H, H
        self.W = torch.nn.Parameter(torch.randn(H, H, dtype=F64) / 2)
        self.U = torch.nn.Parameter(torch.randn(H, I, dtype=F64))
        self.gain = 0.9
        self.register_buffer("shift", torch.ones(H, dtype=F64))

    def drive(self, x):
        return x @ self.U.T

    def step(self, a_t, s_prev):
        h = self.gain * torch.tanh(a_t + s_prev @ self.W.T + self.shift)
        return h, (h,)

    def vjp(self, saved, delta):
        (h,) = saved
        adjoint = delta * (self.gain - h * h / self.gain)
        return adjoint @ self.W, adjoint

    def param_grads(self, tape, adjoints):
        flat = adjoints.flatten(0, 1)
        return {"W": flat.T @ tape.s_prev().flatten(0, 1), "U": flat.T @ tape.x.flatten(0, 1)}

    def input_grad(self, adjoints):
        return adjoints @ self.U


def test_the_steps_of_an_own_cell_are_replayed_from_the_third_on(gpu):
    cell = Own()
    given, g, delta_T = problem(cell)
    tape = FUSED.forward(cell, *given)
    assert (gpu.recorded, gpu.replayed) == (1, T - 1)
    want = sweep.forward(cell, *given)
    same((tape.s, *tape.saved), (want.s, *want.saved))
    same(FUSED.backward(cell, want, g, delta_T), sweep.backward(cell, want, g, delta_T))
    assert (gpu.recorded, gpu.replayed) == (2, 2 * (T - 1))
    FUSED.forward(cell, *given)  # the recording is known: all but the first step
    assert (gpu.recorded, gpu.replayed) == (2, 3 * (T - 1))


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


class Draws(Own):
    def step(self, a_t, s_prev):
        return super().step(a_t + 0 * torch.rand(H, dtype=F64), s_prev)


class Writes(Own):
    def step(self, a_t, s_prev):
        self.shift.add_(0.1)
        return super().step(a_t, s_prev)


class FromPython(Own):
    def step(self, a_t, s_prev):
        return super().step(a_t + torch.tensor([1.0, 2.0, 3.0], dtype=F64), s_prev)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Looks, "looks at the values"), (Draws, "draws random numbers"),
        (Writes, "writes into a tensor"), (FromPython, "tensor of Python's numbers"),
    ],
)  # fmt: skip
def test_a_step_that_cannot_be_recorded_runs_as_ever_and_it_is_said(kind, why, gpu):
    cell = kind()
    given, _, _ = problem(cell)
    shift = cell.shift.clone()
    tape = FUSED.forward(cell, *given)
    assert why in kernels.last_choice().reason and gpu.recorded == 0
    cell.shift.copy_(shift)
    same((tape.s,), (sweep.forward(cell, *given).s,))


def test_recordings_are_freed_with_the_cell(gpu):
    cell = Own()
    FUSED.forward(cell, *problem(cell)[0])
    known = replays.steps._KNOWN
    there = len(known)
    gone = weakref.ref(cell)
    del cell
    gc.collect()
    assert gone() is None and len(known) < there


def test_what_a_capture_would_refuse_is_refused_here():
    for work in (
        lambda a: (a * float(a.sum()),), lambda a: (a[a > 0],), lambda a: (torch.rand_like(a),),
        lambda a: (a + torch.tensor([1.0]),),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match="not permitted"), Captured():
            work(torch.ones(3))


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


def with_a_function(steps: int):
    torch.manual_seed(1)
    W = torch.randn(I + H, H, dtype=F64)
    cell = Function(lambda x, s, W: torch.tanh(x @ W[:I] + s @ W[I:]), I, H, weights={"W": W / 2})
    return cell, problem(cell, steps=steps)


def test_the_blocks_of_a_function_are_replayed(gpu, monkeypatch):
    from throughtime.kernels.plain import blocks

    cell, (given, g, delta_T) = with_a_function(32)
    tape = sweep.forward(cell, *given)
    want = by_reference("gradients", cell, tape, g[0], delta_T[0])
    monkeypatch.setattr(blocks, "GPU_BLOCK_BYTES", 8 * tape.s[0].nbytes)
    found = FUSED.gradients(cell, tape, g[0], delta_T[0])
    assert (gpu.recorded, gpu.replayed) == (1, 3)  # of four blocks
    same((found.x, found.s_0, found.weights["W"]), (want.x, want.s_0, want.weights["W"]))
    assert kernels.choice(cell).name == "fused"


def test_many_losses_through_a_function_are_replayed_by_steps(gpu):
    cell, (given, g, delta_T) = with_a_function(T)
    tape = sweep.forward(cell, *given)
    found = FUSED.backward(cell, tape, g, delta_T)
    assert gpu.replayed == T - 1
    same(found, sweep.backward(cell, tape, g, delta_T))


@pytest.mark.parametrize("kind", ["gru", "own", "Function"])
def test_a_step_of_rtrl_is_replayed(kind, gpu):
    cell = {"gru": lambda: GRU(I, H, dtype=F64), "own": Own,
            "Function": lambda: with_a_function(T)[0]}[kind]()  # fmt: skip
    (x, s_0, _, reset), g, _ = problem(cell)

    def taken(tensor_is_on_gpu):
        torch_state.is_on_gpu = lambda tensor: tensor_is_on_gpu
        run = tt.rtrl(cell, x, lambda t, h: (g[0, t - 1] * h).sum(), s_0, lengths=[T, 4],
                      reset=reset)  # fmt: skip
        steps = list(run)
        return run, [step.grads[n] for step in steps for n in step.grads], run.total_s_0

    run, each, s_0_grad = taken(True)
    assert run.unrecorded == "" and gpu.replayed == T - 1
    want_run, want, want_s_0 = taken(False)
    assert "CPU" in want_run.unrecorded
    same([e.flatten() for e in each], [w.flatten() for w in want], 1e-11)
    same((s_0_grad,), (want_s_0,))


def test_a_replayed_rtrl_refuses_rows_that_depend_on_each_other(gpu):
    class Mixes(Own):
        def step(self, a_t, s_prev):
            return super().step(a_t, s_prev - s_prev.mean(0))

    x = torch.randn(T, B, I, dtype=F64)
    with pytest.raises(tt.errors.UnsupportedError, match="row by row"):
        list(tt.rtrl(Mixes(), x, lambda t, h: h.sum()))


class DrawsForRtrl(Draws):
    pass


def test_rtrl_of_a_step_that_draws_runs_as_ever(gpu):
    run = tt.rtrl(DrawsForRtrl(), torch.randn(T, B, I, dtype=F64), lambda t, h: h.sum())
    assert len(list(run)) == T and "random" in run.unrecorded and gpu.recorded == 0
