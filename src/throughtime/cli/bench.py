"""`throughtime bench`: this machine's speed, side by side with torch.nn, losses and wins alike."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from .. import cells, kernels
from ..errors import FileError, InputValueError
from ..layers import GRU, LSTM, RNN
from .bench_page import Memory, Row, figure, page
from .terminal import notes, print_json, progress, results

__all__ = ["bench"]

SHAPES = (
    (1, 500, 64, 64), (8, 500, 128, 128), (32, 100, 64, 64), (32, 100, 128, 128),
    (64, 100, 256, 256), (16, 100, 512, 512), (128, 50, 128, 256), (20, 35, 200, 200),
    (8, 1000, 512, 512), (16, 128, 1024, 1024),
)  # fmt: skip
PAIRS = {"RNN": (RNN, nn.RNN, 1), "GRU": (GRU, nn.GRU, 3), "LSTM": (LSTM, nn.LSTM, 4)}
KINDS = {
    "train": "training step, float32",
    "train64": "training step, float64",
    "infer": "no gradient, float32",
    "packed": "training step, lengths 1…T, torch.nn on a PackedSequence",
    "padded": "training step, lengths 1…T, torch.nn on the padded batch",
    "map": "all (t, k) norms, torch.nn by one autograd call a loss",
}
MAP_SHAPE, SAMPLED = (16, 200, 128, 128), 8
CELLS: dict[str, Callable[..., cells.AbstractCell]] = {
    "RNN": partial(cells.Elman.over, nonlinearity="tanh"),
    "GRU": cells.GRU.over,
    "LSTM": cells.LSTM.over,
}
# A process of its own, because what was allocated before would hide a peak.
MEMORY = """
import importlib, sys
import torch
# VmHWM is this process's own; ru_maxrss begins at the parent's peak.
status = lambda: dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = lambda: int(status()["VmHWM"].split()[0]) / 1024
torch.set_num_threads(2)
layer = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])
small = layer(8, 8); small(torch.randn(4, 2, 8))[0].sum().backward()
model, x = layer(256, 256), torch.randn(200, 64, 256, requires_grad=True)
g = torch.randn(200, 64, 256)
before = peak()
for _ in range(2):
    model.zero_grad(); x.grad = None
    model(x)[0].backward(g)
