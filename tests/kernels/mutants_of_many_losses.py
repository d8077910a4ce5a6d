"""One line changed by which one loss is told from another must be noticed: V > 1, every kernel.

Not collected by itself, since a mutant takes seconds in Triton's interpreter:

    TRITON_INTERPRET=1 pytest tests/kernels/mutants_of_many_losses.py
"""

from __future__ import annotations

import pytest
import torch
from tests.oracles.mutants import changed
from tests.oracles.on_gpu import by_reference, gpu, needs_triton, problem, same

from throughtime import kernels, sweep
from throughtime.cells import GRU, LSTM, Elman
from throughtime.kernels.comparison import poisoned
from throughtime.kernels.gpu import bare, fused, sending, two_launches
from throughtime.kernels.gpu.fused import FUSED

from .test_fused import kernel
from .test_triton import check, take

__all__ = ["gpu", "kernel"]
pytestmark = needs_triton
PACKAGE = "throughtime.kernels.gpu"


# --- The kernels that `use("triton")` asks for -------------------------------------------------

WHOLE = [
    ("v = tl.program_id(1).to(tl.int64)", "v = tl.program_id(1).to(tl.int64) * 0", "tanh"),
    ("tl.load(enters + v)", "tl.load(enters)", "gru"),
    ("tl.load(floors + v)", "tl.load(floors)", "gru"),
    ("delta_T + v * rows * S + at_s, inside)", "delta_T + at_s, inside)", "tanh"),
    ("delta_T + v * rows * S + at_s + H", "delta_T + at_s + H", "lstm"),
    ("at_g = v * g_v + (t", "at_g = (t", "tanh"),
    ("norms + (v * (T + 1) + t) * rows + row", "norms + (v * T + t) * rows + row", "gru"),
    ("deltas + (v * (T + 1) + t) * rows * S + at_s, h", "deltas + t * rows * S + at_s, h", "gru"),
    (
        "deltas + (v * (T + 1) + t) * rows * S + at_s + H",
        "deltas + t * rows * S + at_s + H",
        "lstm",
    ),
    ("to = adjoints + (v * T + t - 1)", "to = adjoints + (t - 1)", "gru"),
    ("put(s_0 + v * rows * S + at_s, h", "put(s_0 + at_s, h", "tanh"),
    ("put(s_0 + v * rows * S + at_s + H", "put(s_0 + at_s + H", "lstm"),
    ("put(norms + v * (T + 1) * rows + row", "put(norms + row", "tanh"),
    ("put(deltas + v * (T + 1) * rows * S + at_s, h", "put(deltas + at_s, h", "tanh"),
    ("put(deltas + v * (T + 1) * rows * S + at_s + H", "put(deltas + at_s + H", "lstm"),
    ("if floor < 1:", "if True:", "tanh"),
]
STEPWISE = [
    ("v = tl.program_id(2).to(tl.int64)", "v = tl.program_id(2).to(tl.int64) * 0", "tanh"),
    ("tl.load(enters + v)", "tl.load(enters)", "gru"),
    ("tl.load(floors + v)", "tl.load(floors)", "gru"),
    ("own = v * rows * S + at_s", "own = at_s", "gru"),
    ("w, through + v * rows * A", "w, through", "gru"),
    ("store_gates(through_next + v * rows * A + at", "store_gates(through_next + at", "gru"),
    ("at_g = v * g_v + (t", "at_g = (t", "tanh"),
    ("to = adjoints + (v * T + t - 1)", "to = adjoints + (t - 1)", "gru"),
]
RESIDENT = [
    ("tl.load(enters + v)", "tl.load(enters)", "gru"),
    ("tl.load(floors + v)", "tl.load(floors)", "gru"),
    ("own = v * rows * S + at_s", "own = at_s", "gru"),
    ("share, left + v * rows * A", "share, left", "gru"),
    ("to = leaves + v * rows * A + at", "to = leaves + at", "gru"),
    ("at_g = v * g_v + (t", "at_g = (t", "tanh"),
    ("to = adjoints + (v * T + t - 1)", "to = adjoints + (t - 1)", "gru"),
    ("to = deltas + (v * (T + 1) + t)", "to = deltas + (v * T + t)", "gru"),
    ("own_norm = ((v * (T + 1) + t)", "own_norm = ((v * T + t)", "gru"),
    ("v = (tile // tiles)", "v = (tile // tiles * 0)", "gru"),
    ("range(group, V * tiles, groups", "range(group, tiles, groups", "lstm"),
    ("if t < last:", "if t < T:", "gru"),
]
WAYS = {"whole": WHOLE, "stepwise": STEPWISE, "resident": RESIDENT}
ALL = [(file, *row) for file, rows in WAYS.items() for row in rows]


