"""What the core is judged by: the recurrences written once more by hand, and autograd over them.

Nothing here uses a cell, a sweep or a tape of the package. The steps are typed from the equations
in PyTorch's documentation; every step of `unrolled` has copies of the weights of its own, so that
the gradient of one of those copies is one term of eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

import throughtime as tt

F64 = torch.float64
REGIMES = ("contracting", "orthogonal", "exploding", "saturated")
KINDS = ("tanh", "relu", "sigmoid", "identity", "lstm", "gru")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,  # 0 at 0, where clamp passes a gradient of 1
    "sigmoid": lambda a: 1 / (1 + torch.exp(-a)),
    "identity": lambda a: a,
}


def layer(kind: str, I: int, H: int, **options) -> nn.Module:
    """Give a layer of this package by the name of its recurrence, in float64 unless told."""
    options = {"dtype": F64, **options}
    if kind in ACTIVATIONS:
        return tt.RNN(I, H, nonlinearity=kind, **options)
    return {"lstm": tt.LSTM, "gru": tt.GRU}[kind](I, H, **options)


def put_into(regime: str, module: nn.Module) -> nn.Module:
    """Set the recurrent weights so that gradients fall, keep, grow, or meet flat nonlinearities."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "weight_hh" not in name:
                if regime == "saturated":
                    weight *= 12
                continue
            H = weight.shape[1]
            square = weight.shape[0] % H == 0
            if regime == "contracting":
                weight *= 0.5
            elif regime == "orthogonal" and square:
                blocks = [torch.linalg.qr(b)[0] for b in weight.split(H)]
                weight.copy_(torch.cat(blocks))
            elif regime == "exploding":
                weight *= 4
            else:
                weight *= 8
    return module


def kind_of(module: nn.Module) -> str:
    """Give the name of a module's recurrence."""
    return module.mode.removeprefix("RNN_").lower()


def step(kind: str, w: dict[str, Tensor], x: Tensor, s: Tensor) -> Tensor:
    """Take one step by the equations in PyTorch's documentation; s is h, or (h, c) side by side."""
    H = w["weight_hh"].shape[1]
    from_x = linear(x, w["weight_ih"], w.get("bias_ih"))
    from_h = linear(s[..., :H], w["weight_hh"], w.get("bias_hh"))
    if kind in ACTIVATIONS:
        return ACTIVATIONS[kind](from_x + from_h)
    if kind == "lstm":
        i, f, g, o = (from_x + from_h).chunk(4, -1)
        c = torch.sigmoid(f) * s[..., H:] + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return torch.cat((linear(h, w["weight_hr"]) if "weight_hr" in w else h, c), -1)
    x_r, x_z, x_n = from_x.chunk(3, -1)
    h_r, h_z, h_n = from_h.chunk(3, -1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    return (1 - z) * torch.tanh(x_n + r * h_n) + z * s


@dataclass
class Direction:
    """One layer in one direction, unrolled: step k's state, input and own copies of the weights."""

    kind: str
    states: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)

    def final(self, lengths: Sequence[int] | None) -> Tensor:
        """Give each row's state after its own last step."""
        if lengths is None:
            return self.states[-1]
        return torch.stack([self.states[n][b] for b, n in enumerate(lengths)])


def weights_of(module: nn.Module, suffix: str) -> dict[str, Tensor]:
    """Give one direction's weights by the names without the suffix."""
    end = f"_{suffix}"
    return {n.removesuffix(end): w for n, w in module.named_parameters() if n.endswith(end)}


