"""Triton's kernels against the reference in float64: in the interpreter, or on a GPU."""

from __future__ import annotations

import pytest
import torch
from tests.oracles.captured import Again
from tests.oracles.mutants import changed
from tests.oracles.together import run_together

import throughtime as tt
from throughtime import kernels
from throughtime.cells import GRU, LSTM, Elman
from throughtime.errors import UnsupportedError
from throughtime.kernels.comparison import check_kernel, term_error
from throughtime.kernels.gpu import resident, tiling
from throughtime.kernels.gpu.engine import TRITON
from throughtime.kernels.gpu.triton_language import INTERPRETED
from throughtime.replays import Replays, graphs
from throughtime.testing import assert_close

pytest.importorskip("triton", reason="triton is not installed")
pytestmark = pytest.mark.skipif(bool(TRITON.missing()), reason=TRITON.missing() or "it is there")

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
CELLS = {
    "tanh": lambda H: Elman(3, H, dtype=F64),
    "relu": lambda H: Elman(3, H, "relu", dtype=F64),
    "sigmoid": lambda H: Elman(3, H, "sigmoid", dtype=F64),
    "identity": lambda H: Elman(3, H, "identity", dtype=F64),
    "lstm": lambda H: LSTM(3, H, dtype=F64),
    "gru": lambda H: GRU(3, H, dtype=F64),
}
GATED = ("tanh", "lstm", "gru")


def check(name: str, H: int, **options) -> dict[str, float]:
    # This seed draws rows that end early, and resets that come late enough to matter.
    given = {"T": 4, "B": 3, "V": 2, "dtype": F32, "span": "prefix", "resets": True, "seed": 3}
    given |= options
    return check_kernel(CELLS[name](H), engine="triton", **given)


@pytest.fixture(params=["whole", "steps", "resident"])
def way(request, monkeypatch):
    """Take a small shape by every kernel."""
    take(request.param, monkeypatch)
    return request.param


def take(way: str, monkeypatch, module=resident) -> list[int]:
    """Take any shape one way; for programs that meet, all at once, on three processors."""
    monkeypatch.setattr(tiling, "WAYS", [way, "steps"])
    if way != "resident" or not INTERPRETED:
        return []
    monkeypatch.setattr(tiling, "RESIDENT_DTYPES", {F32, F16, BF16})
    monkeypatch.setattr(tiling, "processors", lambda device: 3)
    return run_together(monkeypatch, module)


@pytest.mark.parametrize("name", CELLS)
def test_every_recurrence_by_every_kernel(name, way):
    check(name, 17)
    told = {"whole": "keeps it", "steps": "each step is one launch", "resident": "programs share"}
    reason = kernels.last_choice().reason
    assert told[way] in reason or kernels.last_choice().name != "triton"


@pytest.mark.skipif(not INTERPRETED, reason="it looks at the interpreter's programs")
@pytest.mark.parametrize(("name", "H", "B"), [("tanh", 130, 3), ("gru", 33, 17)])
def test_programs_that_share_the_columns_meet(name, H, B, monkeypatch):
    """Three of them, so that a group has the tiles of rows and the losses to itself."""
    ran = take("resident", monkeypatch)
    check(name, H, B=B, T=2)
    assert set(ran) == {3}


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU they meet, or the context ends")
def test_programs_that_cannot_meet_are_an_error_and_no_hang(monkeypatch):
    monkeypatch.setattr(tiling, "WAYS", ["resident"])
    monkeypatch.setattr(tiling, "processors", lambda device: 2)
    x = torch.randn(2, 1, 3, dtype=BF16)
    with kernels.use("triton"), pytest.raises(Exception, match="cannot meet"):
        kernels.forward(LSTM(3, 17, dtype=BF16), x, x.new_zeros(1, 34))


@pytest.mark.parametrize("name", GATED)
@pytest.mark.parametrize("H", [1, 3, 130])
def test_every_width(name, H):
    check(name, H, T=2, B=2, V=1 + (H < 130), resets=False, span="suffix")


@pytest.mark.parametrize(("T", "B", "V"), [(1, 1, 1), (1, 3, 2), (3, 1, 4), (2, 17, 1)])
def test_one_step_one_row_and_more_rows_than_a_tile(T, B, V, way):
    check("gru", 5, T=T, B=B, V=V, span="all", resets=False)


@pytest.mark.parametrize(("name", "dtype"), [("tanh", BF16), ("lstm", F16), ("gru", BF16)])
def test_half_precision_with_float32_state_and_sums(name, dtype, way):
    check(name, 17, dtype=dtype)


