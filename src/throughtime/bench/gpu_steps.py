"""What runs by single steps on a GPU: the (t, k) map, `rtrl` and `cells.Function`, recorded or not.

Each is a job that takes a seed and returns what it computed, so that it is first held against
float64 on the CPU, at the first call, when it is recorded and when it is replayed, and then timed:
recorded, in plain torch as it was before there were recordings, and against T calls of autograd.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import kernels
from ..cells import GRU, Function, LayerNormLSTM
from ..flow import trace
from ..kernels import last_choice
from ..kernels.comparison import term_error
from ..layers import Recurrent
from ..layers import modules as ours
from ..online import rtrl
from ..replays import unrecorded
from .gpu_table import Clock, Table, tf32

__all__ = ["JOBS", "Size", "right_steps", "time_steps", "wrong_steps"]

BOUND = 1e-4  # float32 over some steps, term by term
CALLS = 30  # so many steps of rtrl are recorded and replayed, at the size of the comparison


class Size(NamedTuple):
    """How large a job is."""

    T: int
    B: int
    H: int


Job = Callable[[int], list[Tensor]]
Make = Callable[[Size, torch.device, torch.dtype], Job]
SMALL, DRY = Size(12, 3, 17), Size(3, 2, 3)
RIGHT = "Right, single steps"
MAP, CALLED = "(t, k) map, ", "T calls of autograd"
FEW = 11  # calls that are timed, of losses from the last step to the first


def _on(module: Any, device: torch.device, dtype: torch.dtype) -> Any:
    return copy.deepcopy(module).to(device, dtype)


def _draw(seed: int, size: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=draw).to(device, dtype)


def _function(H: int) -> Function:
    def step(x: Tensor, s: Tensor, W: Tensor, U: Tensor) -> Tensor:
        return torch.tanh(x @ W + s @ U)

    weights = {name: torch.randn(H, H) / H**0.5 for name in "WU"}
    return Function(step, H, H, weights=weights)


LAYERS: dict[str, Callable[[int], Any]] = {
    "RNN": lambda H: ours.RNN(H, H),
    "GRU": lambda H: ours.GRU(H, H),
    "LSTM": lambda H: ours.LSTM(H, H),
    "LayerNormLSTM": lambda H: Recurrent(LayerNormLSTM(H, H)),
    "Function": lambda H: Recurrent(_function(H)),
}


def _flow(kind: str) -> Make:
    """Return the job of the (t, k) map of all pairs."""

    def make(size: Size, device: torch.device, dtype: torch.dtype) -> Job:
        torch.manual_seed(0)
        layer = _on(LAYERS[kind](size.H), device, dtype)

        def job(seed: int) -> list[Tensor]:
            x = _draw(seed, size, device, dtype)
            with trace(layer) as traced:
                losses = layer(x)[0].square().mean((1, 2))
            flow = traced.flow(losses)
            return [flow[name].norms for name in flow]

        return job

    return make


def _autograd(kind: str, calls: int) -> Make:
    """Return the job of a forward pass and some calls of autograd over the same layer."""

    def make(size: Size, device: torch.device, dtype: torch.dtype) -> Job:
        layer = _on(LAYERS[kind](size.H), device, dtype)
        weights = list(layer.parameters())

        def job(seed: int) -> list[Tensor]:
            losses = layer(_draw(seed, size, device, dtype))[0].square().mean((1, 2))
            some = losses[torch.linspace(size.T - 1, 0, calls).long().tolist()]
            return [torch.autograd.grad(one, weights, retain_graph=True)[0] for one in some]

        return job

    return make


def _train(size: Size, device: torch.device, dtype: torch.dtype) -> Job:
    """Return the job of a training step of `cells.Function`."""
    torch.manual_seed(0)
    layer = _on(LAYERS["Function"](size.H), device, dtype)
    size = size._replace(T=max(size.T, 40))  # fewer steps leave autograd's graph

    def job(seed: int) -> list[Tensor]:
        loss = layer(_draw(seed, size, device, dtype))[0].square().sum()
        return list(torch.autograd.grad(loss, list(layer.parameters())))

    return job


def _rtrl(size: Size, device: torch.device, dtype: torch.dtype) -> Job:
    """Return the job of a sweep of `rtrl` over a GRU that is an eighth as wide."""
    torch.manual_seed(0)
    size = Size(size.T, min(size.B, 4), max(3, size.H // 8))
    cell = _on(GRU(size.H, size.H), device, dtype)

    def job(seed: int) -> list[Tensor]:
        run = rtrl(cell, _draw(seed, size, device, dtype), lambda t, h: h.square().sum())
        for _ in run:
            pass
        return [*run.total.values(), run.total_s_0]

    return job


JOBS: dict[str, Make] = {
    **{f"{MAP}{kind}": _flow(kind) for kind in LAYERS},
    "training step, Function": _train,
    "rtrl, GRU": _rtrl,
}


def right_steps(table: Table, device: torch.device, dry: bool) -> None:
    """Compare every job on the device with float64 on the CPU, at every one of some calls.

    Args:
        table: what gets a row for each.
        device: where they run.
        dry: whether sizes are tiny.
    """
    for name, make in JOBS.items():
        calls = CALLS if not dry and ("Function" in name or "rtrl" in name) else 3
        if table.has(table=RIGHT, what=name):
            continue
        with table.row(table=RIGHT, what=name, calls=calls) as row:
            worst = _worst(make, DRY if dry else SMALL, device, calls)
            row["right"] = "yes" if worst <= BOUND else "NO"
            row["largest error"] = worst


def wrong_steps(table: Table) -> set[str]:
    """Return which jobs were wrong, or failed.

    Args:
        table: the rows of `right_steps`.
    """
    rows = [row for row in table.rows if row["table"] == RIGHT]
    return {row["what"] for row in rows if row.get("right") != "yes"}


def _worst(make: Make, size: Size, device: torch.device, calls: int) -> float:
    here = make(size, device, torch.float32)
    wanted = make(size, torch.device("cpu"), torch.float64)
    worst = 0.0
    for seed in (*range(calls - 1), calls):
        with tf32(False):
            found = here(seed)
        if seed > 2 and seed != calls:
            continue  # only so that it is recorded
        with kernels.use("reference"):
            pairs = zip(found, wanted(seed), strict=True)
        worst = max(worst, *(term_error(a.detach().cpu().double(), b) for a, b in pairs))
    return worst


def time_steps(table: Table, device: torch.device, size: Size, rounds: int) -> None:
    """Time every job, recorded and in plain torch, and T calls of autograd for each map.

    Args:
        table: what gets a row for each.
        device: where they run.
        size: how large they are.
        rounds: times that each is timed; the least counts.
    """
    clock, bad = Clock(device), wrong_steps(table)
    for name, make in JOBS.items():
        if table.late():
            table.add(table="Cut short", case=f"{name} and what follows")
            return
        if table.has(table="Single steps", what=name):
            continue
        with table.row(table="Single steps", what=name, **{"T, B, H": tuple(size)}) as row:
            if name in bad:
                row["failed"] = "it was wrong, so it is not timed"
                continue
            for way, context in (("recorded", nullcontext()), ("plain torch", unrecorded())):
                with context:
                    job = make(size, device, torch.float32)
                    found = clock.least(lambda job=job: job(0), rounds)
                row[f"{way}, ms"], row[f"{way}, peak MB"] = found
                choice = last_choice()
                if way == "recorded" and choice is not None and "rtrl" not in name:
                    row["engine"] = choice.name
            if name.startswith(MAP):
                row[f"{CALLED}, ms"], row[f"{CALLED}, peak MB"] = _all_calls(
                    name.removeprefix(MAP), size, device, clock
                )


def _all_calls(kind: str, size: Size, device: torch.device, clock: Clock) -> tuple[float, float]:
    """Return time and memory of T calls, by what each one more takes: all of them take long."""
    times, many = [], min(size.T, FEW)
    for calls in (1, many):
        job = _autograd(kind, calls)(size, device, torch.float32)
        times.append(clock.least(lambda job=job: job(0), 3))
    (first, _), (last, peak) = times
    return first + (size.T - 1) * (last - first) / max(1, many - 1), peak