def unrolled(
    module: nn.Module,
    x: Tensor,
    s_0: Tensor | None = None,
    lengths: Sequence[int] | None = None,
    reset: Tensor | None = None,
) -> tuple[Tensor, dict[str, Direction]]:
    """Run a recurrent module by hand: its output (T, B, ·), and every direction's steps by name.

    Args:
        module: of ``torch.nn`` or of this package; time first, without dropout.
        x: (T, B, I).
        s_0: initial states (L·D, B, S).
        lengths: how many steps each row takes.
        reset: (T, B) bool.
    """
    T, B, _ = x.shape
    runs: dict[str, Direction] = {}
    for number in range(module.num_layers):
        outputs = []
        for back in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            name = f"l{number}{back}"
            weights = weights_of(module, name)
            S = weights["weight_hh"].shape[1]
            if kind_of(module) == "lstm":
                S += weights["weight_hh"].shape[0] // 4
            s = torch.zeros(B, S, dtype=x.dtype, requires_grad=True)
            s = s if s_0 is None else s_0[len(runs)]
            runs[name] = run = Direction(kind_of(module), [s])
            h: list[Tensor] = [x] * T
            for t in reversed(range(T)) if back else range(T):
                # A boundary before step t is met by the reverse direction on its way to t - 1.
                at = t + 1 if back else t
                if reset is not None and at < T and (at > 0 or not back):
                    s = s * ~reset[at, :, None]
                copies = {n: w.clone() for n, w in weights.items()}
                moved = step(run.kind, copies, x[t], s)
                takes = torch.ones(B, 1, dtype=torch.bool)
                if lengths is not None:
                    takes = torch.tensor([[t < n] for n in lengths])
                s = torch.where(takes, moved, s)
                run.states.append(s)
                run.inputs.append(x[t])
                run.weights.append(copies)
                h[t] = s[:, : weights["weight_hh"].shape[1]] * takes
            outputs.append(torch.stack(h))
        x = torch.cat(outputs, -1)
    return x, runs


def gradient(loss: Tensor, of: Tensor | Sequence[Tensor], seed: Tensor | None = None):
    """Give what autograd gives, with zeros where there is no path."""
    found = torch.autograd.grad(
        loss, of, seed, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return found[0] if isinstance(of, Tensor) else found


def jacobians(kind: str, w: dict[str, Tensor], xs: Tensor, states: Tensor) -> Tensor:
    """Give dense J_t of one row's trajectory, (T, S, S), by torch.func (eq. 4)."""
    w = {n: v.detach() for n, v in w.items()}
    return torch.stack(
        [
            torch.func.jacrev(lambda s, x=x: step(kind, w, x, s))(s)
            for x, s in zip(xs, states, strict=False)
        ]
    )


def forward_accumulation(
    kind: str, w: dict[str, Tensor], x: Tensor, s_0: Tensor, g: Tensor
) -> dict[str, Tensor]:
    """Give Σ_t g_t · ds_t/dW by carrying ds_t/dW forward (RTRL), for one row.

    Args:
        kind: the recurrence.
        w: its weights.
        x: (T, I).
        s_0: (S,).
        g: (T, S), what enters each state directly.
    """
    w = {n: v.detach() for n, v in w.items()}
    carried = {n: torch.zeros(*s_0.shape, *v.shape, dtype=v.dtype) for n, v in w.items()}
    total = {n: torch.zeros_like(v) for n, v in w.items()}
    s = s_0
    for x_t, g_t in zip(x, g, strict=True):
        J, immediate = torch.func.jacrev(lambda s, w, x=x_t: step(kind, w, x, s), (0, 1))(s, w)
        s = step(kind, w, x_t, s)
        for n in w:
            carried[n] = torch.tensordot(J, carried[n], 1) + immediate[n]
            total[n] = total[n] + torch.tensordot(g_t, carried[n], 1)
    return total


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    """Give normal numbers, the same for the same shape and seed."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)


def state_width(module: nn.Module) -> int:
    """Give S of a module's states."""
    H = module.hidden_size
    return H if kind_of(module) != "lstm" else H + (module.proj_size or H)


def as_hx(module: nn.Module, s_0: Tensor):
    """Give states (L·D, B, S) as the module's ``hx``."""
    if kind_of(module) != "lstm":
        return s_0
    P = module.proj_size or module.hidden_size
    return s_0[..., :P].contiguous(), s_0[..., P:].contiguous()
