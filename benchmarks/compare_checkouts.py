"""Compare two checkouts of this project: results bit by bit, and the time of a call, in turn.

    python benchmarks/compare_checkouts.py ../before .        # results and times
    python benchmarks/compare_checkouts.py ../before . --times-only --turns 30 --calls LSTM T=100

Each checkout runs in a process of its own, with its own ``src`` (the compiled library included), on
one thread. An editable install takes precedence over ``src``, so it is refused: run it with a
Python that has the dependencies alone. Results are compared with `torch.equal`, NaN being equal to
NaN; where they differ, the largest difference relative to the term's norm is printed. Times are
taken in turns of 30 ms, one checkout after the other. The ratio of the medians is printed, and that
of the smallest times, which other programs disturb least: above 1 the second is faster. Run it with
the same checkout twice to see how far apart two runs of the same code lie.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

SIZES = ((1, 1, 3, 1), (7, 3, 3, 5), (9, 14, 40, 70), (40, 1, 40, 70), (5, 3, 40, 230))
TIMED = {
    "short call, T=3 H=4": (3, 2, 4, 4),
    "T=20 B=8 H=32": (20, 8, 32, 32),
    "T=100 B=32 H=64": (100, 32, 64, 64),
    "T=100 B=16 H=256": (100, 16, 256, 256),
}
TURN = 0.03


def cells(tt, I: int, H: int, dtype: torch.dtype) -> Iterator[tuple[str, object]]:
    """Yield a cell of every kind, with weights that depend on nothing but the sizes."""
    torch.manual_seed(0)
    for nonlinearity in ("tanh", "relu", "sigmoid", "identity"):
        yield f"Elman {nonlinearity}", tt.cells.Elman(I, H, nonlinearity, dtype=dtype)
    for name in ("LSTM", "GRU", "LayerNormLSTM", "PeepholeLSTM", "MinGRU", "Leaky"):
        yield name, getattr(tt.cells, name)(I, H, dtype=dtype)
    W, U = torch.randn(H, H, dtype=dtype) / H, torch.randn(H, I, dtype=dtype) / I
    weights = {"W": W, "U": U}
    yield (
        "Function",
        tt.cells.Function(lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T), I, H, weights=weights),
    )


def flat(found: object) -> list[Tensor]:
    """Return all tensors in a tree, in its order."""
    if isinstance(found, Tensor):
        return [found.detach()]
    if isinstance(found, dict):
        found = list(found.values())
    if hasattr(found, "__dataclass_fields__"):
        found = [getattr(found, name) for name in found.__dataclass_fields__]
    if isinstance(found, (tuple, list)):
        return [tensor for part in found for tensor in flat(part)]
    return []


def results() -> dict[str, list[Tensor]]:
    """Return what every engine gives for every cell, size, dtype and mask."""
    import throughtime as tt

    found: dict[str, list[Tensor]] = {}
    torch.set_num_threads(1)
    for backend in ("auto", "reference"):
        for dtype in (torch.float32, torch.float64):
            for T, B, I, H in SIZES:
                for name, cell in cells(tt, I, H, dtype):
                    for mask in ("", "lengths", "resets"):
                        if mask == "lengths" and name == "Function":
                            continue
                        key = f"{backend} {dtype} {(T, B, I, H)} {name} {mask}".strip()
                        with tt.kernels.use(backend):
                            found.update(_of_cell(tt, key, cell, (T, B, I, H), dtype, mask))
    return found


def _of_cell(tt, key, cell, sizes, dtype, mask) -> dict[str, list[Tensor]]:
    T, B, I, H = sizes
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=generator)

    S = cell.state_size
    x, s_0, g, delta_T = draw(T, B, I), draw(B, S), draw(2, T, B, H), draw(2, B, S)
    active = reset = None
    if mask == "lengths":
        lengths = torch.randint(1, T + 1, (B,), generator=generator)
        active = torch.arange(T)[:, None] < lengths
    if mask == "resets":
        reset = torch.rand(T, B, generator=generator) < 0.3
    k = tt.kernels
    tape = k.forward(cell, x, s_0, active, reset)
    enters, floors = torch.arange(1, T + 1), torch.arange(T) // 2
    found = {
        "outputs": k.outputs(cell, x, s_0, active, reset)[:2],
        "forward": tape,
        "backward": k.backward(cell, tape, g, delta_T),
        "gradients": k.gradients(cell, tape, g[0], delta_T[0]),
        "losses": k.losses(cell, tape, g, deltas=True, adjoints=True),
        "losses, each at a step": k.losses(cell, tape, g[0], enters=enters, floors=floors),
    }
    layer = tt.Recurrent(cell)
    for schedule in (tt.Full(), tt.Truncated(3), tt.Truncated(4, 2), tt.Checkpointed(2)):
        tt.set_through(layer, schedule)
        layer.zero_grad()
        named = {"reset": reset} if reset is not None else {}
        if active is not None:
            named["lengths"] = active.sum(0)
        leaf = x.clone().requires_grad_()
        output, s_n = layer(leaf, s_0, **named)
        ((output * g[0]).sum() + (s_n * delta_T[0]).sum()).backward()
        grads = [leaf.grad, *(p.grad for p in cell.parameters())]
        found[f"layer, {schedule}"] = [output, s_n, *(g for g in grads if g is not None)]
    return {f"{key}: {what}": flat(part) for what, part in found.items()}


def timed_calls() -> dict[str, Callable[[], object]]:
    """Return the calls that are timed, by name."""
    import throughtime as tt

    torch.set_num_threads(1)
    calls: dict[str, Callable[[], object]] = {}
    for size, (T, B, I, H) in TIMED.items():
        for kind in ("RNN", "LSTM", "GRU"):
            torch.manual_seed(0)
            layer, x, g = getattr(tt, kind)(I, H), torch.randn(T, B, I), torch.randn(T, B, H)
            hx = layer(x)[1]
            hx = tuple(part.detach() for part in hx) if kind == "LSTM" else hx.detach()

            def infer(layer=layer, x=x):
                with torch.no_grad():
                    return layer(x)

            def train(layer=layer, x=x, g=g, hx=None):
                output = layer(x) if hx is None else layer(x, hx)
                output[0].backward(g)

            def carried(train=train, hx=hx):
                train(hx=hx)

            def summed(layer=layer, x=x):
                layer(x)[0].sum().backward()

            for what, call in (("infer", infer), ("train", train), ("train with hx", carried)):
                calls[f"{kind} {what}, {size}"] = call
            calls[f"{kind} train on a sum, {size}"] = summed
    return calls


def serve() -> None:
    """Time calls by name, one a line of the standard input, for 30 ms each."""
    calls = timed_calls()
    print(json.dumps(list(calls)), flush=True)
    for line in sys.stdin:
        call, spent, times = calls[line.strip()], 0.0, []
        call()
        while spent < TURN:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
            spent += times[-1]
        print(json.dumps((statistics.median(times), min(times))), flush=True)


def started(checkout: Path, verb: str, **options) -> subprocess.Popen:
    """Start this script over another checkout's source."""
    environment = {**os.environ, "PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), verb, str(checkout)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, **options)


def compare_results(before: Path, after: Path) -> int:
    """Print where results differ; return how many do."""
    loaded = []
    for checkout in (before, after):
        out, _ = started(checkout, "results").communicate()
        loaded.append(torch.load(io.BytesIO(out)))
    old, new = loaded
    differing: dict[str, float] = {}
    for key in old:
        pairs = list(zip(old[key], new.get(key, []), strict=False))
        if len(pairs) != len(old[key]):
            differing[key] = float("inf")
        for a, b in pairs:
            if a.dim() and a.shape[:-1] == b.shape[:-1]:
                width = min(a.shape[-1], b.shape[-1])  # adjoints may carry more than they did
                a, b = a[..., :width], b[..., :width]
            if a.shape != b.shape:
                differing[key] = float("inf")
            elif not torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)):
                off = (a.double() - b.double()).norm() / a.double().norm()
                differing[key] = max(float(off), differing.get(key, 0))
    print(f"{len(old) - len(differing)} of {len(old)} results are equal bit by bit.")
    for key, off in sorted(differing.items(), key=lambda item: -item[1])[:40]:
        print(f"  {off:.1e}  {key}")
    return len(differing)


