"""The recurrences added by the contract, typed once more from their papers, for autograd.

Nothing here uses a cell, a sweep or a tape of the package: loops over steps, one row's state of
several parts kept apart, and `torch.nn.functional` where the package types the formula out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from throughtime import cells

F64 = torch.float64
I, H, T, B = 3, 4, 7, 3
LENGTHS = [7, 4, 1]
EPS = 1e-5

Weights = dict[str, Tensor]


def leaky(w: Weights, x: Tensor, s: Tensor) -> Tensor:
    """Yang et al. (2019): rates that follow f of their input with a rate of α = .3."""
    u = linear(x, w["weight_ih"], w.get("bias_ih")) + linear(s, w["weight_hh"], w.get("bias_hh"))
    return 0.7 * s + 0.3 * torch.tanh(u)


def leaky_relu(w: Weights, x: Tensor, s: Tensor) -> Tensor:
    """Let α be .9, and the nonlinearity rectify."""
    u = linear(x, w["weight_ih"], w.get("bias_ih")) + linear(s, w["weight_hh"], w.get("bias_hh"))
    return 0.1 * s + 0.9 * u.clamp(min=0)


def min_gru(w: Weights, x: Tensor, s: Tensor) -> Tensor:
    """Feng et al. (2024), algorithm 1."""
    W_z, W_h = w["weight_ih"].chunk(2)
    b_z, b_h = w["bias_ih"].chunk(2) if "bias_ih" in w else (None, None)
    z = torch.sigmoid(linear(x, W_z, b_z))
    return (1 - z) * s + z * linear(x, W_h, b_h)


def peephole(w: Weights, x: Tensor, s: Tensor) -> Tensor:
    """Gers and Schmidhuber (2000), with tanh for both squashing functions."""
    h, c = s.chunk(2, -1)
    from_x = linear(x, w["weight_ih"], w.get("bias_ih")).chunk(4, -1)
    from_h = linear(h, w["weight_hh"], w.get("bias_hh")).chunk(4, -1)
    i, f, g, o = (a + b for a, b in zip(from_x, from_h, strict=True))
    p = w["weight_ch"]
    new = torch.sigmoid(f + c * p[1]) * c + torch.sigmoid(i + c * p[0]) * torch.tanh(g)
    return torch.cat((torch.sigmoid(o + new * p[2]) * torch.tanh(new), new), -1)


def layer_norm_lstm(w: Weights, x: Tensor, s: Tensor) -> Tensor:
    """Ba, Kiros and Hinton (2016), their supplement."""
    h, c = s.chunk(2, -1)
    width = w["gain_c"].shape[0]
    from_x = layer_norm(x @ w["weight_ih"].T, [4 * width], w["gain_ih"], w.get("bias_ih"), EPS)
    from_h = layer_norm(h @ w["weight_hh"].T, [4 * width], w["gain_hh"], w.get("bias_hh"), EPS)
    i, f, g, o = (from_x + from_h).chunk(4, -1)
    new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    out = torch.tanh(layer_norm(new, [width], w["gain_c"], w.get("bias_c"), EPS))
    return torch.cat((torch.sigmoid(o) * out, new), -1)


def refine(w: Weights, x: Tensor, s: Tensor) -> Tensor:
    """Take a step of an LSTM with refine gates, as the paper writes it."""
    h, c = s.chunk(2, -1)
    a = x @ w["weight_ih"].T + h @ w["weight_hh"].T
    for bias in ("bias_ih", "bias_hh"):
        a = a + w.get(bias, 0)
    r, f, n, o = a.chunk(4, -1)
    r, f = torch.sigmoid(r), torch.sigmoid(f)
    g = r * (1 - (1 - f) ** 2) + (1 - r) * f**2
    new = g * c + (1 - g) * torch.tanh(n)
    return torch.cat((torch.sigmoid(o) * torch.tanh(new), new), -1)


STEPS: dict[str, Callable[[Weights, Tensor, Tensor], Tensor]] = {
    "leaky": leaky,
    "leaky relu": leaky_relu,
    "minGRU": min_gru,
    "peephole": peephole,
    "layer norm": layer_norm_lstm,
    "refine gates": refine,
}

PARTS = {
    "peephole": 2,
    "layer norm": 2,
    "refine gates": 2,
}  # of a state, each H wide; 1 for the others

CELLS: dict[str, Callable[..., cells.AbstractCell]] = {
    "leaky": lambda i, h, **k: cells.Leaky(i, h, alpha=0.3, **k),
    "leaky relu": lambda i, h, **k: cells.Leaky(i, h, 0.9, "relu", **k),
    "minGRU": cells.MinGRU,
    "peephole": cells.PeepholeLSTM,
    "layer norm": cells.LayerNormLSTM,
    "refine gates": cells.RefineLSTM,
}


def cell_of(name: str, i: int = I, h: int = H, **options) -> cells.AbstractCell:
    """Give a cell in float64, all of its weights random: no gain is 1, no bias 0."""
    cell = CELLS[name](i, h, dtype=F64, **options)
    with torch.no_grad():
        for weight in cell.weights().values():
            weight += 0.3 * torch.randn_like(weight)
    return cell


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Give normal numbers, the same for the same shape and seed."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=F64)


def resets() -> Tensor:
    """Give a reset in the middle of the first two rows, and one at the first step."""
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[4, 0] = reset[2, 1] = reset[0, 1] = True
    return reset


def loop(
    name: str,
    copies: list[Weights],
    x: Tensor,
    s: Tensor,
    lengths: list[int] | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run a recurrence with weights of its own for every step: output (T, B, H), states.

    Args:
        name: of the recurrence.
        copies: the weights of each step.
        x: (T, B, I).
        s: s_0 (B, S).
        lengths: how many steps each row takes.
        reset: (T, B) bool.
    """
    states, h = [s], []
    width = s.shape[1] // PARTS.get(name, 1)
    for t, (w, x_t) in enumerate(zip(copies, x, strict=True)):
        if reset is not None:
            s = s * ~reset[t, :, None]
        takes = torch.tensor([[lengths is None or t < lengths[b]] for b in range(len(x_t))])
        s = torch.where(takes, STEPS[name](w, x_t, s), s)
        states.append(s)
        h.append(s[:, :width] * takes)
    return torch.stack(h), states


def copies_of(cell: cells.AbstractCell, steps: int) -> list[Weights]:
    """Give every step copies of the weights, with their graph to the weights."""
    return [{n: w.clone() for n, w in cell.weights().items()} for _ in range(steps)]
