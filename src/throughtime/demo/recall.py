"""Networks that learn, with the same budget, to name who was mentioned long ago."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..cells import LayerNormLSTM, Leaky, MinGRU, PeepholeLSTM
from ..errors import InputValueError
from ..flow import LayerFlow
from ..layers import GRU, LSTM, RNN, Recurrent
from ..remedies import chrono_
from ..tasks.mention import LONG, SHORT, Mention
from ..train.updating import update
from .word_reach import ByLag, bounds, follow, relative_norm

__all__ = [
    "FURTHER",
    "NETWORKS",
    "Budget",
    "Network",
    "Recall",
    "Recalled",
    "Score",
    "learn",
    "networks",
]

# How often, in updates, it is asked whether a network has learned its task.
LOOK = 50


@dataclass(frozen=True)
class Network:
    """One row of the comparison.

    Attributes:
        name: as tables show it.
        layer: builds the recurrent layer from its input size, hidden size and the longest lag.
    """

    name: str
    layer: Callable[[int, int, int], nn.Module]


# One row a network; a row more is a network more in table, figures and page.
NETWORKS: tuple[Network, ...] = (
    Network("sigmoid RNN", lambda i, h, lag: RNN(i, h, nonlinearity="sigmoid")),
    Network("tanh RNN", lambda i, h, lag: RNN(i, h)),
    Network("GRU", lambda i, h, lag: GRU(i, h)),
    Network("LSTM", lambda i, h, lag: LSTM(i, h)),
    Network("chrono LSTM", lambda i, h, lag: chrono_(LSTM(i, h), max(lag, 3))),
)

# Those that run only where they are named.
FURTHER: tuple[Network, ...] = (
    Network("leaky RNN", lambda i, h, lag: Recurrent(Leaky(i, h))),
    Network("minGRU", lambda i, h, lag: Recurrent(MinGRU(i, h))),
    Network("peephole LSTM", lambda i, h, lag: Recurrent(PeepholeLSTM(i, h))),
    Network("layer-norm LSTM", lambda i, h, lag: Recurrent(LayerNormLSTM(i, h))),
)


def networks(names: str) -> tuple[Network, ...]:
    """Return the networks of a list like ``"LSTM,minGRU"``, in its order.

    Args:
        names: of rows above, separated by commas; capitals, blanks and hyphens do not count.

    Raises:
        InputValueError: there is no such network, or one is named twice.
    """
    known = {_plain(network.name): network for network in (*NETWORKS, *FURTHER)}
    wanted = [_plain(name) for name in names.split(",")]
    for name, given in zip(wanted, names.split(","), strict=True):
        if name not in known:
            listed = ", ".join(network.name for network in known.values())
            raise InputValueError(f"there is no network {given.strip()!r}; there are {listed}.")
        if wanted.count(name) > 1:
            raise InputValueError(f"{known[name].name} is named twice; name each network once.")
    return tuple(known[name] for name in wanted)


def _plain(name: str) -> str:
    return name.lower().replace(" ", "").replace("-", "")


@dataclass(frozen=True)
class Budget:
    """What every network gets.

    Attributes:
        updates: at most so many; fewer where the task is learned before.
        rows: texts an update.
        hidden: H.
        width: of a word's embedding.
        rate: of Adam.
        clip: of the gradient's norm.
        learned: the mean loss of 50 updates below which a network stops.
        tested: texts a lag in the test.
    """

    updates: int = 3000
    rows: int = 32
    hidden: int = 64
    width: int = 32
    rate: float = 3e-3
    clip: float = 1.0
    learned: float = 0.02
    tested: int = 400


class Recall(nn.Module):
    """Embedding → recurrent layer → readout of the last state: x (T, B) → logits (B, N)."""

    def __init__(self, task: Mention, network: Network, budget: Budget) -> None:
        """Build the network for a task."""
        super().__init__()
        self.embed = nn.Embedding(len(task.vocabulary), budget.width)
        self.layer = network.layer(budget.width, budget.hidden, task.lags[-1])
        self.readout = nn.Linear(budget.hidden, len(task.names))

    def forward(self, x: Tensor) -> Tensor:
        """Read words (T, B) and give logits of the names (B, N)."""
        output, _ = self.layer(self.embed(x))
        return self.readout(output[-1])


@dataclass(frozen=True)
class Score:
    """How many of the texts of one lag were answered right, with Wilson's 95 % interval."""

    lag: int
    right: int
    of: int

    @property
    def share(self) -> float:
        """Right answers as a share."""
        return self.right / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %, which holds at 0 and 1 too."""
        z, n, p = 1.959964, self.of, self.share
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class Recalled:
    """What one network did.

    Attributes:
        name: of the network.
        updates: how many it took.
        learned: whether it stopped because the task was learned.
        seconds: of training.
        losses: mean cross entropy of each 50 updates.
        scores: right answers by lag.
        source: P(John) on the source's two sentences, short and long.
        before: reach of the gradient to the mention, by lag, at initialisation.
        after: the same after training.
        silent: lags at which before training the gradient is exactly 0 in float32.
        bounds: truth and bounds at initialisation, on texts of the longest lag.
        sentence: the gradient's way over the source's long sentence, at initialisation.
    """

    name: str
    updates: int = 0
    learned: bool = False
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    source: tuple[float, float] = (0.0, 0.0)
    before: dict[int, float] = field(default_factory=dict)
    after: dict[int, float] = field(default_factory=dict)
    silent: list[int] = field(default_factory=list)
    bounds: ByLag | None = None
    sentence: LayerFlow | None = None


def learn(
    task: Mention,
    network: Network,
    budget: Budget,
    lags: tuple[int, ...],
    seed: int,
    *,
    measure_bounds: bool = False,
    advance: Callable[[int], None] = lambda updates: None,
) -> Recalled:
    """Train one network on the task, and measure it before and after.

    Args:
        task: what it is trained on.
        network: its row.
        budget: what it gets.
        lags: what it is tested at.
        seed: of weights and texts; the same texts come in the same order for every network.
        measure_bounds: whether to hold the Jacobians against their bounds, which takes seconds.
        advance: called with the number of updates made, for a progress bar.

    Raises:
        NonFiniteError: the loss or the gradient turned inf or NaN.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Recall(task, network, budget)
        out = Recalled(network.name)
        out.before = _reaches(model, task, lags)
        narrow = _reaches(model, task, lags, torch.float32)
        out.silent = [lag for lag in lags if narrow[lag] == 0]
        out.sentence = _sentence(model, task)
        if measure_bounds:
            x, y, _ = task.batch(4, max(lags), random.Random("bounds"))
            (layer,) = follow(model, x, y).values()
            out.bounds = bounds(layer, max(lags))
        _train(model, task, budget, seed, out, advance)
        out.after = _reaches(model, task, lags)
        _test(model, task, budget, lags, out)
    return out