def test_a_state_is_not_rounded_from_step_to_step(way):
    """16 steps that each add 2⁻⁹ to 1: bfloat16 would stay at 1."""
    lstm = LSTM(1, 1, bias=False, dtype=BF16)
    with torch.no_grad():  # i = f = 1, g = tanh(x)
        lstm.weight_hh.zero_()
        lstm.weight_ih.copy_(torch.tensor([[2.0**14], [2.0**14], [1.0], [0.0]]))
    x = torch.full((16, 1, 1), 2.0**-9, dtype=BF16)
    with kernels.use("triton"):
        s = kernels.forward(lstm, x, torch.tensor([[0.0, 1.0]], dtype=BF16)).s
    assert float(s[-1, 0, 1]) == 1 + 16 * 2.0**-9


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("turn, name", list(enumerate(["identity", "relu", "lstm", "gru"])))
def test_what_is_not_finite_comes_out_where_torch_puts_it(turn, name, way):
    """Every cell meets NaN and infinity, and so does every kernel; the cells' code is the same."""
    bad = float("nan") if (turn % 2 == 0) == (way == "whole") else float("inf")
    cell = CELLS[name](5)
    x = torch.randn(3, 2, 3, dtype=F64)
    x[1, 1, 0] = bad
    s_0, g = torch.zeros(2, cell.state_size), torch.randn(1, 3, 2, cell.state_size)
    with kernels.use("reference"):
        want = kernels.forward(cell, x, s_0.double())
        back = kernels.backward(cell, want, g.double())
    cell = cell.float()
    with kernels.use("triton"):
        got = kernels.forward(cell, x.float(), s_0)
        mine = kernels.backward(cell, got, g)
    assert (bad == bad and name in GATED) or not bool(want.s.isfinite().all())
    pairs = zip((got.s, *got.saved, *mine), (want.s, *want.saved, *back), strict=True)
    assert all(term_error(a, b) < 1e-5 for a, b in pairs)


def test_rows_with_gaps_and_padding_that_is_not_finite():
    cell, x = LSTM(3, 5), torch.randn(4, 2, 3)
    active = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 1]], dtype=torch.bool)
    x[~active] = float("nan")
    found = []
    for name in ("triton", "reference"):
        with kernels.use(name):
            done = kernels.outputs(cell, x, None, active)
            grads = kernels.gradients(cell, done.tape, torch.ones(4, 2, 5))
        found.append([done.h, *done.finals, grads.x, grads.s_0, *grads.weights.values()])
    assert all(term_error(a, b) < 1e-5 for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", [tt.RNN, tt.LSTM, tt.GRU])
def test_a_layer_trains_and_its_flow_is_the_references(kind):
    layer, x = kind(3, 5), torch.randn(4, 2, 3)
    found = []
    for name in ("triton", "reference"):
        layer.zero_grad()
        with kernels.use(name), tt.trace(layer) as trace:
            losses = layer(x, lengths=[4, 2])[0].square().sum((1, 2))
            flow = trace.flow(losses)["l0"]
            losses.sum().backward()
            assert kernels.last_choice().name == name
        found.append([flow.norms, *(p.grad for p in layer.parameters())])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=1e-5)


def test_the_choice_says_what_was_counted():
    with kernels.use("triton"):
        small, large = (kernels.choice(LSTM(3, H, dtype=BF16)) for H in (128, 2048))
    assert "128 KiB" in small.reason and "one launch" in small.reason
    assert "32768 KiB" in large.reason and "each step is one launch" in large.reason


@pytest.mark.parametrize("error", ["shared memory", "too many blocks in cooperative launch"])
def test_a_program_that_does_not_fit_the_device_is_taken_by_steps(error, monkeypatch):
    from throughtime.kernels.gpu import bare

    def too_large(*_):
        raise bare.OutOfResources(1, 0, error) if "memory" in error else RuntimeError(error)

    monkeypatch.setattr(bare, "_TOO_LARGE", set())
    monkeypatch.setitem(bare._FORWARD, "whole", too_large)
    check("tanh", 3)
    assert len(bare._TOO_LARGE) == 1


def test_any_other_error_of_a_launch_is_raised(monkeypatch):
    from throughtime.kernels.gpu import bare

    def broken(*_):
        raise RuntimeError("no context")

    monkeypatch.setattr(bare, "_TOO_LARGE", set())
    monkeypatch.setitem(bare._FORWARD, "whole", broken)
    with pytest.raises(RuntimeError, match="no context"):
        check("tanh", 3)
    assert not bare._TOO_LARGE


@pytest.mark.parametrize("name", GATED)
def test_launches_that_are_replayed_give_what_they_gave(name, monkeypatch):
    """As on a GPU, with a recording that does the work anew over the inputs it was given."""
    from throughtime.kernels.gpu import bare

    take("steps", monkeypatch)
    monkeypatch.setattr(graphs, "RECORDER", [Again()])
    replays, run = Replays(), bare._run

    def recorded(what, ways, inputs):
        key = (*what, "again")
        for _ in range(2):
            found = replays.run(key, lambda *t: ways["steps"](*what, *t), inputs).tensors
        assert all(
            a is b is None or torch.equal(a, b)
            for a, b in zip(found, run(what, ways, inputs), strict=True)
        )
        return found

    monkeypatch.setattr(bare, "_run", recorded)
    cell, x = CELLS[name](3).float(), torch.randn(2, 2, 3)
    with kernels.use("triton"):
        tape = kernels.forward(cell, x, x.new_zeros(2, cell.state_size))
        kernels.gradients(cell, tape, torch.ones(2, 2, 3))


