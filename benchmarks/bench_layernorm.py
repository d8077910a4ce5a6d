"""The layer-norm LSTM beside a loop of torch operations: a training step, and how right each is.

    python benchmarks/bench_layernorm.py            with torch's threads
    python benchmarks/bench_layernorm.py --threads 1

A training step is forward and backward in float32, from zeros, with the gradients of the input and
of all weights. The two take turns, so that both meet whatever else the machine does; the numbers
are medians. The error beside each is the largest of ‖got − want‖ / ‖want‖ over h, dE/dx and the
weights' gradients, against the same loop in float64.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

import throughtime as tt

SHAPES = ((50, 32, 128, 128), (200, 8, 64, 64), (500, 16, 256, 256), (500, 16, 256, 64))


def loop(x: Tensor, w: dict[str, Tensor], eps: float) -> Tensor:
    """Return h (T, B, H) by one step of torch operations after another."""
    B, H = x.shape[1], w["weight_hh"].shape[1]
    h = c = x.new_zeros(B, H)
    u = layer_norm(
        linear(x, w["weight_ih"]), (4 * H,), w["gain_ih"], w["bias_ih"] + w["bias_hh"], eps
    )
    hs = []
    for u_t in u.unbind(0):
        normed = layer_norm(linear(h, w["weight_hh"]), (4 * H,), w["gain_hh"], None, eps)
        i, f, g, o = (u_t + normed).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * layer_norm(c, (H,), w["gain_c"], w["bias_c"], eps).tanh()
        hs.append(h)
    return torch.stack(hs)


def train_step(forward, x: Tensor, weights: dict[str, Tensor], target: Tensor) -> list[Tensor]:
    """Return h and the gradients of the input and of all weights of one step."""
    for leaf in (x, *weights.values()):
        leaf.grad = None
    h = forward(x)
    (h * target).sum().backward()
    return [h.detach(), *(leaf.grad for leaf in (x, *weights.values()) if leaf.grad is not None)]


def error(got: list[Tensor], want: list[Tensor]) -> float:
    """Return the largest relative error of a whole array."""
    pairs = zip(got, want, strict=True)
    return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)


def measure(T: int, B: int, H: int, I: int, repeats: int) -> None:
    """Print one line for one shape."""
    torch.manual_seed(0)
    cell = tt.cells.LayerNormLSTM(I, H)
    with torch.no_grad():
        for weight in cell.weights().values():
            if weight.dim() == 1:
                weight.add_(0.1 * torch.randn_like(weight))
        cell.gain_hh.mul_(0.1)  # at 1 it is chaotic: rounding alone changes all of h in 500 steps
    layer, weights = tt.Recurrent(cell), cell.weights()
    x, target = torch.randn(T, B, I, requires_grad=True), torch.randn(T, B, H)
    wide = {name: w.detach().double().requires_grad_() for name, w in weights.items()}
    exact = x.detach().double().requires_grad_()
    want = train_step(lambda x: loop(x, wide, cell.eps), exact, wide, target.double())

    ways = {"layer": lambda x: layer(x)[0], "loop": lambda x: loop(x, weights, cell.eps)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    errors = {}
    for turn in range(repeats + 1):
        for name, forward in ways.items():
            start = perf_counter()
            got = train_step(forward, x, weights, target)
            if turn:  # the first one warms up
                seconds[name].append(perf_counter() - start)
            errors[name] = error(got, want)
    ran = tt.kernels.last_choice()
    layer_s, loop_s = median(seconds["layer"]), median(seconds["loop"])
    print(
        f"{T:4d} {B:3d} {H:4d} {I:4d}  {1e3 * layer_s:8.2f}  {1e3 * loop_s:8.2f}  "
        f"{loop_s / layer_s:5.2f}  {errors['layer']:.1e}  {errors['loop']:.1e}  "
        f"{ran.name if ran else ''}",
        flush=True,
    )


def main() -> None:
    """Measure every shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, help="torch's by default")
    parser.add_argument("--repeats", type=int, default=7, help="turns of each, 7 by default")
    wanted = parser.parse_args()
    if wanted.threads:
        torch.set_num_threads(wanted.threads)
    print(f"threads {torch.get_num_threads()}, {tt.kernels.available().isa}, float32")
    print("   T   B    H    I  layer ms   loop ms  ratio  layer error, loop error, ran on")
    for shape in SHAPES:
        measure(*shape, wanted.repeats)


if __name__ == "__main__":
    main()
