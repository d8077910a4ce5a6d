"""`throughtime bench`: this machine's speed beside what else there is, losses and wins alike."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from ..bench import apart, gpu
from ..bench.bench_rows import KINDS, SHAPES, Findings, Row, Times
from ..bench.calls import MAP_SHAPE, PAIRS, SAMPLED, calls
from ..bench.page import page, ratio_bars
from ..bench.rivals import RIVALS, absent, hold_threads, rival_note
from ..bench.targets import outcomes
from ..errors import CheckError, FileError, InputValueError
from ..files import check_writable, write_whole
from .terminal import notes, print_json, progress, results

__all__ = ["bench"]

# Seconds. A training loop repeats one layer's step, whose second call finds its own code in the
# caches; single calls in turn would time each side behind the other's (docs/decisions/0011).
TURN = 0.03


def bench(
    out: Annotated[
        Path, typer.Option(help="Folder for RESULTS.md and results.svg.", metavar="FOLDER")
    ] = Path("benchmarks"),
    seconds: Annotated[
        float,
        typer.Option(help="Time for each line; all kinds have over 200.", min=0.1, metavar="X"),
    ] = 3.0,
    threads: Annotated[int, typer.Option(help="Threads for both sides.", min=1, metavar="N")] = 2,
    only: Annotated[
        str | None,
        typer.Option(help=f"Only these, separated by commas: {', '.join(KINDS)}.", metavar="NAMES"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda: a table of its own.", metavar="DEVICE")
    ] = "cpu",
) -> None:
    """Measure throughtime's layers against torch.nn, JAX and FlashRNN on this machine.

    Both sides run in turn in one process, on the same weights and input, 30 ms or one call at a
    time; so does a plain matrix product, which shows how fast the machine was at the time. JAX and
    FlashRNN are measured where they are installed, and their gradients compared first. Writes a
    table and a figure.

    With --device cuda the layers are held against float64 on the CPU first, then timed against
    cuDNN, torch without it, a compiled loop, FlashRNN and TorchRL; gpu.json and gpu.md are written
    as rows come, with the goals that were reached. The other options but --out are for the CPU.

    Raises:
        FileError: the folder cannot be written.
        InputValueError: another device than cpu and cuda, or no GPU.
    """
    if device not in ("cpu", "cuda"):
        raise InputValueError(f"--device must be cpu or cuda; got {device!r}.")
    if device == "cuda":
        _on_gpu(out)
        return
    kinds, missing = _kinds(only, threads)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot make the folder {out}: {error.strerror}.") from error
    check_writable(out / "RESULTS.md")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = _measure(tuple(kind for kind in kinds if kind not in missing), seconds)
    finally:
        torch.set_num_threads(before)
    found.absent = missing
    text = page(found, threads, kinds)
    write_whole(out / "RESULTS.md", text)
    write_whole(out / "results.svg", ratio_bars(found.rows))
    if as_json:
        print_json(_plain(found, kinds))
    else:
        results().print(text, markup=False, soft_wrap=True)
    notes().print(f"Wrote {out / 'RESULTS.md'} and {out / 'results.svg'}.")
    if found.refused:
        notes().print("Some comparisons got no speed, because the gradients disagree.")
        raise typer.Exit(1)


def _on_gpu(out: Path) -> None:
    """Run the table of a GPU.

    Raises:
        InputValueError: there is no GPU.
    """
    if gpu.no_gpu():
        raise InputValueError(gpu.no_gpu())
    check_writable(out / "gpu.md")
    if not gpu.run_all(out):
        notes().print("Something of throughtime is wrong on this device, and was not timed.")
        raise typer.Exit(1)
    notes().print(f"Wrote {out / 'gpu.json'} and {out / 'gpu.md'}.")


def _kinds(only: str | None, threads: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the kinds that are wanted, and why some cannot be measured here.

    Raises:
        InputValueError: an unknown kind in ``only``, or one that is not installed.
    """
    kinds = tuple(KINDS) if only is None else tuple(only.split(","))
    if set(kinds) - set(KINDS):
        raise InputValueError(f"--only must be of {', '.join(KINDS)}; got {only!r}.")
    missing = {kind: why for kind in kinds if kind in RIVALS and (why := absent(kind))}
    if only and missing:
        raise InputValueError(f"--only {only} cannot be measured: {'; '.join(missing.values())}.")
    if "jax" in kinds:
        hold_threads(threads)
    return kinds, missing


def _plain(found: Findings, kinds: tuple[str, ...]) -> dict[str, object]:
    """Return what was found with all that follows from it, for machines."""
    names = ("ratio", "median_ratio", "first_ratio")
    rows: list[dict[str, object]] = [
        asdict(row) | {name: getattr(row, name) for name in names} for row in found.rows
    ]
    targets = [outcome._asdict() for outcome in outcomes(found, kinds)]
    return asdict(found) | {"rows": rows, "targets": targets}


def _measure(kinds: tuple[str, ...], seconds: float) -> Findings:
    lines = [
        (kind, layer, shape)
        for kind in kinds
        if kind not in {"memory", "import"}
        for layer in (("LSTM",) if KINDS[kind].ragged else PAIRS)
        for shape in ((MAP_SHAPE,) if kind == "map" else SHAPES)
    ]
    found = Findings()
    with progress("lines") as bar:
        task = bar.add_task("Measuring", total=len(lines) + len({"memory", "import"} & {*kinds}))
        if "import" in kinds:
            found.startup = apart.startup()
            bar.advance(task)
        for kind, layer, shape in lines:
            try:
                found.rows.append(_row(kind, layer, shape, seconds))
            except CheckError as error:
                found.refused.setdefault(kind, []).append(f"{layer} {shape}: {error}")
            bar.advance(task)
        if "memory" in kinds:
            found.memory = apart.memory(tuple(PAIRS))
            bar.advance(task)
    words = {kind: rival_note(kind) if kind in RIVALS else KINDS[kind].note for kind in kinds}
    found.notes = {kind: said for kind, said in words.items() if said}
    return found


def _row(kind: str, layer: str, shape: tuple[int, int, int, int], seconds: float) -> Row:
    """Run both in turn, and a matrix product between them, until the time is up."""
    B, T, I, H = shape
    ours, theirs = calls(kind, layer, shape)
    M = torch.randn(768, 768, dtype=torch.float64 if kind == "train64" else torch.float32)
    turns: tuple[list[list[float]], ...] = ([], [], [])
    for call in (ours, theirs):
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(turns[0]) < 3:
        for call, taken in zip((ours, theirs, lambda: M @ M), turns, strict=True):
            taken.append(_turn(call))
    passes = {"infer": 2, "map": T}.get(kind, 6)  # the map: half of all pairs, 2 operations each
    work = passes * PAIRS[layer][2] * H * (H if kind == "map" else I + H) * T * B
    if KINDS[kind].ragged:
        work /= 2
    scale = T / SAMPLED if kind == "map" else 1
    mine, other, product = (Times.of(taken) for taken in turns)
    return Row(
        kind, layer, shape, mine, other.times(scale), work / mine.least / 1e9,
        2 * 768**3 / product.least / 1e9, os.getloadavg()[0], sum(map(len, turns[0])),
    )  # fmt: skip


def _turn(call: Callable[[], object]) -> list[float]:
    """Time one side's turn: one call, or as many as last `TURN`."""
    taken, end = [], time.perf_counter() + TURN
    while True:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
        if time.perf_counter() >= end:
            return taken
