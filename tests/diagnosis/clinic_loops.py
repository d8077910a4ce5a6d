"""The clinic over loops of the user's own: cells in a ``for``, marked states, step modules, axes.

``PYTHONPATH=tests python ../shared/clinic/run.py tests/diagnosis/clinic_loops.py`` prints it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import throughtime as tt
from diagnosis.clinic_cases import Case, ce, traced


class Cells(nn.Module):
    """A cell of torch in a loop over time, and a read-out."""

    def __init__(self, cell=nn.LSTMCell, I=4, H=24, out=2, detach=0, both=False) -> None:
        super().__init__()
        self.cell, self.out = cell(I, H), nn.Linear(H, out)
        self.detach, self.H = detach, H

    def states(self, x: Tensor, state=None) -> Tensor:
        """Return the outputs of all steps, (T, B, H)."""
        found = []
        for t, x_t in enumerate(x):
            if self.detach and t and t % self.detach == 0:
                state = (
                    tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
                )
            state = self.cell(x_t, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found)

    def forward(self, x: Tensor, state=None) -> Tensor:
        return self.out(self.states(x, state))


def cells(
    cell=nn.LSTMCell, T=20, read="each", x=None, state=None, change=None, **options
) -> tt.Flow:
    """A loop over a cell of torch with a loss at each step, at the last or on the first row."""
    torch.manual_seed(0)
    x = torch.randn(T, 8, 4) if x is None else x
    model = Cells(cell, x.shape[-1], **options)
    if change is not None:
        with torch.no_grad():
            change(model)
    y = torch.randint(2, (8,))

    def losses() -> Tensor:
        scores = model(x, state)
        if read == "each":
            return scores.pow(2).mean((1, 2))
        if read == "swapped":
            return ce(scores[:, -1], torch.zeros(len(x), dtype=torch.long))
        return ce(scores[0 if read == "first" else -1], y)

    return traced(model, losses)


def spoiled(value: float) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(20, 8, 4)
    x[11, 3, 2] = value
    return x


def padded() -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(40, 8, 4)
    for row in range(8):
        x[6 + 3 * row :, row] = 0
    return x


def nan_state():
    state = torch.zeros(8, 24)
    state[2, 5] = math.nan
    return state


def old_state():
    torch.manual_seed(0)
    model = Cells(nn.GRUCell)
    state = model.states(torch.randn(5, 8, 4))[-1]
    x = torch.randn(9, 8, 4)
    return traced(model, lambda: model(x, state).pow(2).mean((1, 2)))


class Marked(nn.Module):
    """A linear recurrence with no module for it: its state is marked."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.W = nn.Parameter(gain * torch.linalg.qr(torch.randn(16, 16))[0])
        self.U = nn.Linear(3, 16)

    def forward(self, x: Tensor) -> Tensor:
        h, found = torch.zeros(x.shape[1], 16), []
        for x_t in x:
            h = tt.mark("core", self.U(x_t) + h @ self.W.T)
            found.append(h)
        return torch.stack(found)


def marked(gain=0.9, T=30, each=False) -> tt.Flow:
    torch.manual_seed(0)
    model, x = Marked(gain), torch.randn(T, 6, 3)

    def losses() -> Tensor:
        h = model(x)
        return h.pow(2).mean((1, 2)) if each else h[-1].pow(2).mean()

    return traced(model, losses)


class Attending(nn.Module):
    """A causal transformer whose positions are marked."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(5, 16), nn.Linear(16, 3)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        h = tt.mark_steps("input", self.embed(x), dim=1)
        return self.out(self.layer(h, src_mask=mask))


def axis() -> tt.Flow:
    torch.manual_seed(0)
    model, x, y = Attending(), torch.randn(6, 12, 5), torch.randint(3, (6, 12))
    return traced(model, lambda: ce(model(x).mT, y, reduction="none").mean(0))


class Leak(nn.Module):
    """A step of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Linear(16, 16), nn.Linear(3, 16)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.7 * h + 0.3 * torch.tanh(self.W(h) + self.U(x))


def own_step(T=12, read="each") -> tt.Flow:
    torch.manual_seed(0)
    model, x = nn.ModuleDict({"step": Leak(), "out": nn.Linear(16, 1)}), torch.randn(T, 5, 3)
    torch.manual_seed(1)
    with tt.trace(model, steps=[Leak]) as trace:
        h, found = torch.zeros(5, 16), []
        for x_t in x:
            h = model["step"](x_t, h)
            found.append(model["out"](h).pow(2).mean())
        losses = torch.stack(found) if read == "each" else found[-1]
    return trace.flow(losses)


