"""Random models and losses, drawn from a seed: what the fuzz of flows runs.

`draw(seed)` returns a `Case`: plain data that says which recurrent layers there are, what runs over
what, and which losses read what. Its repr begins with the seed, and the seed gives it again. All
numbers (inputs, weights, mixing matrices) come from `Case.numbers`, by name, so that every run of a
case sees the same ones.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, field

import torch
from torch import Tensor

# How a link carries a signal over: these keep the number of steps ...
KEEPING = ("plain", "plain", "linear", "tanh", "flip", "shift", "cumsum", "roll rows")
# ... and these give any number of steps.
RESIZING = ("mean", "last", "mix")
TORCH = ("nn.RNN", "nn.LSTM", "nn.GRU")
OURS = ("tt.RNN", "tt.LSTM", "tt.GRU")
CELLS = (
    "Elman", "LSTM", "GRU", "Leaky", "MinGRU", "PeepholeLSTM", "LayerNormLSTM",
    "Function", "Function: two parts", "Function: rows mix",
)  # fmt: skip


@dataclass
class LayerPlan:
    """One recurrent module: its class, sizes, and constructor's options."""

    kind: str
    I: int
    H: int
    options: dict[str, object]

    @property
    def directions(self) -> int:
        """How many directions a layer of the module has."""
        return 2 if self.options.get("bidirectional") else 1


@dataclass
class Link:
    """A way from an earlier run's signal (None: an input of its own) into a run's input."""

    source: int | None
    through: str
    detach: bool = False


@dataclass
class RunPlan:
    """One call of a layer.

    Attributes:
        layer: which layer; a layer may run more than once.
        T: how many steps it takes.
        links: what its input is the sum of.
        state: the run whose final state it begins from, "leaf" for a tensor with a gradient, None
            for zeros.
        lengths: the steps of each row, or None.
        packed: whether the lengths come by a PackedSequence.
        reset: whether states are reset inside.
        residual: whether the input is added to the output.
    """

    layer: int
    T: int
    links: list[Link]
    state: int | str | None = None
    lengths: list[int] | None = None
    packed: bool = False
    reset: bool = False
    residual: bool = False


@dataclass
class Term:
    """One summand of a loss: a weighted sum over part of a run's signal or final states."""

    run: int
    of: str
    power: int
    steps: list[int] | None
    rows: list[int] | None
    units: int


@dataclass
class Case:
    """A model, its runs, its losses, and how the flow is asked for.

    Attributes:
        seed: what it was drawn from.
        losses: "steps" (one a step of the last run), or a list of losses, each a list of terms.
        scalar: whether the losses are summed to a scalar.
        grad: whether inputs require grad.
        hooks: a user's observers: ("signal" or "final", run) or ("layer", layer).
        window, every: the options of `Trace.flow`.
    """

    seed: int
    B: int
    regime: str
    dtype: torch.dtype
    layers: list[LayerPlan]
    runs: list[RunPlan]
    losses: str | list[list[Term]]
    scalar: bool
    grad: bool
    hooks: list[tuple[str, int]] = field(default_factory=list)
    window: int | None = None
    every: int | None = None

    def numbers(self, name: str, *shape: int) -> Tensor:
        """Return the normal numbers of that name and shape, float64, rounded to the dtype."""
        seed = zlib.crc32(f"{self.seed}/{name}/{shape}".encode())
        drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()
        return drawn.to(self.dtype).double()

    def resets(self, run: int) -> Tensor | None:
        """Return where run's states are reset, (T, B), or None."""
        if not self.runs[run].reset:
            return None
        return self.numbers(f"reset {run}", self.runs[run].T, self.B) > 0.8


def draw(seed: int) -> Case:
    """Return the case of a seed."""
    rng = random.Random(seed)
    B = rng.randint(1, 4)
    layers: list[LayerPlan] = []
    runs: list[RunPlan] = []
    for number in range(rng.choice((1, 2, 2, 3, 4))):
        links = _links(rng, runs, T := _steps(rng, runs))
        if number and rng.random() < 0.2:
            layer, state = rng.randrange(len(layers)), None
        else:
            layer, state = len(layers), _state(rng, runs)
            layers.append(_layer(rng))
        run = RunPlan(layer, T, links, state, residual=rng.random() < 0.15)
        _make_ragged(rng, run, layers[layer], B)
        runs.append(run)
    case = Case(
        seed,
        B,
        regime=rng.choice(("default", "default", "contracting", "orthogonal", "saturated")),
        dtype=torch.float32 if rng.random() < 0.15 else torch.float64,
        layers=layers,
        runs=runs,
        losses=_losses(rng, runs, layers, B),
        scalar=rng.random() < 0.2,
        grad=rng.random() < 0.5,
    )
    _add_options(rng, case)
    return case


def _steps(rng: random.Random, runs: list[RunPlan]) -> int:
    """Draw T: often that of an earlier run, so that runs of one length meet."""
    if runs and rng.random() < 0.6:
        return rng.choice(runs).T
    return rng.choice((1, 2, 3, 4, 4, 5, 5, 6, 6, 8, 12))


