"""The oracle of the fuzz: every recurrence as a loop of torch operations, and autograd over it.

Nothing here uses a cell, a sweep, a tape or a flow of the package. Each state s_t = (h_t, c_t) is
replaced by an alias as soon as it is made, so that dE/dc_t does not count the way through h_t of
the same step, and each step has its own copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from oracles.by_hand import gradient
from oracles.by_hand import step as torch_step

from .graph_program import FUNCTIONS, Model, Ran, run_program, state_width
from .random_graphs import CELLS, Case, LayerPlan


@dataclass
class Steps:
    """One layer in one direction, step by step in its own order.

    Attributes:
        run, place: which run's, and which of its layers and directions.
        reverse: whether step 1 is the input's last.
        takes: (T, B), whether a row takes the step.
        states: the aliases of s_0 … s_T.
        reads: aliases of the states 1 … T that outputs and final states are read from.
        weights: each step's own copies.
        parameters: each weight's leaf, of which the copies are made.
    """

    run: int
    place: int
    reverse: bool
    takes: Tensor
    parameters: dict[str, Tensor]
    states: list[Tensor] = field(default_factory=list)
    reads: list[Tensor] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def last(self) -> list[int]:
        """The last own step that each row takes."""
        T = len(self.takes)
        return [max(t for t in range(1, T + 1) if takes[t - 1]) for takes in self.takes.T]


def step(plan: LayerPlan, w: dict[str, Tensor], x: Tensor, s: Tensor) -> Tensor:
    """Take one step of any layer's recurrence, by its equations in docs/math.md."""
    if plan.kind.startswith("Function"):
        return FUNCTIONS[plan.kind](x, s, **w)
    activation = str(plan.options.get("nonlinearity", "tanh"))
    if plan.kind == "MinGRU":
        z, n = linear(x, w["weight_ih"], w.get("bias_ih")).chunk(2, -1)
        return (1 - torch.sigmoid(z)) * s + torch.sigmoid(z) * n
    if plan.kind == "Leaky":
        return 0.8 * s + 0.2 * torch_step(activation, w, x, s)
    if plan.kind == "PeepholeLSTM":
        return _peephole(w, x, s)
    if plan.kind == "LayerNormLSTM":
        return _layer_norm(w, x, s)
    name = plan.kind.split(".")[-1].lower()
    return torch_step(activation if name in {"rnn", "elman"} else name, w, x, s)


def _peephole(w: dict[str, Tensor], x: Tensor, s: Tensor) -> Tensor:
    h, c = s.chunk(2, -1)
    a = linear(x, w["weight_ih"], w.get("bias_ih")) + linear(h, w["weight_hh"], w.get("bias_hh"))
    i, f, g, o = a.chunk(4, -1)
    p_i, p_f, p_o = w["weight_ch"]
    new = torch.sigmoid(f + p_f * c) * c + torch.sigmoid(i + p_i * c) * torch.tanh(g)
    return torch.cat((torch.sigmoid(o + p_o * new) * torch.tanh(new), new), -1)


def _layer_norm(w: dict[str, Tensor], x: Tensor, s: Tensor) -> Tensor:
    def normed(v: Tensor) -> Tensor:
        return nn.functional.layer_norm(v, v.shape[-1:], eps=1e-5)

    h, c = s.chunk(2, -1)
    a = w["gain_ih"] * normed(linear(x, w["weight_ih"]))
    a = a + w["gain_hh"] * normed(linear(h, w["weight_hh"]))
    for bias in ("bias_ih", "bias_hh"):
        a = a + w.get(bias, torch.zeros(()))
    i, f, g, o = a.chunk(4, -1)
    new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    m = w["gain_c"] * normed(new) + w.get("bias_c", torch.zeros(()))
    return torch.cat((torch.sigmoid(o) * torch.tanh(m), new), -1)


