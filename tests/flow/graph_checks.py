"""Random cases judged: a flow's numbers beside those of the loops in `graph_oracle`.

Every term is compared relative to its own norm, with no absolute tolerance: what should be 0 must
be exactly 0. A failure is one line with the seed, the quantity, the relative error and the case.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

import throughtime as tt
from oracles.by_hand import gradient

from .graph_oracle import Oracle, Wanted, sent_by_loss, sent_by_step
from .graph_program import Model, Observers, Ran, call_layers, run_program
from .random_graphs import Case, draw

# What is let pass, relative to each term's own norm; float32 is held to the float64 of the loops.
# Where units are saturated 1 − h² has lost digits before anything is sent back.
RTOL, RTOL_SATURATED, RTOL_FLOAT32 = 1e-7, 1e-6, 1e-2


class Report:
    """What came out for one case: how many terms were compared, and how far off they were.

    Attributes:
        case: the case.
        checks: how many terms were compared.
        worst: the largest relative error of those that passed.
        failures: a line for each quantity that is wrong.
        rtol: what is let pass.
    """

    def __init__(self, case: Case) -> None:
        """Begin with nothing."""
        self.case, self.checks, self.worst = case, 0, 0.0
        self.failures: list[str] = []
        self.rtol = RTOL_SATURATED if case.regime == "saturated" else RTOL
        if case.dtype == torch.float32:
            self.rtol = RTOL_FLOAT32

    def fail(self, quantity: str, what: str) -> None:
        """Write a failure down."""
        self.failures.append(f"seed {self.case.seed}: {quantity}: {what}; {self.case}")

    def terms(self, quantity: str, got: Tensor, want: Tensor, dims: int) -> None:
        """Compare tensors term by term, a term being what the last ``dims`` axes hold."""
        if got.shape != want.shape:
            self.fail(quantity, f"shape {tuple(got.shape)}, should be {tuple(want.shape)}")
            return
        lead = want.shape[: want.dim() - dims]
        got, want = (t.detach().double().reshape(*lead, -1) for t in (got, want))
        norm = want.norm(dim=-1)
        off = (got - want).norm(dim=-1)
        error = torch.where(norm > 0, off / norm, torch.where(off > 0, torch.inf, off))
        error = error.masked_fill(error.isnan(), torch.inf)
        self.checks += error.numel()
        largest = float(error.max())
        if largest <= self.rtol:
            self.worst = max(self.worst, largest)
            return
        at = [int(i) for i in torch.unravel_index(error.argmax(), error.shape)] if lead else []
        self.fail(
            quantity,
            f"relative error {largest:.1e} at {at}, norm {float(norm[tuple(at)]):.3g}, allowed "
            f"{self.rtol:.0e}",
        )

    def equal(self, quantity: str, got: object, want: object) -> None:
        """Compare two values that must be equal."""
        self.checks += 1
        if got != want:
            self.fail(quantity, f"got {got}, should be {want}")


def check(case: Case | int) -> Report:
    """Run a case, or that of a seed, and return what is wrong with its flow."""
    case = draw(case) if isinstance(case, int) else case
    report = Report(case)
    doing = "the model by itself"
    try:
        model = Model(case)
        oracle = Oracle(case, model)
        before = _by_itself(case, model, oracle, report)
        doing = "the flow"
        observers = Observers()
        with _watched(case, model, observers):
            with tt.trace(model) as trace:
                ran = run_program(case, call_layers(model, case), case.dtype, observers)
            observers.seen.clear()
            flow = trace.flow(ran.losses, window=case.window, every=case.every)
            _compare_run(report, "traced", ran, oracle)
            doing = "the flow's members"
            _check_flow(case, flow, oracle, report)
            report.equal("hooks that the flow called", sorted(observers.seen), [])
            doing = "backward() after the flow"
            observers.seen.clear()
            model.zero_grad()
            ran.losses.sum().backward()
        _compare_gradients(report, "traced", model, ran, oracle)
        _compare_hooks(report, observers, before)
    except Exception as error:
        report.fail(doing, f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return report


@contextmanager
def _watched(case: Case, model: Model, observers: Observers) -> Iterator[None]:
    """Put the case's hooks on its layers, and let warnings be errors."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "LSTM with projections is not supported with oneDNN")
        for number in [number for of, number in case.hooks if of == "layer"]:
            name = f"layer {number}"
            handle = model.layers[number].register_full_backward_hook(
                lambda _, __, grads, name=name: observers.look(name, grads[0])
            )
            stack.callback(handle.remove)
        yield