print(peak() - before)
"""


def bench(
    out: Annotated[Path, typer.Option(help="Folder for RESULTS.md and results.svg.")] = Path(
        "benchmarks"
    ),
    seconds: Annotated[float, typer.Option(help="Time for each line.", min=0.1)] = 3.0,
    threads: Annotated[int, typer.Option(help="Threads for both sides.", min=1)] = 2,
    only: Annotated[
        str | None, typer.Option(help=f"Only these, separated by commas: {', '.join(KINDS)}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as JSON.")] = False,
) -> None:
    """Measure throughtime's layers against torch.nn on this machine.

    Both run in turn in one process, on the same weights and input; so does a plain matrix
    product, which tells what the machine gave at the time. Writes a table and a figure.

    Raises:
        FileError: the folder cannot be written.
        InputValueError: an unknown kind in ``only``.
    """
    kinds = tuple(only.split(",")) if only else tuple(KINDS)
    if unknown := set(kinds) - set(KINDS):
        raise InputValueError(
            f"--only must be of {', '.join(KINDS)}; got {', '.join(sorted(unknown))}."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "RESULTS.md").touch()
    except OSError as error:
        raise FileError(f"{out} cannot be written: {error}") from error
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = _measure(kinds, seconds)
        memory = _memory() if "train" in kinds else []
    finally:
        torch.set_num_threads(before)
    (out / "RESULTS.md").write_text(page(rows, memory, threads, KINDS), encoding="utf-8")
    (out / "results.svg").write_text(figure(rows, KINDS), encoding="utf-8")
    if as_json:
        print_json([asdict(r) | {"ratio": r.ratio, "median_ratio": r.median_ratio} for r in rows])
    else:
        results().print(page(rows, memory, threads, KINDS), markup=False)
    notes().print(f"Wrote {out / 'RESULTS.md'} and {out / 'results.svg'}.")


def _measure(kinds: tuple[str, ...], seconds: float) -> list[Row]:
    lines = [
        (kind, layer, shape)
        for kind in kinds
        for layer in (("LSTM",) if kind in {"packed", "padded"} else PAIRS)
        for shape in ((MAP_SHAPE,) if kind == "map" else SHAPES)
    ]
    rows = []
    with progress("lines") as bar:
        task = bar.add_task("Measuring", total=len(lines))
        for kind, layer, shape in lines:
            rows.append(_row(kind, layer, shape, seconds))
            bar.advance(task)
    return rows


def _row(kind: str, layer: str, shape: tuple[int, int, int, int], seconds: float) -> Row:
    """Run both in turn, and a matrix product between them, until the time is up."""
    B, T, I, H = shape
    ours, theirs = _calls(kind, layer, shape)
    M = torch.randn(768, 768, dtype=torch.float64 if kind == "train64" else torch.float32)
    times: tuple[list[float], ...] = ([], [], [])
    for call in (ours, theirs):
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 3:
        for call, taken in zip((ours, theirs, lambda: M @ M), times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    passes = {"infer": 2, "map": T}.get(kind, 6)  # the map: half of all pairs, 2 operations each
    work = passes * PAIRS[layer][2] * H * (H if kind == "map" else I + H) * T * B
    if kind in {"packed", "padded"}:
        work /= 2
    best, scale = min(times[0]), T / SAMPLED if kind == "map" else 1
    return Row(
        kind, layer, shape, best, min(times[1]) * scale, statistics.median(times[0]),
        statistics.median(times[1]) * scale, work / best / 1e9, 2 * 768**3 / min(times[2]) / 1e9,
        os.getloadavg()[0], len(times[0]),
    )  # fmt: skip


def _calls(
    kind: str, layer: str, shape: tuple[int, int, int, int]
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Give one run of ours and one of torch.nn's, over the same weights and input."""
    B, T, I, H = shape
    dtype = torch.float64 if kind == "train64" else torch.float32
    torch.manual_seed(0)
    own, other, _ = PAIRS[layer]
    mine, theirs = own(I, H).to(dtype), other(I, H).to(dtype)
    mine.load_state_dict(theirs.state_dict())
    x = torch.randn(T, B, I, dtype=dtype, requires_grad=kind != "infer")
    g = torch.randn(T, B, H, dtype=dtype)
    lengths = torch.randint(1, T + 1, (B,))

    def step(model: nn.Module, call: Callable[[], Tensor], g: Tensor) -> None:
        model.zero_grad(set_to_none=True)
        x.grad = None
        call().backward(g)

    if kind == "infer":
        return _no_grad(mine, x), _no_grad(theirs, x)
    if kind == "map":
        return _map_calls(layer, theirs, x, g)
    if kind == "padded":
        ragged = g * (torch.arange(T)[:, None, None] < lengths[:, None])
        return (
            lambda: step(mine, lambda: mine(x, lengths=lengths)[0], ragged),
            lambda: step(theirs, lambda: theirs(x)[0], ragged),
        )
    if kind == "packed":
        pack = nn.utils.rnn.pack_padded_sequence
        flat = pack(g, lengths, enforce_sorted=False).data
        return (
            lambda: step(mine, lambda: mine(x, lengths=lengths)[0], g),
            lambda: step(
                theirs, lambda: theirs(pack(x, lengths, enforce_sorted=False))[0].data, flat
            ),
        )
    return (
        lambda: step(mine, lambda: mine(x)[0], g),
        lambda: step(theirs, lambda: theirs(x)[0], g),
    )


def _no_grad(model: nn.Module, x: Tensor) -> Callable[[], object]:
    def run() -> None:
        with torch.no_grad():
            model(x)

    return run


def _map_calls(
    layer: str, theirs: nn.Module, x: Tensor, g: Tensor
) -> tuple[Callable[[], object], Callable[[], object]]:
    """Give the map of all (t, k) in one sweep, and eight of the T autograd calls it replaces."""
    T, B, _ = x.shape
    weights = {name.removesuffix("_l0"): w for name, w in theirs.named_parameters()}
    cell = CELLS[layer](weights)
    tape = kernels.forward(cell, x.detach(), x.new_zeros(B, cell.state_size))
    h = theirs(x)[0]

    def ours() -> None:
        kernels.losses(cell, tape, g, enters=torch.arange(1, T + 1))

    def autograd() -> None:
        for t in range(T // (2 * SAMPLED), T, T // SAMPLED):
            torch.autograd.grad(h[t], x, g[t], retain_graph=True)

    return ours, autograd


def _memory() -> list[Memory]:
    """Measure the peak memory of a training step, each in a process of its own."""
    found = []
    for layer in PAIRS:
        taken = []
        for package in ("throughtime", "torch.nn"):
            run = subprocess.run(
                [sys.executable, "-c", MEMORY, package, layer],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            taken.append(float(run.stdout or "nan"))
        found.append(Memory(layer, *taken))
    return found
