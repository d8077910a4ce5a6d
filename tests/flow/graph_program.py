"""A random case as a program: its modules, its links and its losses, over any way to run a layer.

The same program runs three times: over the model's own modules, over the loops of `graph_oracle`,
and over leaves in place of layers. What runs a layer is the argument ``call``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import throughtime as tt

from .random_graphs import CELLS, Case, LayerPlan, Link

# Runs a layer: (number of the run, x (T, B, I), s_0 (L·D, B, S) or None) -> output, final states.
Call = Callable[[int, Tensor, Tensor | None], tuple[Tensor, Tensor]]
FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Function": lambda x, s, U, W, b: torch.tanh(x @ U.T + s @ W.T + b) + 0.5 * s,
    # A state of two parts, of which the layer puts out the first.
    "Function: two parts": lambda x, s, U, W, b: torch.sin(x @ U.T + s @ W.T + b) * s.cos(),
    "Function: rows mix": lambda x, s, U, W, b: torch.tanh(x @ U.T + s @ W.T + b) + s.mean(0) / 2,
}


@dataclass
class Ran:
    """What a program gave.

    Attributes:
        losses: (V,), or a scalar.
        outputs, finals: of every run: (T, B, ·), and (L·D, B, S).
        leaves: inputs and initial states that have a gradient, by name.
    """

    losses: Tensor
    outputs: list[Tensor]
    finals: list[Tensor]
    leaves: dict[str, Tensor]


@dataclass
class Observers:
    """A user's hooks, which look at the gradients and change nothing."""

    seen: dict[str, list[Tensor]] = field(default_factory=dict)

    def look(self, name: str, grad: Tensor | None) -> None:
        """Write the gradient down; torch calls hooks with None where a node has other outputs."""
        if grad is not None:
            assert float(grad.norm()) >= 0, "a hook that uses a gradient's value got NaN"
            self.seen.setdefault(name, []).append(grad.detach().clone())

    def watch(self, name: str, tensor: Tensor) -> Tensor:
        """Put a hook on a tensor."""
        if tensor.requires_grad:
            tensor.register_hook(lambda grad: self.look(name, grad))
        return tensor


def state_width(plan: LayerPlan) -> int:
    """Return S of a layer's states."""
    if plan.kind in {"nn.LSTM", "tt.LSTM"}:
        return plan.H + int(plan.options.get("proj_size") or plan.H)  # pyright: ignore
    if plan.kind.endswith("LSTM"):
        return 2 * plan.H
    return plan.H + 2 * (plan.kind == "Function: two parts")


def _layer(case: Case, number: int) -> nn.Module:
    plan = case.layers[number]
    options = dict(plan.options)
    if plan.kind not in CELLS:
        room, name = plan.kind.split(".")
        made = getattr({"nn": nn, "tt": tt}[room], name)
        return made(plan.I, plan.H, **options, dtype=case.dtype)
    batch_first = bool(options.pop("batch_first"))
    if plan.kind.startswith("Function"):
        S = state_width(plan)
        shapes = {"U": (S, plan.I), "W": (S, S), "b": (S,)}
        weights = {n: torch.empty(s, dtype=case.dtype) for n, s in shapes.items()}
        cell = tt.cells.Function(FUNCTIONS[plan.kind], plan.I, plan.H, S, weights=weights)
    else:
        cell = getattr(tt.cells, plan.kind)(plan.I, plan.H, **options, dtype=case.dtype)
    return tt.Recurrent(cell, batch_first=batch_first)


class Model(nn.Module):
    """A case's recurrent layers, with weights of the case's own."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layer(case, n) for n in range(len(case.layers)))
        with torch.no_grad():
            for name, weight in self.named_parameters():
                width = weight.shape[-1] if weight.dim() > 1 else 4
                drawn = case.numbers(name, *weight.shape) / width**0.5
                weight.copy_(1 + drawn / 4 if "gain" in name else drawn * 0.8)
                if "weight_hh" in name or name.endswith(".W"):
                    weight.copy_(_in_regime(case.regime, weight))
                elif case.regime == "saturated" and "weight_hr" not in name:
                    weight.mul_(2)


def _in_regime(regime: str, weight: Tensor) -> Tensor:
    n = weight.shape[1]
    if regime == "orthogonal" and weight.shape[0] % n == 0:
        blocks = [torch.linalg.qr(block.double())[0] for block in weight.split(n)]
        return torch.cat(blocks).to(weight)
    return weight * {"contracting": 0.5, "saturated": 2.0}.get(regime, 1.0)


def call_layers(model: Model, case: Case) -> Call:
    """Return how the model's own modules are run, as a user runs them."""

    def call(number: int, x: Tensor, s_0: Tensor | None) -> tuple[Tensor, Tensor]:
        run = case.runs[number]
        plan, layer = case.layers[run.layer], model.layers[run.layer]
        first = bool(plan.options["batch_first"])
        recurrent, pair = plan.kind in CELLS, plan.kind in {"nn.LSTM", "tt.LSTM"}
        given, options = x.transpose(0, 1) if first else x, {}
        if run.packed:
            lengths = torch.tensor(run.lengths)
            given = pack_padded_sequence(given, lengths, first, enforce_sorted=False)
        elif run.lengths is not None:
            options["lengths"] = run.lengths
        if run.reset:
            options["reset"] = case.resets(number)
        if s_0 is not None:
            S, H = s_0.shape[-1], plan.H
            halves = tuple(part.contiguous() for part in s_0.split((S - H, H), -1)) if pair else ()
            options["hx"] = s_0[0] if recurrent else halves if pair else s_0
        output, final = layer(given, **options)
        if run.packed:
            output = pad_packed_sequence(output, first, total_length=run.T)[0]
        output = output.transpose(0, 1) if first else output
        final = torch.cat(final, -1) if pair else final
        return output, final[None] if recurrent else final

    return call


