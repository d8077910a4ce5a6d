"""The source's other half: a recurrence with too much gain, whose gradient overflows."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..flow import NonFinite
from ..layers import RNN
from ..remedies import clip_gradient_, orthogonal_
from ..tasks.mention import Mention
from ..train.updating import update
from .recall import Budget, Network, Recall
from .word_reach import follow

__all__ = ["GAINS", "Overflow", "overflow"]

# β_W of the tanh RNN's orthogonal W_h.
GAINS = (1.0, 2.0, 5.0, 20.0)


@dataclass
class Overflow:
    """What became of one gain, with or without clipping.

    Attributes:
        gain: β_W.
        clip: the most that the gradient's norm may be, or None.
        loss: at the first update.
        norm: of the first gradient, in float64: inf or NaN where an entry is.
        float32_norm: as float32 computes it, which overflows first.
        first: the first non-finite number of the first pass.
        first_nan: the step, going back, at which the first NaN stands; None where there is none.
        by_step: norm of dE/ds_k over all rows at k = 0…T; inf and NaN as they come.
        updates: how many were made before the loss or the gradient was not finite, or all.
        stopped: what stopped it; empty where nothing did.
        last_loss: mean loss of the last five updates.
        largest: the largest |W_h| at the end.
        saturated: share of the states with |h| > 0.999 at the end.
    """

    gain: float
    clip: float | None
    loss: float
    norm: float
    float32_norm: float
    first: NonFinite | None
    first_nan: int | None
    by_step: list[float] = field(repr=False)
    updates: int = 0
    stopped: str = ""
    last_loss: float = math.nan
    largest: float = math.nan
    saturated: float = math.nan


def overflow(
    task: Mention,
    gain: float,
    clip: float | None,
    *,
    updates: int = 30,
    lag: int = 100,
    seed: int = 0,
) -> Overflow:
    """Train a tanh RNN with W_h = gain · orthogonal by plain gradient descent (eq. 7, 10).

    Args:
        task: whose texts it reads.
        gain: β_W.
        clip: the most that the gradient's norm may be, or None.
        updates: at most so many.
        lag: of every text.
        seed: of weights and texts.
    """
    budget = Budget()

    def layer(inputs: int, hidden: int, longest: int) -> nn.Module:
        return orthogonal_(RNN(inputs, hidden), gain)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Recall(task, Network("tanh RNN", layer), budget)
    rng = random.Random(seed)
    x, y, _ = task.batch(budget.rows, lag, rng)
    out = _first_pass(model, x, y, gain, clip)
    parameters, seen = list(model.parameters()), []
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for _ in range(updates):
        loss = nn.functional.cross_entropy(model(x), y)
        try:
            update(parameters, loss, optimizer, clip)
        except NonFiniteError as error:
            out.stopped = str(error)
            break
        seen.append(float(loss.detach()))
        x, y, _ = task.batch(budget.rows, lag, rng)
    out.updates = len(seen)
    out.last_loss = sum(seen[-5:]) / len(seen[-5:]) if seen else math.nan
    with torch.no_grad():
        h, _ = model.layer(model.embed(x))
        out.largest = float(model.layer.weight_hh_l0.abs().max())  # pyright: ignore
        out.saturated = float((h.abs() > 0.999).float().mean())
    return out


def _first_pass(model: Recall, x: Tensor, y: Tensor, gain: float, clip: float | None) -> Overflow:
    """Look at the first gradient, before any update."""
    (layer,) = follow(model, x, y, torch.float32).values()
    delta = layer.adjoint()
    nans = delta.isnan().flatten(1).any(1).nonzero().flatten()
    by_step = [float(torch.linalg.vector_norm(row, dtype=torch.float64)) for row in delta]
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    parameters = list(model.parameters())
    grads = [p.grad for p in parameters if p.grad is not None]
    return Overflow(
        gain,
        clip,
        float(loss.detach()),
        clip_gradient_(parameters, math.inf),
        float(nn.utils.get_total_norm(grads)),
        layer.first_nonfinite,
        int(nans[-1]) if len(nans) else None,
        by_step,
    )