def _by_itself(case: Case, model: Model, oracle: Oracle, report: Report) -> Observers:
    """Compare the model without a trace, and its gradients, with the loops."""
    observers = Observers()
    with _watched(case, model, observers):
        ran = run_program(case, call_layers(model, case), case.dtype, observers)
        ran.losses.sum().backward()
    _compare_run(report, "model", ran, oracle)
    _compare_gradients(report, "model", model, ran, oracle)
    return observers


def _compare_run(report: Report, who: str, ran: Ran, oracle: Oracle) -> None:
    report.terms(f"{who}: losses", ran.losses, oracle.ran.losses, 0)
    for number in range(len(ran.outputs)):
        for what in ("outputs", "finals"):
            got, want = getattr(ran, what)[number], getattr(oracle.ran, what)[number]
            report.terms(f"{who}: {what} of run {number}", got, want, 1)


def _compare_gradients(report: Report, who: str, model: Model, ran: Ran, oracle: Oracle) -> None:
    """Compare what backward() left in .grad."""
    parameters = dict(model.named_parameters())
    total = oracle.ran.losses.sum()
    for mine, theirs in ((parameters, oracle.parameters), (ran.leaves, oracle.ran.leaves)):
        names = [name for name in mine if theirs[name].requires_grad]
        if not names:
            continue
        for name, want in zip(names, gradient(total, [theirs[n] for n in names]), strict=True):
            got = mine[name].grad
            got = torch.zeros_like(want) if got is None else got
            report.terms(f"{who}: .grad of {name}", got, want, want.dim())


def _compare_hooks(report: Report, got: Observers, want: Observers) -> None:
    report.equal("hooks that ran", sorted(got.seen), sorted(want.seen))
    for name, grads in want.seen.items():
        report.equal(f"calls of the hook on {name}", len(got.seen.get(name, [])), len(grads))
        for mine, theirs in zip(got.seen.get(name, []), grads, strict=False):
            report.terms(f"gradient seen by the hook on {name}", mine, theirs, theirs.dim())


def _check_flow(case: Case, flow: tt.Flow, oracle: Oracle, report: Report) -> None:
    report.equal("names", list(flow), list(oracle.steps))
    report.equal("split", flow.split, "step" if case.scalar else "loss")
    rng = random.Random(case.seed)
    sums = {name: torch.zeros_like(w) for name, w in oracle.parameters.items()}
    known = {id(w): name for name, w in oracle.parameters.items()}
    sent = sent_by_step if case.scalar else sent_by_loss
    for name, want in sent(oracle).items():
        (states, entering, weights), steps, one = want, oracle.steps[name], flow[name]
        _check_norms(case, name, one, states, report)
        _check_enters(case, name, one, oracle, entering, report)
        report.terms(f"{name}: adjoint()", one.adjoint(), states.sum(0), 1)
        report.terms(f"{name}: total_norms", one.total_norms, states.sum(0).norm(dim=-1), 0)
        report.equal(f"{name}: weights", sorted(one.weight_names), sorted(weights))
        for v in range(len(states)):
            _check_loss(name, one, v, want, rng, report)
        _check_sums(name, one, weights, rng, report)
        for weight, leaf in steps.parameters.items():
            sums[known[id(leaf)]] += one.weight_grad(weight)
    wants = gradient(oracle.ran.losses.sum(), list(oracle.parameters.values()))
    for (name, got), want in zip(sums.items(), wants, strict=True):
        report.terms(f"terms of {name} beside .grad", got, want, want.dim())