def run_program(
    case: Case, call: Call, dtype: torch.dtype, observers: Observers | None = None
) -> Ran:
    """Run a case.

    Args:
        case: the case.
        call: what runs a layer.
        dtype: of the numbers.
        observers: where the case's hooks write.
    """
    signals: list[Tensor] = []
    outputs: list[Tensor] = []
    finals: list[Tensor] = []
    leaves: dict[str, Tensor] = {}

    def leaf(name: str, *shape: int, grad: bool) -> Tensor:
        leaves[name] = case.numbers(name, *shape).to(dtype).requires_grad_(grad)
        return leaves[name]

    def project(name: str, x: Tensor, width: int) -> Tensor:
        matrix = case.numbers(name, x.shape[-1], width) / x.shape[-1] ** 0.5
        return x @ matrix.to(x)

    def bounded(x: Tensor) -> Tensor:
        # A unit that is driven far into its flat part has no digits left in its slope.
        hard = case.regime == "saturated" or case.dtype == torch.float32
        return x.tanh() if hard else x

    def linked(name: str, link: Link, T: int, width: int) -> Tensor:
        if link.source is None:
            return leaf(name, T, case.B, width, grad=case.grad)
        x = _through_time(case, name, link.through, signals[link.source], T)
        x = bounded(x)
        if link.detach:
            x = x.detach()
        if link.through in {"linear", "tanh"} or x.shape[-1] != width:
            x = project(name, x, width)
        return x.tanh() if link.through == "tanh" else x

    for number, run in enumerate(case.runs):
        plan = case.layers[run.layer]
        parts = [linked(f"x{number}.{j}", k, run.T, plan.I) for j, k in enumerate(run.links)]
        x = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
        s_0, runs = None, int(plan.options.get("num_layers", 1)) * plan.directions  # pyright: ignore
        shape = (runs, case.B, state_width(plan))
        if run.state == "leaf":
            s_0 = leaf(f"s{number}", *shape, grad=True)
        elif isinstance(run.state, int):
            s_0 = bounded(finals[run.state])
            if s_0.shape != shape:
                s_0 = project(f"s{number}", s_0.mean(0, keepdim=True), shape[-1]).expand(shape)
        output, final = call(number, x, s_0)
        signal = output
        if run.residual:
            signal = output + project(f"residual {number}", x, output.shape[-1])
        if observers is not None and ("signal", number) in case.hooks:
            signal = observers.watch(f"signal {number}", signal)
        if observers is not None and ("final", number) in case.hooks:
            final = observers.watch(f"final {number}", final)
        outputs.append(output)
        signals.append(signal)
        finals.append(final)
    return Ran(_losses(case, signals, finals), outputs, finals, leaves)


def _through_time(case: Case, name: str, way: str, x: Tensor, T: int) -> Tensor:
    """Return a signal as a link lays it over T steps."""
    if way == "flip":
        return x.flip(0)
    if way == "shift":
        return torch.cat((torch.zeros_like(x[:1]), x[:-1]))
    if way == "cumsum":
        return x.cumsum(0) / len(x)
    if way == "roll rows":
        return x.roll(1, 1)
    if way == "mean":
        return x.mean(0, keepdim=True).expand(T, -1, -1)
    if way == "last":
        return x[-1:].expand(T, -1, -1)
    if way == "mix":
        weights = case.numbers(f"{name} mix", T, x.shape[0]).softmax(1).to(x)
        return torch.einsum("ts,sbi->tbi", weights, x)
    return x


def _losses(case: Case, signals: list[Tensor], finals: list[Tensor]) -> Tensor:
    if case.losses == "steps":
        read = signals[-1]
        weights = case.numbers("loss", *read.shape).to(read)
        losses = (read * weights).sum((1, 2)) + read.pow(2).mean((1, 2))
        return losses.sum() if case.scalar else losses
    losses = []
    for v, terms in enumerate(case.losses):
        loss = signals[-1].new_zeros(())
        for j, term in enumerate(terms):  # pyright: ignore[reportArgumentType]
            read = (signals if term.of == "signal" else finals)[term.run]
            if term.of == "signal" and term.steps is not None:
                read = read[term.steps]
            if term.rows is not None:
                read = read[:, term.rows]
            read = read[..., : term.units]
            loss = (
                loss + (read.pow(term.power) * case.numbers(f"{v}.{j}", *read.shape).to(read)).sum()
            )
        losses.append(loss)
    return torch.stack(losses).sum() if case.scalar else torch.stack(losses)