class Oracle:
    """A case run by loops.

    Attributes:
        ran: what the program gave.
        steps: every layer and direction of every run, by the name that a flow gives it.
        parameters: a leaf in float64 for each of the model's parameters, by its name.
        direct: for each name the direct gradients (V, T, B) that are not 0, as a mask, by the
            layer's own steps; for a scalar V is 1.
    """

    def __init__(self, case: Case, model: Model) -> None:
        """Run the case, in float64."""
        self.case = case
        self.parameters = {
            n: w.detach().double().requires_grad_() for n, w in model.named_parameters()
        }
        self.steps: dict[str, Steps] = {}
        self.ran: Ran = run_program(case, self._call, torch.float64)
        self.direct = self._find_reads()

    def _call(self, number: int, x: Tensor, s_0: Tensor | None) -> tuple[Tensor, Tensor]:
        run = self.case.runs[number]
        plan = self.case.layers[run.layer]
        finals: list[Tensor] = []
        for floor in range(int(plan.options.get("num_layers", 1))):  # pyright: ignore
            outputs = []
            for back in ("", "_reverse")[: plan.directions]:
                begin = None if s_0 is None else s_0[len(finals)]
                steps = self._direction(number, len(finals), floor, back, x, begin)
                outputs.append(self._output(plan, steps))
                finals.append(
                    torch.stack([steps.reads[t - 1][b] for b, t in enumerate(steps.last)])
                )
            x = torch.cat(outputs, -1)
        return x, torch.stack(finals)

    def _direction(
        self, number: int, place: int, floor: int, back: str, x: Tensor, s_0: Tensor | None
    ) -> Steps:
        run = self.case.runs[number]
        plan, (T, B, _) = self.case.layers[run.layer], x.shape
        lengths = torch.tensor(run.lengths or [T] * B)
        takes = torch.arange(T)[:, None] < lengths
        reset = self.case.resets(number)
        reset = torch.zeros(T, B, dtype=torch.bool) if reset is None else reset & takes
        order = list(reversed(range(T))) if back else list(range(T))
        steps = Steps(
            number, place, back != "", takes[order], self._weights(plan, run, floor, back)
        )
        s = steps.parameters["weight_ih" if "weight_ih" in steps.parameters else "U"].new_zeros(
            B, state_width(plan)
        )
        s = (s if s_0 is None else s_0) * 1
        steps.states.append(s if s.requires_grad else s.requires_grad_())
        for t in order:
            before = steps.states[-1]
            # A boundary before step t is met by the reverse direction on its way to step t − 1.
            at = t + 1 if back else t
            if at < T:
                before = torch.where(reset[at][:, None], 0.0, before)
            copies = {n: w * 1 for n, w in steps.parameters.items()}
            s = torch.where(takes[t][:, None], step(plan, copies, x[t], before), steps.states[-1])
            steps.states.append(s * 1)
            steps.reads.append(steps.states[-1] * 1)
            steps.weights.append(copies)
        name = f"layers.{run.layer}.l{floor}{back}"
        again = sum(known.split("@")[0] == name for known in self.steps)
        self.steps[f"{name}@{again + 1}" if again else name] = steps
        return steps

    def _weights(self, plan: LayerPlan, run, floor: int, back: str) -> dict[str, Tensor]:
        start = f"layers.{run.layer}."
        if plan.kind in CELLS:
            start += "cell."
            return {
                n.removeprefix(start): w for n, w in self.parameters.items() if n.startswith(start)
            }
        end = f"_l{floor}{back}"
        return {
            n.removeprefix(start).removesuffix(end): w
            for n, w in self.parameters.items()
            if n.startswith(start) and n.endswith(end)
        }

    def _output(self, plan: LayerPlan, steps: Steps) -> Tensor:
        """Lay the outputs out in the order of the input; a row that has ended puts out 0."""
        width = int(plan.options.get("proj_size") or plan.H)  # pyright: ignore
        h = [
            read[:, :width] * takes[:, None]
            for read, takes in zip(steps.reads, steps.takes, strict=True)
        ]
        return torch.stack(h[::-1] if steps.reverse else h)

    def _find_reads(self) -> dict[str, Tensor]:
        """Find the steps that each loss reads with no other layer in between."""
        leaves: dict[int, tuple[Tensor, Tensor]] = {}

        def call(number: int, x: Tensor, s_0: Tensor | None) -> tuple[Tensor, Tensor]:
            ran = (self.ran.outputs[number], self.ran.finals[number])
            leaves[number] = tuple(t.detach().clone().requires_grad_() for t in ran)
            return leaves[number]

        losses = run_program(self.case, call, torch.float64).losses.reshape(-1)
        flat = [leaf for pair in leaves.values() for leaf in pair]
        found = [gradient(loss, flat) for loss in losses]
        direct = {}
        for name, steps in self.steps.items():
            plan = self.case.layers[self.case.runs[steps.run].layer]
            of_loss = []
            for grads in found:
                output, final = grads[2 * steps.run], grads[2 * steps.run + 1]
                read = torch.zeros_like(steps.takes)
                if steps.place >= final.shape[0] - plan.directions:  # the uppermost layer
                    part = output.chunk(plan.directions, -1)[int(steps.reverse)]
                    part = (part.flip(0) if steps.reverse else part) != 0
                    read |= part.any(-1) & steps.takes
                for b, t in enumerate(steps.last):
                    read[t - 1, b] |= bool((final[steps.place, b] != 0).any())
                of_loss.append(read)
            direct[name] = torch.stack(of_loss)
        return direct


