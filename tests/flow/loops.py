"""Models with a loop over time of their own, and an oracle that knows nothing of traces.

Each model sends its state through ``poke`` after every step. The oracle adds a zero that requires
grad there: its gradient is ∂E/∂s_k, with h and c independent.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import throughtime as tt

Poke = Callable[..., tuple[Tensor, ...]]
T, B, I, H = 9, 3, 2, 4


def untouched(k: int, *state: Tensor) -> tuple[Tensor, ...]:
    """Leave the state as it is."""
    return state


class Loop(nn.Module):
    """A loop over a cell, a readout, and whatever a subclass does between the steps."""

    poke: Poke = staticmethod(untouched)
    kind: type[nn.RNNCellBase] = nn.LSTMCell

    def __init__(self) -> None:
        super().__init__()
        self.cell = self.kind(I, H)  # pyright: ignore[reportCallIssue]
        self.out = nn.Linear(H, I)

    def begin(self) -> tuple[Tensor, ...]:
        parts = 2 if self.kind is nn.LSTMCell else 1
        # A state that is learned: a gradient can arrive at it by whatever way.
        return tuple(torch.full((B, H), 0.1, requires_grad=True) for _ in range(parts))

    def step(self, x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        new = self.cell(x_t, state if len(state) > 1 else state[0])
        return new if isinstance(new, tuple) else (new,)

    def input(self, x: Tensor, t: int, state: tuple[Tensor, ...]) -> Tensor:
        return x[t]

    def between(self, t: int, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return state

    def forward(self, x: Tensor) -> Tensor:
        state, said = self.poke(0, *self.begin()), []
        for t in range(len(x)):
            state = self.step(self.input(x, t, state), state)
            state = self.poke(t + 1, *state)
            said.append(self.out(state[0]))
            state = self.between(t, state)
        return torch.stack(said)


class GRULoop(Loop):
    kind = nn.GRUCell


class RNNLoop(Loop):
    kind = nn.RNNCell


class Decoder(Loop):
    """Hears what it said."""

    def input(self, x: Tensor, t: int, state: tuple[Tensor, ...]) -> Tensor:
        return x[t] + torch.tanh(self.out(state[0]))


class GRUDecoder(Decoder):
    kind = nn.GRUCell


class Masked(Loop):
    """A policy whose episodes begin anew in some rows."""

    def between(self, t: int, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        keep = torch.ones(B, 1)
        keep[t % B] = float(t % 4 != 3)
        return tuple(part * keep for part in state)


class Damped(Loop):
    """A state that passes through other operations between the steps."""

    def between(self, t: int, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.tanh(1.3 * state[0]), 0.9 * state[1])


class Remembering(Loop):
    """Reads all its earlier states, as attention does."""

    def forward(self, x: Tensor) -> Tensor:
        state, said, seen = self.poke(0, *self.begin()), [], []
        for t in range(len(x)):
            context = torch.stack([*seen, state[0]]).mean(0)[:, :I]
            state = self.poke(t + 1, *self.step(x[t] + context, state))
            seen.append(state[0])
            said.append(self.out(state[0]))
        return torch.stack(said)


class Detached(Loop):
    """Cuts the state every third step."""

    def between(self, t: int, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(part.detach() for part in state) if t % 3 == 2 else state


class Marked(Loop):
    """Plain matrices, with marks."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Parameter(0.4 * torch.randn(H, H)), nn.Parameter(torch.randn(H, I))

    def begin(self) -> tuple[Tensor, ...]:
        return (torch.zeros(B, H),)

    def step(self, x_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (tt.mark("cell", torch.tanh(x_t @ self.U.T + state[0] @ self.W.T)),)  # pyright: ignore


class Leaky(nn.Module):
    """A step module: what it returns first is no state."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(I, H)
        self.decay = nn.Parameter(torch.tensor(0.8))

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        u, v = state
        v = self.decay * v + self.lift(x) - torch.sigmoid(u)
        u = u + 0.3 * torch.tanh(v)
        return torch.sigmoid(3 * v), (u, v)


class Spiking(nn.Module):
    """A loop over a step module whose output is read, and whose state comes back."""

    poke: Poke = staticmethod(untouched)

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = Leaky(), nn.Linear(H, I)

    def forward(self, x: Tensor) -> Tensor:
        state, said = self.poke(0, *(torch.zeros(B, H, requires_grad=True) for _ in range(2))), []
        for t in range(len(x)):
            spikes, state = self.cell(x[t], state)
            state = self.poke(t + 1, *state)
            said.append(self.out(spikes))
        return torch.stack(said)


class Stacked(Loop):
    """Two layers, one step of both at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.upper = nn.GRUCell(H, H)

    def forward(self, x: Tensor) -> Tensor:
        state, top, said = self.poke(0, *self.begin()), torch.zeros(B, H), []
        for t in range(len(x)):
            state = self.poke(t + 1, *self.step(x[t], state))
            top = self.upper(state[0], top)
            said.append(self.out(top))
        return torch.stack(said)


class Ring(Stacked):
    """Two layers, of which the lower one hears the upper one's last state."""

    def forward(self, x: Tensor) -> Tensor:
        state, top, said = self.poke(0, *self.begin()), torch.zeros(B, H), []
        for t in range(len(x)):
            state = self.poke(t + 1, *self.step(x[t] + top[:, :I], state))
            top = self.upper(state[0], top)
            said.append(self.out(top))
        return torch.stack(said)


def per_step(said: Tensor) -> Tensor:
    """One loss a step."""
    return (said - 0.3).pow(2).sum((1, 2))


def oracle(model: nn.Module, x: Tensor, losses=per_step) -> tuple[Tensor, Tensor]:
    """Return ∂E_v/∂s_k (V, T+1, B, S) and the losses, by one backward pass of autograd a loss."""
    zeros: dict[int, list[Tensor]] = {}

    def poke(k: int, *state: Tensor) -> tuple[Tensor, ...]:
        zeros[k] = [torch.zeros_like(part, requires_grad=True) for part in state]
        return tuple(part + zero for part, zero in zip(state, zeros[k], strict=True))

    model.poke = poke  # pyright: ignore
    try:
        found = losses(model(x))
    finally:
        del model.poke
    flat = [zero for k in sorted(zeros) for zero in zeros[k]]
    rows = []
    for loss in found if found.dim() else [found]:
        grads = torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True)
        grads = [torch.zeros_like(z) if g is None else g for z, g in zip(flat, grads, strict=True)]
        parts = len(zeros[0])
        rows.append(
            torch.stack(
                [torch.cat([g.flatten(1) for g in grads[i : i + parts]], 1)
                 for i in range(0, len(grads), parts)]
            )
        )  # fmt: skip
    return torch.stack(rows), found