def _layer(rng: random.Random) -> LayerPlan:
    kind = rng.choice((*TORCH, *TORCH, *OURS, *OURS, *CELLS))
    I, H = rng.randint(1, 4), rng.randint(1, 5)
    if kind == "LayerNormLSTM":
        H = rng.randint(4, 6)  # of two entries N makes ±1, whose gradient is rounding alone
    options: dict[str, object] = {"batch_first": rng.random() < 0.3}
    if kind in CELLS:
        if not kind.startswith("Function"):
            options["bias"] = rng.random() < 0.8
        if kind in {"Elman", "Leaky"}:
            options["nonlinearity"] = rng.choice(("tanh", "relu", "sigmoid", "identity"))
        return LayerPlan(kind, I, H, options)
    options |= {
        "num_layers": rng.choice((1, 1, 1, 2)),
        "bidirectional": rng.random() < 0.25,
        "bias": rng.random() < 0.8,
    }
    if kind.endswith("RNN"):
        more = ("sigmoid", "identity") if kind == "tt.RNN" else ()
        options["nonlinearity"] = rng.choice(("tanh", "relu", *more))
    if kind.endswith("LSTM") and H > 1 and rng.random() < 0.3:
        options["proj_size"] = rng.randint(1, H - 1)
    return LayerPlan(kind, I, H, options)


def _links(rng: random.Random, runs: list[RunPlan], T: int) -> list[Link]:
    links = []
    for _ in range(1 if rng.random() < 0.75 else 2):
        fresh = not runs or rng.random() < 0.15
        source = None if fresh else rng.choice((*range(len(runs)), len(runs) - 1))
        resizes = source is not None and runs[source].T != T
        ways = RESIZING if resizes else (*KEEPING, *RESIZING)
        way = "plain" if source is None else rng.choice(ways)
        links.append(Link(source, way, detach=source is not None and rng.random() < 0.1))
    return links


def _state(rng: random.Random, runs: list[RunPlan]) -> int | str | None:
    """Draw where a new layer begins; a layer never begins from its own earlier run here."""
    if runs and rng.random() < 0.3:
        return rng.randrange(len(runs))
    return "leaf" if rng.random() < 0.2 else None


def _make_ragged(rng: random.Random, run: RunPlan, layer: LayerPlan, B: int) -> None:
    """Draw lengths and resets, as far as the layer takes them."""
    if rng.random() < 0.25 and layer.kind != "Function: rows mix":
        run.lengths = [rng.randint(1, run.T) for _ in range(B)]
        run.packed = layer.kind in TORCH or rng.random() < 0.3
        if run.packed:  # which has as many steps as its longest row
            run.lengths[rng.randrange(B)] = run.T
    run.reset = layer.kind not in TORCH and rng.random() < 0.2


def _losses(
    rng: random.Random, runs: list[RunPlan], layers: list[LayerPlan], B: int
) -> str | list[list[Term]]:
    if rng.random() < 0.4:
        return "steps"
    V = rng.randint(1, 5)
    losses = [[_term(rng, runs, B, V) for _ in range(rng.choice((1, 1, 2, 3)))] for _ in range(V)]
    if V > 1 and rng.random() < 0.1:
        losses[rng.randrange(V - 1)] = []  # which reads nothing
    return losses


def _term(rng: random.Random, runs: list[RunPlan], B: int, V: int) -> Term:
    run = rng.randrange(len(runs)) if rng.random() < 0.5 else len(runs) - 1
    T = runs[run].T
    steps = rng.sample(range(T), rng.choice((1, 1, min(2, T), T)))
    rows = sorted(rng.sample(range(B), rng.randint(1, B)))
    # One loss for each row of the batch is refused, so losses as many as rows read all rows.
    return Term(
        run,
        of="final" if rng.random() < 0.2 else "signal",
        power=rng.choice((1, 2)),
        steps=None if rng.random() < 0.1 else sorted(steps),
        rows=None if V == B or rng.random() < 0.5 else rows,
        units=rng.randint(1, 3),
    )


def _add_options(rng: random.Random, case: Case) -> None:
    """Draw hooks, window and every."""
    for number in range(len(case.runs)):
        if rng.random() < 0.2:
            case.hooks.append((rng.choice(("signal", "final")), number))
    for number in range(len(case.layers)):
        runs = [run for run in case.runs if run.layer == number]
        # Such a hook warns where the layer's input has no gradient, and sees no PackedSequence.
        quiet = all(not run.packed and all(not k.detach for k in run.links) for run in runs)
        if quiet and rng.random() < 0.1:
            case.hooks.append(("layer", number))
            case.grad = True
    if rng.random() < 0.4:
        case.window = rng.choice((1, 1, 2, rng.randint(1, max(run.T for run in case.runs))))
    if rng.random() < 0.2:
        case.every = rng.choice((2, 3))
    # What keeps few digits in float32: 1 − h² of saturated units, and the mean and the slope that
    # layer normalisation takes out.
    if case.regime == "saturated" or any(plan.kind == "LayerNormLSTM" for plan in case.layers):
        case.dtype = torch.float64
