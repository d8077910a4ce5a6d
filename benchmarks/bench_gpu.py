"""A training step on a GPU: right first, then against cuDNN, torch without it, and a compiled loop.

Run: python benchmarks/bench_gpu.py [--out FOLDER] [--minutes 5]. It needs a GPU, and says so where
there is none. Rows are written to gpu.json and gpu.md as they come, so that a run that is cut short
leaves what it had. ``--dry`` runs all of it at tiny sizes on the CPU, in Triton's interpreter where
Triton is installed: its times mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if "--dry" in sys.argv:  # Triton reads it when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.kernels.check import term_error
from throughtime.testing import check_kernel

SIZES = [  # B, T, I, H; what is most telling comes first
    (64, 100, 128, 128),
    (64, 100, 256, 256),
    (64, 100, 512, 512),
    (16, 128, 1024, 1024),
    (8, 500, 64, 64),
]
DRY = [(2, 3, 2, 5), (2, 2, 3, 70)]
KINDS = ("GRU", "LSTM", "RNN")
PRECISIONS = ("bfloat16", "float32 with TF32", "float32")
BOUNDS = {"bfloat16": 0.1, "float16": 0.02, "float32": 2e-5}
# Every kernel is compiled when it is first used, for seconds: so not everything at every size.
CHECKED = [(17, "float32"), (128, "bfloat16"), (300, "bfloat16"), (130, "float32")]


class Table:
    """Rows, written to a JSON and a Markdown file whenever one is added."""

    def __init__(self, folder: Path, about: dict[str, Any], minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.about = folder, about
        self.rows: list[dict[str, Any]] = []
        self.until = time.monotonic() + 60 * minutes

    def late(self) -> bool:
        return time.monotonic() > self.until

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        print("  ".join(f"{k}: {shown(v)}" for k, v in row.items()), flush=True)
        told = {"about": self.about, "rows": self.rows}
        (self.folder / "gpu.json").write_text(json.dumps(told, indent=1), encoding="utf-8")
        (self.folder / "gpu.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        lines = [f"{key}: {value}  " for key, value in self.about.items()]
        for what in dict.fromkeys(row["table"] for row in self.rows):
            rows = [row for row in self.rows if row["table"] == what]
            keys = list(dict.fromkeys(key for row in rows for key in row if key != "table"))
            lines += ["", f"## {what}", "", f"| {' | '.join(keys)} |", "|---" * len(keys) + "|"]
            lines += [f"| {' | '.join(shown(row.get(key)) for key in keys)} |" for row in rows]
        return "\n".join(lines) + "\n"


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


class Clock:
    """Times and peak memory on a device; on a CPU the times are real and the memory is 0."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def least(self, call: Callable[[], object], rounds: int) -> tuple[float, float]:
        """Return the smallest time of a call in ms, and the most memory that it took in MB."""
        for _ in range(3 if self.on_gpu else 1):  # compiles, records, warms up
            call()
        self.wait()
        before = 0
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
        peak = torch.cuda.max_memory_allocated() - before if self.on_gpu else 0
        return 1e3 * min(times), peak / 2**20


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let cuDNN and the products use TF32, or not; torch's own default is cuDNN's alone."""
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = allowed
    try:
        yield
    finally:
        for flag, was in zip(flags, before, strict=True):
            flag.allow_tf32 = was


def right(table: Table, device: torch.device, dry: bool) -> bool:
    """Compare Triton's kernels with the float64 reference on the CPU, term by term."""
    with_triton = not tt.kernels.choose.TRITON.missing()
    fine = True
    for kind in KINDS:
        cell = getattr(tt.cells, "Elman" if kind == "RNN" else kind)
        for H, name in CHECKED[:2] if dry else CHECKED:
            row: dict[str, Any] = {"kind": kind, "H": 5 if dry else H, "dtype": name}
            row |= one_check(cell(3, row["H"]), device, getattr(torch, name), BOUNDS[name], dry)
            row["engine"] = "triton" if with_triton else "none: " + row.get("why", "")
            fine &= row["right"] in ("yes", "no Triton")
            table.add(table="Right, against float64 on the CPU", **row)
    return fine


def one_check(
    cell: Any, device: torch.device, dtype: torch.dtype, bound: float, dry: bool
) -> dict[str, Any]:
    missing = tt.kernels.choose.TRITON.missing()
    if missing:
        return {"right": "no Triton", "why": missing}
    T, B = (3, 2) if dry else (12, 33)
    if device.type == "cpu":
        try:
            found = check_kernel(
                cell.double(), engine="triton", dtype=dtype, T=T, B=B, V=2, span="prefix",
                resets=True, tolerance=bound,
            )  # fmt: skip
        except AssertionError as error:
            return {"right": f"NO: {error}"}
        return {"right": "yes", "largest error": max(found.values())}
    try:
        return on_device(cell, device, dtype, bound, T, B)
    except Exception as error:  # what does not compile or launch is a row too
        return {"right": f"NO: {type(error).__name__}: {str(error).splitlines()[0]}"}