def _check_norms(
    case: Case, name: str, one: tt.LayerFlow, want_states: Tensor, report: Report
) -> None:
    """Compare every finite norm; NaN may stand only where the window leaves a step out."""
    chosen = list(range(len(want_states)))[:: -(case.every or 1)][::-1]
    report.equal(f"{name}: loss_index", one.loss_index.tolist(), chosen)
    want = want_states[chosen].norm(dim=-1)
    k = torch.arange(want.shape[1])[None, :, None]
    # A row that a loss reaches by way of others alone is followed as far back as those.
    by_others = (one.enters == 0) & (want != 0).any(1)
    stands = torch.where(by_others, one.enters.amax(1, keepdim=True), one.enters)
    may_miss = k < stands[:, None] - (case.window or want.shape[1])
    missing = one.norms.isnan() & may_miss
    report.terms(
        f"{name}: norms", one.norms.masked_fill(missing, 0), want.masked_fill(missing, 0), 0
    )


def _check_enters(
    case: Case, name: str, one: tt.LayerFlow, oracle: Oracle, entering: Tensor, report: Report
) -> None:
    """Where a loss reads a run directly, it stands at the last step that it reads there.

    Args:
        case: the case.
        name: the layer's.
        one: its flow.
        oracle: the loops.
        entering: (V, T, B), where anything of a loss comes in, also through later runs.
        report: where failures go.
    """
    steps, direct = oracle.steps[name], oracle.direct[name]
    for row, v in enumerate(one.loss_index.tolist()):
        for b in range(case.B):
            got = int(one.enters[row, b])
            came = (entering[v, :, b].nonzero().flatten() + 1).tolist()
            if case.scalar:
                report.equal(f"{name}: enters[{row}, {b}]", got, v + 1 if came else 0)
                continue
            read = (direct[v, :, b].nonzero().flatten() + 1).tolist()
            # A loss that also comes in at later steps, or at several of a reverse direction, may
            # stand at any of them.
            if read and read[-1] == came[-1] and (not steps.reverse or len(came) == 1):
                report.equal(f"{name}: enters[{row}, {b}]", got, read[-1])
            elif read:
                report.equal(f"{name}: enters[{row}, {b}] is in {came}", got in came, True)


def _check_loss(
    name: str, one: tt.LayerFlow, v: int, want: Wanted, rng: random.Random, report: Report
) -> None:
    """Compare what one loss sends to the states, and to the weights at a step and at all."""
    states, _, weights = want
    report.terms(f"{name}: adjoint({v})", one.adjoint(v), states[v], 1)
    for weight, terms in weights.items():
        k, dims = rng.randrange(one.T), terms.dim() - 2
        part = one.weight_grad(weight, loss=v, step=k + 1)
        report.terms(f"{name}: weight_grad({weight!r}, {v}, {k + 1})", part, terms[v, k], dims)
        part = one.weight_grad(weight, loss=v)
        report.terms(f"{name}: weight_grad({weight!r}, {v})", part, terms[v].sum(0), dims)


def _check_sums(
    name: str, one: tt.LayerFlow, want: dict[str, Tensor], rng: random.Random, report: Report
) -> None:
    """Compare the terms summed over losses, and over losses and steps; by the flow and by hand."""
    for weight, terms in want.items():
        k, dims = rng.randrange(one.T), terms.dim() - 2
        part = one.weight_grad(weight, step=k + 1)
        report.terms(
            f"{name}: weight_grad({weight!r}, None, {k + 1})", part, terms[:, k].sum(0), dims
        )
        report.terms(
            f"{name}: weight_grad({weight!r})", one.weight_grad(weight), terms.sum((0, 1)), dims
        )
    weight = rng.choice(list(want))
    whole = want[weight].sum((0, 1))
    summed = torch.zeros_like(whole)
    for v in range(len(want[weight])):
        for k in range(1, one.T + 1):
            summed += one.weight_grad(weight, loss=v, step=k)
    report.terms(f"{name}: sum of the terms of {weight}", summed, whole, whole.dim())