@pytest.mark.parametrize(("file", "old", "new", "name"), ALL)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of what nobody has written
def test_in_the_kernels_of_a_sweep(file, old, new, name, tmp_path, monkeypatch):
    module = changed(f"{PACKAGE}.{file}", old, new, tmp_path)
    take("steps" if file == "stepwise" else file, monkeypatch, module)
    for public in module.__all__:
        monkeypatch.setattr(bare, public, getattr(module, public))
    many = {"H": 17, "B": 17} if file == "resident" else {"H": 3}
    with kernels.use("auto"), pytest.raises(AssertionError, match="relative errors"):
        check(name, V=3, **many)


# --- Two launches a step, for every cell with factors ------------------------------------------

KERNEL = [
    ("at_row, A, S = v * rows + b", "at_row, A, S = b", GRU),
    ("tl.load(enters + v)", "tl.load(enters)", GRU),
    ("tl.load(floors + v)", "tl.load(floors)", LSTM),
    ("above = now < last", "above = now < T", GRU),
    ("at_g = v * g_v + ", "at_g = ", GRU),
    ("at = ((v * (T + 1) + t) * rows + b) * S + j", "at = (t * rows + b) * S + j", LSTM),
    ("to = adjoints + ((v * T + t - 1)", "to = adjoints + ((t - 1)", Elman),
    ("to = norms + (v * (T + 1) + t)", "to = norms + (v * T + t)", Elman),
    ("t >= floor", "t > floor", Elman),
]
HOST = [
    ("two_launches", "return bisect_left(self.entries, t)",
     "return min(len(self.entries) - 1, bisect_left(self.entries, t + 1))", GRU),
    ("two_launches", "min(course.floors) - 1, -1)", "min(course.floors), -1)", GRU),
    ("two_launches", "range(max(course.entries)", "range(min(course.entries)", GRU),
    ("two_launches", "new, like = g.new_zeros if", "new, like = g.new_empty if", LSTM),
    ("two_launches", "0 if bound.lone else g.stride(0)", "g.stride(0)", GRU),
    ("two_launches", "t > min(course.floors):", "t > min(course.floors) + 1:", GRU),
    ("two_launches", "out=product[first:]", "out=product[: len(product) - first]", LSTM),
    ("sending", "part[back]", "part", GRU),
    ("sending", '("sent back", key, course, bound)', '("sent back", key, bound)', GRU),
    ("sending", "tuple(sorted_.floors.tolist())", "(0,) * V", Elman),
]  # fmt: skip


def judge(kind) -> None:
    """Send losses back between other entries and floors each time, twice, and compare."""
    cell = kind(2, 3).double()
    active = torch.arange(4)[:, None] < torch.tensor([4, 2])
    reset = torch.tensor([[0, 0], [0, 1], [1, 0], [0, 0]], dtype=torch.bool)
    courses = [([4, 2, 3], [1, 0, 2]), ([2, 4, 3], [1, 2, 1]), ([4, 4, 1], [2, 3, 0])]
    with torch.no_grad():
        for turn in range(2):
            given, g, delta_T = problem(cell, turn, steps=4)
            tape = sweep.forward(cell, *given[:2], active, reset)
            want = sweep.backward(cell, tape, g, delta_T)
            with poisoned():
                same(FUSED.backward(cell, tape, g, delta_T), want)
            three = torch.cat((g, g.flip(0)[:1] / 2))
            for enters, floors in courses:
                bounds = {"floors": torch.tensor(floors), "deltas": True, "adjoints": True}
                for direct, more in ((g[0], {"enters": torch.tensor(enters)}), (three, {})):
                    with poisoned():
                        found = FUSED.losses(cell, tape, direct, **bounds, **more)
                    same(found, by_reference("losses", cell, tape, direct, **bounds, **more))


@pytest.mark.parametrize("kind", [GRU, LSTM, Elman])
def test_what_is_unchanged_passes(kind, kernel):
    judge(kind)


@pytest.mark.parametrize(("old", "new", "kind"), KERNEL)
def test_in_the_kernel_of_a_step_back(old, new, kind, kernel, tmp_path):
    kernel.kernel = changed(f"{PACKAGE}.pointwise", old, new, tmp_path).step_back
    with pytest.raises(AssertionError):
        judge(kind)


@pytest.mark.parametrize(("file", "old", "new", "kind"), HOST)
def test_in_what_launches_it(file, old, new, kind, kernel, tmp_path, monkeypatch):
    module = changed(f"{PACKAGE}.{file}", old, new, tmp_path)
    if file == "sending":
        monkeypatch.setattr(fused, "_launch", lambda: module)
        monkeypatch.setattr(module, "send_losses", two_launches.send_losses)
    else:
        monkeypatch.setattr(module, "step_back", kernel)
        monkeypatch.setattr(sending, "send_losses", module.send_losses)
        monkeypatch.setattr(sending, "Course", module.Course)
    with pytest.raises((AssertionError, RuntimeError)):
        judge(kind)