def on_device(
    cell: Any, device: torch.device, dtype: torch.dtype, bound: float, T: int, B: int
) -> dict[str, Any]:
    """Run a ragged batch with resets on the device, and on the CPU in float64 with its numbers."""
    draw = torch.Generator().manual_seed(0)
    small = cell.to(dtype)
    x, g = (torch.randn(T, B, n, generator=draw).to(dtype) for n in (3, cell.hidden_size))
    active = torch.arange(T)[:, None] < torch.randint(0, T + 1, (B,), generator=draw)
    reset = (torch.rand(T, B, generator=draw) < 0.2) & active
    found = []
    for where, kind, engine in ((device, dtype, "triton"), ("cpu", torch.float64, "reference")):
        here = small.to(where, kind)
        masks = active.to(where), reset.to(where)
        with tt.kernels.use(engine), tf32(False):
            done = tt.kernels.outputs(here, x.to(where, kind), None, *masks)
            grads = tt.kernels.gradients(here, done.tape, g.to(where, kind))
            many = tt.kernels.losses(
                here, done.tape, g.to(where, kind), enters=torch.arange(1, T + 1, device=where)
            )
        weights = [w.flatten() for w in grads.weights.values()]
        # All of a quantity is one term: what cancels in a row of bfloat16 has no digits left.
        terms = [done.h, grads.x, grads.s_0, many.norms, *weights]
        found.append([term.detach().cpu().double().flatten() for term in terms])
    worst = max(term_error(a, b) for a, b in zip(*found, strict=True))
    return {"right": "yes" if worst <= bound else "NO", "largest error": worst}


