"""Recurrent modules unrolled by hand in float64: an oracle that shares no code with the package.

Every state is replaced, once it is computed, by an alias of its own, and every step has its own
copies of the weights. The gradient by an alias is dE/ds_k with s_k = (h_k, c_k) as one state, the
gradient by a step's copy is that step's term of dE/dW.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Run:
    """One run of one layer in one direction.

    Attributes:
        name: the layer's name in a flow.
        states: aliases of s_0…s_T, each a tuple of parts.
        weights: for each step, its copies by name (``weight_hh`` and so on).
        lengths: how many steps each row takes; None: all.
    """

    name: str
    states: list[tuple[Tensor, ...]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    lengths: Tensor | None = None


class Unrolled:
    """All runs of a model, in the order in which they ran."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def __call__(self, path: str, module: nn.Module, x: Tensor, hx=None, lengths=None, reset=None):
        """Do what the module does, step by step; lengths and resets in one direction only."""
        self.lengths, self.reset = lengths, reset
        x = x.transpose(0, 1) if module.batch_first else x
        directions = ("", "_reverse") if module.bidirectional else ("",)
        parts = (hx,) if isinstance(hx, Tensor) else hx
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(module.num_layers):
            outputs = []
            for direction in directions:
                suffix = f"l{layer}{direction}"
                widths = self._widths(module)
                n = len(finals)
                first = tuple(
                    x.new_zeros(x.shape[1], w) if parts is None else parts[p][n]
                    for p, w in enumerate(widths)
                )
                given = x.flip(0) if direction else x
                h, last = self._direction(path, module, suffix, given, first)
                outputs.append(h.flip(0) if direction else h)
                finals.append(last)
            x = torch.cat(outputs, -1)
        stacked = tuple(torch.stack(own) for own in zip(*finals, strict=True))
        x = x.transpose(0, 1) if module.batch_first else x
        return x, stacked[0] if len(stacked) == 1 else stacked

    @staticmethod
    def _widths(module: nn.Module) -> tuple[int, ...]:
        if module.mode == "LSTM":
            return (module.proj_size or module.hidden_size, module.hidden_size)
        return (module.hidden_size,)

    def _direction(self, path, module, suffix, x, first):
        name = f"{path}.{suffix}" if path else suffix
        taken = {run.name for run in self.runs}
        n, numbered = 1, name
        while numbered in taken:
            n += 1
            numbered = f"{name}@{n}"
        run = Run(numbered, lengths=self.lengths)
        self.runs.append(run)
        own = {
            kind: getattr(module, f"{kind}_{suffix}")
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
            if hasattr(module, f"{kind}_{suffix}")
        }
        s = tuple(p * 1 if p.requires_grad else p.clone().requires_grad_() for p in first)
        run.states.append(s)
        h = []
        for t, x_t in enumerate(x):
            if self.reset is not None:
                s = tuple(torch.where(self.reset[t, :, None], 0, part) for part in s)
            weights = {kind: w * 1 for kind, w in own.items()}
            run.weights.append(weights)
            new = self._step(module, weights, x_t, s)
            if self.lengths is not None:
                takes = (t < self.lengths)[:, None]
                new = tuple(torch.where(takes, a, b) for a, b in zip(new, s, strict=True))
            s = tuple(part * 1 for part in new)
            run.states.append(s)
            h.append(s[0] if self.lengths is None else torch.where(takes, s[0], 0))
        return torch.stack(h), s

    @staticmethod
    def _step(module, w, x_t, s):
        def bias(kind):
            return w.get(kind, 0)

        a = x_t @ w["weight_ih"].T + bias("bias_ih")
        hidden = s[0] @ w["weight_hh"].T + bias("bias_hh")
        if module.mode == "LSTM":
            i, f, g, o = (a + hidden).chunk(4, 1)
            c = torch.sigmoid(f) * s[1] + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            return (h @ w["weight_hr"].T if "weight_hr" in w else h, c)
        if module.mode == "GRU":
            (r, z, n), (hr, hz, hn) = a.chunk(3, 1), hidden.chunk(3, 1)
            r, z = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
            n = torch.tanh(n + r * hn)
            return ((1 - z) * n + z * s[0],)
        kind = {"RNN_TANH": torch.tanh, "RNN_RELU": torch.relu, "RNN_SIGMOID": torch.sigmoid}
        return (kind.get(module.mode, lambda v: v)(a + hidden),)


def by_state(run: Run, loss: Tensor) -> Tensor:
    """Return dE/ds_k for all k, (T+1, B, S); 0 after a row's end, where its state is the same."""
    flat = [part for s in run.states for part in s]
    found = torch.autograd.grad(
        loss, flat, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    widths = len(run.states[0])
    whole = torch.stack(
        [torch.cat(found[k * widths : (k + 1) * widths], -1) for k in range(len(run.states))]
    )
    if run.lengths is None:
        return whole
    ended = torch.arange(len(whole))[:, None] > run.lengths
    return whole.masked_fill(ended[..., None], 0)


def by_step(run: Run, loss: Tensor, name: str) -> Tensor:
    """Return each step's term of dE/dW, (T, ·)."""
    copies = [weights[name] for weights in run.weights]
    return torch.stack(
        torch.autograd.grad(
            loss, copies, retain_graph=True, allow_unused=True, materialize_grads=True
        )
    )