def _train(
    model: Recall,
    task: Mention,
    budget: Budget,
    seed: int,
    out: Recalled,
    advance: Callable[[int], None],
) -> None:
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, budget.rate)
    rng, seen, began = random.Random(seed), [], time.perf_counter()
    for out.updates in range(1, budget.updates + 1):
        x, y, _ = task.batch(budget.rows, task.draw_lag(rng), rng)
        loss = nn.functional.cross_entropy(model(x), y)
        update(parameters, loss, optimizer, budget.clip)
        seen.append(float(loss.detach()))
        advance(1)
        if len(seen) == LOOK:
            out.losses.append(sum(seen) / LOOK)
            seen.clear()
            if out.losses[-1] < budget.learned:
                out.learned = True
                break
    advance(budget.updates - out.updates)
    out.seconds = time.perf_counter() - began


def _reaches(
    model: Recall, task: Mention, lags: tuple[int, ...], dtype: torch.dtype = torch.float64
) -> dict[int, float]:
    """Return the reach to the mention at each lag."""
    found = {}
    for lag in lags:
        x, y, _ = task.batch(32, lag, random.Random(f"reach {lag}"))
        found[lag] = relative_norm(model, x, y, task.mention_step, dtype)
    return found


def _sentence(model: Recall, task: Mention) -> LayerFlow:
    (layer,) = follow(model, *task.encode([LONG])).values()
    return layer


@torch.no_grad()
def _test(
    model: Recall, task: Mention, budget: Budget, lags: tuple[int, ...], out: Recalled
) -> None:
    for lag in lags:
        x, y, _ = task.batch(budget.tested, lag, random.Random(f"test {lag}"))
        right = int((model(x).argmax(1) == y).sum())
        out.scores.append(Score(lag, right, budget.tested))
    chances = []
    for text in (SHORT, LONG):
        x, y = task.encode([text])
        chances.append(float(model(x).softmax(1)[0, y[0]]))
    out.source = (chances[0], chances[1])