def compiled_loop(kind: str, module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a loop over torch's cell, whose step is compiled; None where it cannot be."""
    cell = getattr(nn, f"{kind}Cell")(module.input_size, module.hidden_size)
    cell.load_state_dict({n[:-3]: w for n, w in module.state_dict().items()})
    weight = module.weight_ih_l0
    step = torch.compile(cell.to(weight.device, weight.dtype))

    def run(x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[1], module.hidden_size)
        s: Any = (h, h) if kind == "LSTM" else h
        out = []
        for x_t in x:
            s = step(x_t, s)
            out.append(s[0] if kind == "LSTM" else s)
        return torch.stack(out)

    run.parameters = list(cell.parameters())  # pyright: ignore[reportFunctionMemberAccess]
    return run


class Case:
    """One kind, size and precision, and the training steps that are compared."""

    def __init__(self, kind: str, size: tuple[int, ...], precision: str, device) -> None:
        self.kind, self.precision = kind, precision
        B, T, I, H = size
        self.dtype = getattr(torch, precision.split()[0])
        torch.manual_seed(0)
        like = {"device": device, "dtype": self.dtype}
        self.theirs = getattr(nn, kind)(I, H, **like)
        self.ours = getattr(tt, kind)(I, H, **like)
        self.ours.load_state_dict(self.theirs.state_dict())
        self.x = torch.randn(T, B, I, **like).requires_grad_()
        self.g = torch.randn(T, B, H, **like)
        self.lengths = torch.randint(1, T + 1, (B,))
        self.lengths[0] = T
        self.name = f"{kind} {size} {precision}"

    def step(self, run: Callable[..., Any], weights: Any, **options: Any) -> list[Tensor]:
        out = run(self.x, **options)
        out = out[0] if isinstance(out, tuple) else out
        return list(torch.autograd.grad(out, [*weights, self.x], self.g))

    def apart(self) -> float:
        """Return how far the gradients are from torch's, relative to each one's norm."""
        ours = self.step(self.ours, self.ours.parameters())
        theirs = self.step(self.theirs, self.theirs.parameters())
        pairs = zip(ours, theirs, strict=True)
        return max(float((a - b).double().norm() / b.double().norm()) for a, b in pairs)

    def packed(self) -> list[Tensor]:
        """Take torch's own way of rows that end early: packed."""
        packed = nn.utils.rnn.pack_padded_sequence(self.x, self.lengths, enforce_sorted=False)
        out = nn.utils.rnn.pad_packed_sequence(self.theirs(packed)[0])[0]
        return list(torch.autograd.grad(out, [*self.theirs.parameters(), self.x], self.g))


def measured(case: Case, clock: Clock, rounds: int, loop: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"case": case.name, "apart": case.apart()}
    own, weights = case.ours, list(case.ours.parameters())
    row["throughtime, ms"], row["MB"] = clock.least(lambda: case.step(own, weights), rounds)
    choice = tt.kernels.last_choice()
    row["engine"] = choice.name if choice else ""
    theirs, given = case.theirs, list(case.theirs.parameters())
    row["cuDNN, ms"], row["cuDNN, MB"] = clock.least(lambda: case.step(theirs, given), rounds)
    ragged = {"lengths": case.lengths}
    if case.dtype == torch.bfloat16:
        row["ragged, ms"], _ = clock.least(lambda: case.step(own, weights, **ragged), rounds)
        row["cuDNN packed, ms"], _ = clock.least(case.packed, rounds)
    with torch.backends.cudnn.flags(enabled=False):
        row["without cuDNN, ms"], _ = clock.least(lambda: case.step(theirs, given), min(rounds, 3))
    if loop:
        run = compiled_loop(case.kind, theirs)
        parameters = run.parameters  # pyright: ignore
        row["compiled loop, ms"], _ = clock.least(lambda: case.step(run, parameters), 3)
    return row


def training(table: Table, device: torch.device, sizes: list, rounds: int, loop: bool) -> None:
    clock = Clock(device)
    for size in sizes:
        for kind in KINDS:
            for precision in PRECISIONS if size == sizes[0] else PRECISIONS[:2]:
                if table.late():
                    table.add(table="Cut short", case=f"{kind} {size} {precision} and what follows")
                    return
                looped = loop and size == sizes[0] and precision != "float32 with TF32"
                with tf32("TF32" in precision):
                    case = Case(kind, size, precision, device)
                    try:
                        table.add(table="A training step", **measured(case, clock, rounds, looped))
                    except Exception as error:  # one case must not take the others along
                        told = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                        table.add(table="Failed", case=case.name, why=told)


def flows(table: Table, device: torch.device, dry: bool) -> None:
    """Time the (t, k) map of all pairs against T calls of autograd."""
    T, B, H = (3, 2, 3) if dry else (200, 16, 128)
    for kind in KINDS:
        layer = getattr(tt, kind)(H, H, device=device)
        x = torch.randn(T, B, H, device=device)

        def flow(layer=layer, x=x) -> None:
            with tt.trace(layer) as trace:
                losses = layer(x)[0].square().mean((1, 2))
            trace.flow(losses)

        def autograd(layer=layer, x=x) -> None:
            losses = layer(x)[0].square().mean((1, 2))
            for loss in losses:
                torch.autograd.grad(loss, layer.weight_hh_l0, retain_graph=True)

        clock = Clock(device)
        ours, other = clock.least(flow, 3)[0], clock.least(autograd, 1)[0]
        row = {
            "kind": kind,
            "T, B, H": (T, B, H),
            "flow, ms": ours,
            "T calls of autograd, ms": other,
        }
        table.add(table="The (t, k) map", **row)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=10)
    options.add_argument("--minutes", type=float, default=5, help="begin no case after these")
    options.add_argument("--out", type=Path, default=Path("gpu-results"))
    options.add_argument("--no-loop", action="store_true", help="leave the compiled loop out")
    options.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    given = options.parse_args()
    if not given.dry and not torch.cuda.is_available():
        print("There is no GPU here; nothing was measured.")
        return
    device = torch.device("cpu" if given.dry else "cuda")
    about = {
        "device": "a dry run on the CPU: times mean nothing" if given.dry else
        torch.cuda.get_device_name(),
        "torch": torch.__version__, "CUDA": torch.version.cuda, "python": platform.python_version(),
        "triton": tt.kernels.choose.TRITON.missing() or "there",
        "TF32": "named with each row; torch's own default is TF32 for cuDNN and not for products",
    }  # fmt: skip
    table = Table(given.out, about, given.minutes)
    if not right(table, device, given.dry):
        print("The kernels are wrong on this device: nothing is timed.")
        raise SystemExit(1)
    asked = tt.kernels.use("triton") if given.dry and about["triton"] == "there" else None
    sizes = DRY if given.dry else SIZES
    try:
        if given.dry or not table.late():
            # Early, since it is short and nothing else shows it.
            flows(table, device, given.dry)
        loop = not given.no_loop and not given.dry
        training(table, device, sizes, 1 if given.dry else given.rounds, loop)
    finally:
        if asked is not None:
            asked.__exit__()


if __name__ == "__main__":
    main()