def compare_times(before: Path, after: Path, turns: int, words: list[str]) -> None:
    """Print the times of each call whose name has all the words, in both checkouts."""
    sides = [
        started(checkout, "serve", stdin=subprocess.PIPE, text=True) for checkout in (before, after)
    ]
    print(f"{'call':45}  {'before':>9}  {'after':>9}  before/after  smallest")
    ratios, least = [], []
    names: list[str] = []
    for side in sides:
        assert side.stdout is not None
        names = json.loads(side.stdout.readline() or sys.exit(1))
    for name in (name for name in names if all(word in name for word in words)):
        times: tuple[list, list] = ([], [])
        for _ in range(turns):
            for side, own in zip(sides, times, strict=True):
                assert side.stdin is not None and side.stdout is not None
                side.stdin.write(name + "\n")
                side.stdin.flush()
                own.append(json.loads(side.stdout.readline()))
        old, new = (statistics.median(turn[0] for turn in own) for own in times)
        old_least, new_least = (min(turn[1] for turn in own) for own in times)
        ratios.append(old / new)
        least.append(old_least / new_least)
        line = f"{name:45}  {old * 1e6:7.1f}µs  {new * 1e6:7.1f}µs  {ratios[-1]:12.3f}"
        print(f"{line}  {least[-1]:8.3f}", flush=True)
    for what, found in (("medians", ratios), ("smallest times", least)):
        mean = statistics.geometric_mean(found)
        print(f"{what}: geometric mean {mean:.3f}, from {min(found):.3f} to {max(found):.3f}")
    for side in sides:
        side.communicate()


def only(checkout: Path) -> None:
    """Stop unless it is this checkout's package that is measured."""
    import throughtime as tt

    if not Path(tt.__file__).is_relative_to(checkout.resolve()):
        sys.exit(f"{tt.__file__} would be measured in place of {checkout}: it is installed here.")


def main() -> int:
    """Run one side, or compare two."""
    if sys.argv[1:2] in (["results"], ["serve"]):
        only(Path(sys.argv.pop(2)))
    if sys.argv[1:] == ["results"]:
        torch.save(results(), sys.stdout.buffer)
        return 0
    if sys.argv[1:] == ["serve"]:
        serve()
        return 0
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("before", type=Path)
    options.add_argument("after", type=Path)
    options.add_argument("--results-only", action="store_true")
    options.add_argument("--times-only", action="store_true")
    options.add_argument("--turns", type=int, default=7, help="of each call and checkout")
    options.add_argument("--calls", nargs="*", default=[], help="words that a call's name has")
    given = options.parse_args()
    folders = given.before, given.after
    differing = 0 if given.times_only else compare_results(*folders)
    if not given.results_only:
        compare_times(*folders, given.turns, given.calls)
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