def test_what_has_no_kernel_says_so():
    x = torch.zeros(3, 2, 3)
    for cell, why in (
        (LSTM(3, 5, proj_size=2), "no compiled kernel"),
        (LSTM(3, 5, dtype=F64), "float64"),
        (tt.cells.MinGRU(3, 5), "no compiled kernel"),
    ):
        with kernels.use("triton"), pytest.raises(UnsupportedError, match=why):
            kernels.forward(cell, x.to(cell.weight_ih.dtype), x.new_zeros(2, cell.state_size))


MUTANTS = [
    # file, what is replaced, by what, and the recurrence that shows it
    ("arithmetic", "c = f * c + i * g", "c = f * c + i * f", "lstm"),
    ("arithmetic", "q = sigmoid(a0 + p0), sigmoid(a1 + p1), p2 + bias",
     "q = sigmoid(a0 + p0), sigmoid(a1 + p1), p2", "gru"),
    ("arithmetic", "return a_r, a_z, a_n, a_n, a_n * r", "return a_r, a_z, a_n, a_n, a_n", "gru"),
    ("arithmetic", "d * f\n", "d\n", "lstm"),
    ("arithmetic", "tl.where(kept, direct, 0.0)", "direct", "lstm"),
    ("arithmetic", "direct, 0.0), delta)", "direct, 0.0), 0.0)", "tanh"),
    ("arithmetic", "inside & (col + H < G)", "inside & (col < G)", "lstm"),
    ("arithmetic", "tanh_c * tanh_c", "tanh_c", "lstm"),
    ("whole", "h, c = tl.where(kept, h, 0.0), tl.where(kept, c, 0.0)", "pass", "lstm"),
    ("whole", "new, new_c = tl.where(takes, new, h), tl.where(takes, new_c, c)", "pass", "tanh"),
    ("whole", "through = takes & kept", "through = takes", "gru"),
    ("whole", "end = tl.maximum(floor, 1)", "end = 1", "tanh"),
    ("whole", "arrives = inside & (j * 0 + t == last)", "arrives = inside", "tanh"),
    ("whole", "+ t) * rows + row, tile_norm(h, c", "+ t) * rows + row, tile_norm(c, c", "tanh"),
    ("whole", "(T + 1) * rows + row, tile_norm(h, c", "(T + 1) * rows + row, tile_norm(c, c",
     "tanh"),
    ("whole", "H, inside, takes, a0", "H, inside, inside, a0", "tanh"),
    ("stepwise", "H, live, takes & kept, a0", "H, live, takes, a0", "gru"),
    ("stepwise", "h = tl.where(takes, new, h)", "h = new", "tanh"),
    ("stepwise", "inside & (j * 0 + t <= last) & (j * 0 + t >= floor)",
     "inside & (j * 0 + t <= last)", "tanh"),
    ("stepwise", "h = load_tile(carry + at_s, inside & kept)",
     "h = load_tile(carry + at_s, inside)", "gru"),
    ("stepwise", "arrives = live & (j * 0 + t == last)", "arrives = live", "lstm"),
    # Who begins a step before all others have ended the one before.
    ("resident", "(t - 1) * tl.num_programs(0)", "(t - 2) * tl.num_programs(0)", "lstm"),
    ("resident", "back * tl.num_programs(0)", "(back - 1) * tl.num_programs(0)", "gru"),
    # Who writes what another still reads.
    ("resident", "through + (1 - t % 2) * half", "through + (t % 2) * half", "gru"),
    ("resident", "p1, p3 = tl.split(odd)", "p3, p1 = tl.split(odd)", "lstm"),
    ("resident", "mine == gate", "mine >= gate", "gru"),
    ("resident", "(t <= last) & (t >= floor)", "t <= last", "lstm"),
    ("resident", "takes & kept, a0, a1, b2", "takes & kept, a0, a1, a2", "gru"),
    ("resident", "mask=kept & (k < H)", "mask=exists[None, :] & (k < H)", "lstm"),
    ("resident", "norm = tile_norm(tl.where(inside, h, 0.0), c, CELL)",
     "norm = tile_norm(c, c, CELL)", "lstm"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's
@pytest.mark.parametrize(("file", "old", "new", "name"), MUTANTS)
def test_a_mutant_is_noticed(file, old, new, name, tmp_path, monkeypatch):
    from throughtime.kernels.gpu import bare, whole

    module = changed(f"throughtime.kernels.gpu.{file}", old, new, tmp_path)
    for public in module.__all__:
        monkeypatch.setattr(
            whole if file == "arithmetic" else bare, public, getattr(module, public), raising=False
        )
    ways = {"stepwise": "steps", "resident": "resident"}
    take(ways.get(file, "whole"), monkeypatch, module if file == "resident" else resident)
    with pytest.raises(AssertionError, match="relative errors"):
        check(name, 17 if file == "resident" else 3)