def decoder(detached=False, far=False) -> tt.Flow:
    torch.manual_seed(0)
    model = nn.ModuleDict({"enc": nn.GRU(4, 24), "dec": nn.GRUCell(4, 24), "out": nn.Linear(24, 4)})
    x, y = torch.randn(8, 5, 4), torch.randn(6, 5, 4)

    def losses() -> Tensor:
        state = model["enc"](x)[1][-1]
        state = state.detach() if detached else state
        said, found = torch.zeros(5, 4), []
        for t in range(6):
            state = model["dec"](said, state)
            said = model["out"](state)
            found.append((said - y[t]).pow(2).mean())
        return torch.stack(found)

    return traced(model, losses)


def segments_of_a_gru(detached=True) -> tt.Flow:
    torch.manual_seed(0)
    rnn, out, x = nn.GRU(4, 24), nn.Linear(24, 1), torch.randn(30, 6, 4)

    def losses() -> Tensor:
        state, found = None, []
        for first in range(0, 30, 10):
            h, state = rnn(x[first : first + 10], state)
            if detached:
                state = state.detach()
            found.append(out(h).pow(2).mean((1, 2)))
        return torch.cat(found)

    return traced(rnn, losses)


def huge_bias(model: Cells) -> None:
    model.cell.bias_hh.fill_(20)


def nan_weight(model: Cells) -> None:
    model.cell.weight_hh[3, 3] = math.nan


def steep(model: Cells) -> None:
    model.cell.weight_hh.copy_(2 * torch.linalg.qr(torch.randn(24, 24))[0])
    model.cell.weight_ih *= 1e-6
    model.cell.bias_hh.zero_()
    model.cell.bias_ih.zero_()


def relu_cell(I: int, H: int) -> nn.RNNCell:
    return nn.RNNCell(I, H, nonlinearity="relu")


def sunk(model: Cells) -> None:
    model.cell.bias_hh.fill_(-9)


CASES = [
    Case("cells: NaN in the input", ("input-nonfinite",), lambda: cells(x=spoiled(math.nan))),
    Case("cells: -inf in a GRU's input", ("input-nonfinite",),
         lambda: cells(nn.GRUCell, x=spoiled(-math.inf))),
    Case("cells: NaN in a weight", ("weight-nonfinite",), lambda: cells(change=nan_weight)),
    Case("cells: NaN in h_0", ("initial-state-nonfinite",),
         lambda: cells(nn.GRUCell, state=nan_state())),
    Case("cells: state of the last batch", ("state-on-old-graph",), old_state),
    Case("cells: detached every 5 steps", ("state-cut",), lambda: cells(detach=5),
         lambda: cells()),
    Case("cells: detached every 4 steps, RNN", ("state-cut",),
         lambda: cells(nn.RNNCell, T=16, detach=4)),
    Case("segments of a GRU, detached", ("state-cut",), segments_of_a_gru,
         lambda: segments_of_a_gru(False)),
    Case("cells: prices", ("input-scale",),
         lambda: cells(x=3e4 + torch.randn(20, 8, 1, generator=torch.Generator().manual_seed(0)))),
    Case("cells: axes swapped", ("rows-without-gradient",), lambda: cells(read="swapped")),
    Case("cells: read at the first step", ("reads-one-step",), lambda: cells(read="first")),
    Case("cells: padded, read at the end", ("reads-padding",),
         lambda: cells(x=padded(), read="last")),
    Case("cells: biases of 20", ("saturated",), lambda: cells(nn.RNNCell, change=huge_bias)),
    Case("cells: dead ReLU units", ("dead-units",), lambda: cells(relu_cell, change=sunk)),
    Case("cells: asked 60 steps later", ("vanishes",), lambda: cells(T=60, read="last")),
    Case("cells: too much gain", ("explodes", "gradient-overflow"),
         lambda: cells(nn.RNNCell, T=40, read="last", change=steep)),
    Case("marks: asked 60 steps later", ("vanishes",), lambda: marked(0.8, 60)),
    Case("marks: too much gain", ("explodes",), lambda: marked(1.3, 40)),
    Case("decoder, encoder detached", ("no-gradient",), lambda: decoder(True), decoder),
    Case("own step, asked much later", ("vanishes",), lambda: own_step(80, "last")),
    Case("sound: cells, a loss a step", (), lambda: cells()),
    Case("sound: GRU cells, 8 steps", (), lambda: cells(nn.GRUCell, 8, "last")),
    Case("sound: segments of a GRU", (), lambda: segments_of_a_gru(False)),
    Case("sound: marks", (), lambda: marked(each=True)),
    Case("sound: marks, 20 steps, read at the end", (), lambda: marked(0.95, 20)),
    Case("sound: own step", (), own_step),
    Case("sound: decoder", (), decoder),
    Case("sound: transformer along its axis", (), axis),
]  # fmt: skip