# Of each layer: the adjoints (V, T+1, B, S), where anything comes in (V, T, B), and for each weight
# its terms (V, T, *shape).
Wanted = tuple[Tensor, Tensor, dict[str, Tensor]]


def sent_by_loss(oracle: Oracle) -> dict[str, Wanted]:
    """Return what each loss of a vector sends to every state and every step's weights."""
    return _gathered(
        oracle.steps,
        [_sent(loss, list(oracle.steps.values())) for loss in oracle.ran.losses],
    )


def sent_by_step(oracle: Oracle) -> dict[str, Wanted]:
    """Return the same for a scalar, split by the step at which its gradient enters the layer."""
    found: dict[str, Wanted] = {}
    for name, steps in oracle.steps.items():
        entering = gradient(oracle.ran.losses, steps.reads)
        # Within one run, what reaches an earlier state from s_t is the recurrence alone.
        sent = [
            _sent(state, [steps], seed)
            for state, seed in zip(steps.states[1:], entering, strict=True)
        ]
        states, _, weights = _gathered({name: steps}, sent)[name]
        comes = torch.stack([(seed != 0).any(-1) for seed in entering])
        found[name] = states, torch.diag_embed(comes.T).permute(1, 2, 0), weights
    return found


def _sent(of: Tensor, steps: list[Steps], seed: Tensor | None = None) -> Iterator[Tensor]:
    flat = [
        tensor
        for one in steps
        for tensor in (
            *one.states,
            *one.reads,
            *(weight for copies in one.weights for weight in copies.values()),
        )
    ]
    if not of.requires_grad:  # a loss that reads nothing
        return iter([torch.zeros_like(tensor) for tensor in flat])
    return iter(gradient(of, flat, seed))


def _gathered(steps: dict[str, Steps], sent: list[Iterator[Tensor]]) -> dict[str, Wanted]:
    found: dict[str, Wanted] = {}
    for name, one in steps.items():
        states = torch.stack([torch.stack([next(grads) for _ in one.states]) for grads in sent])
        reads = torch.stack([torch.stack([next(grads) for _ in one.reads]) for grads in sent])
        terms: dict[str, list[Tensor]] = {weight: [] for weight in one.parameters}
        for grads in sent:
            by_step = [{w: next(grads) for w in copies} for copies in one.weights]
            for weight, of_loss in terms.items():
                of_loss.append(torch.stack([step[weight] for step in by_step]))
        by_weight = {weight: torch.stack(many) for weight, many in terms.items()}
        found[name] = states, (reads != 0).any(-1), by_weight
    return found
