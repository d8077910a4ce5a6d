"""Step modules that keep their state to themselves: in a buffer, an attribute, a tuple of one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import errors
from throughtime.testing import assert_close

from .loops import B, H, I, Poke, T, oracle, per_step, untouched


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Spike(torch.autograd.Function):
    """A step with another's derivative, and no batching rule."""

    @staticmethod
    def forward(ctx, v):
        ctx.save_for_backward(v)
        return (v > 0).to(v)

    @staticmethod
    def backward(ctx, g):
        (v,) = ctx.saved_tensors
        return g / (1 + (3 * v).pow(2))


class Cell(nn.Module):
    """Counts what it was called and what it said last, which is no state: it never reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(I, H)
        # Some libraries keep their parameters in a dictionary beside, and read them there.
        self.by_name = {"decay": nn.Parameter(torch.tensor(0.8))}
        self.register_parameter("decay", self.by_name["decay"])
        self.register_buffer("threshold", torch.tensor(0.3))
        self.register_buffer("calls", torch.tensor(0.0))
        self.said = None

    def forward(self, x):
        (v,) = self.get()
        v = self.by_name["decay"] * v + self.lift(x) - (v > self.threshold).to(v) * self.threshold
        self.put((v,))
        self.said = Spike.apply(v - self.threshold)
        self.calls += 1
        return self.said


class InBuffer(Cell):
    def reset(self, *state):
        self.register_buffer("v", state[0], persistent=False)

    def get(self):
        return (self.v,)

    def put(self, state):
        (self.v,) = state


class InTuple(Cell):
    """Two parts, in one attribute."""

    def reset(self, *state):
        self.state = (*state, torch.zeros(B, H))

    def get(self):
        return (self.state[0] - 0.1 * self.state[1],)

    def put(self, state):
        self.state = (state[0], torch.tanh(self.state[1] + state[0]))


class InDictionary(Cell):
    def reset(self, *state):
        self.memories = {"v": state[0]}

    def get(self):
        return (self.memories["v"],)

    def put(self, state):
        self.memories["v"] = state[0]


class InPart(nn.Module):
    """The state is kept by a module within the step."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.cell = nn.Linear(I, I), InBuffer()

    def forward(self, x):
        return self.cell(self.before(x))

    def reset(self, *state):
        self.cell.reset(*state)

    get = property(lambda self: self.cell.get)  # pyright: ignore
    put = property(lambda self: self.cell.put)  # pyright: ignore


class Loop(nn.Module):
    poke: Poke = staticmethod(untouched)
    detached = False

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.out = cell, nn.Linear(H, I)

    def forward(self, x):
        self.cell.reset(*self.poke(0, torch.full((B, H), 0.1)))
        said = []
        for t in range(len(x)):
            spikes = self.cell(x[t])
            self.poked(t + 1)
            said.append(self.out(spikes + self.cell.get()[0]))
            if self.detached and t % 3 == 2:
                self.cell.put(tuple(part.detach() for part in self.cell.get()))
        return torch.stack(said)

    def poked(self, k: int) -> None:
        if isinstance(self.cell, InTuple):
            self.cell.state = self.poke(k, *self.cell.state)
        else:
            self.cell.put(self.poke(k, *self.cell.get()))


KINDS = [InBuffer, InTuple, InDictionary, InPart]


def traced(model: nn.Module, x: torch.Tensor) -> tt.Flow:
    with tt.trace(model, steps=["cell"]) as trace:
        losses = per_step(model(x))
    return trace.flow(losses)


@pytest.mark.parametrize("kind", KINDS)
def test_every_pair_is_what_autograd_says(kind):
    model, x = Loop(kind()), torch.randn(T, B, I)
    expected = states_of(model, x)
    layer = traced(model, x)["cell"]
    width = 2 * H if kind is InTuple else H
    assert (layer.T, layer.S, layer.cuts) == (T, width, ())
    assert bool(layer.norms[:, 0].isnan().all())  # the state before step 1 is not known
    for found, told in zip(
        layer.norms[:, 1:].flatten(), expected.norm(dim=-1)[:, 1:].flatten(), strict=True
    ):
        assert_close(found, told, rtol=1e-9)
    for v in (0, T // 2, T - 1):
        for k in range(1, T + 1):
            assert_close(layer.adjoint(v)[k], expected[v, k], rtol=1e-9)


def states_of(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return the oracle's answer; of two parts the first step has one, which is left out."""
    if not isinstance(model.cell, InTuple):
        return oracle(model, x)[0]
    zeros: list[list[torch.Tensor]] = []

    def poke(k, *state):
        if k == 0:
            return state
        zeros.append([torch.zeros_like(part, requires_grad=True) for part in state])
        return tuple(part + zero for part, zero in zip(state, zeros[-1], strict=True))

    model.poke = poke
    losses = per_step(model(x))
    del model.poke
    flat = [zero for own in zeros for zero in own]
    rows = []
    for loss in losses:
        grads = torch.autograd.grad(loss, flat, retain_graph=True, materialize_grads=True)
        steps = [torch.cat(grads[n : n + 2], -1) for n in range(0, len(grads), 2)]
        rows.append(torch.stack([torch.zeros(B, 2 * H), *steps]))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_terms_of_every_parameter_sum_to_its_gradient(kind):
    model, x = Loop(kind()), torch.randn(T, B, I)
    layer = traced(model, x)["cell"]
    per_step(model(x)).sum().backward()
    assert any(name.endswith("decay") for name in layer.weight_names)
    for name in layer.weight_names:
        grad = model.cell.get_parameter(name).grad
        assert_close(layer.weight_grad(name), grad, rtol=1e-9)
        by_step = sum(layer.weight_grad(name, step=k) for k in range(1, T + 1))
        assert_close(by_step, grad, rtol=1e-9)


def test_the_module_is_as_it_was():
    model, x = Loop(InPart()), torch.randn(T, B, I)
    cell = model.cell.cell
    parameters, calls = dict(model.named_parameters()), cell.calls
    traced(model, x)
    assert all(parameters[name] is p for name, p in model.named_parameters())
    assert cell.by_name["decay"] is cell.decay and cell.calls is calls and int(calls) == T
    state = cell.v.detach().clone()
    model(x)
    assert torch.equal(cell.v.detach(), state)


def test_a_state_that_is_detached_in_place_is_cut():
    model, x = Loop(InBuffer()), torch.randn(T, B, I)
    with tt.trace(model, steps=[InBuffer]) as trace:
        model.cell.reset(torch.zeros(B, H))
        said = []
        for t in range(T):
            said.append(model.out(model.cell(x[t])))
            if t == 3:
                model.cell.v.detach_()
        losses = per_step(torch.stack(said))
    layer = trace.flow(losses)["cell"]
    assert layer.T == T and layer.cuts == (5,)
    assert bool((layer.norms[4:, 1:5] == 0).all()) and bool((layer.norms[-1, 5:T] > 0).all())


def test_a_state_that_is_reset_begins_another_run():
    model, x = Loop(InDictionary()), torch.randn(T, B, I)
    with tt.trace(model, steps=["cell"]) as trace:
        losses = per_step(model(x)) + per_step(model(x))
    assert [layer.T for layer in trace.flow(losses).values()] == [T, T]


def test_what_is_kept_and_never_read_is_no_state():
    class Logging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.last = nn.Linear(I, H), None

        def forward(self, x):
            self.last = self.lift(x)
            return torch.tanh(self.last)

    cell = Logging()
    with tt.trace(cell, steps=[cell]) as trace:
        loss = sum(cell(torch.randn(B, I)).sum() for _ in range(3))
    with pytest.raises(errors.GraphError, match="nothing that it returned or kept came back"):
        trace.flow(loss)


def test_a_module_that_runs_over_all_steps_in_one_call_is_named():
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Linear(I, H)

        def forward(self, x):
            said = self.lift(x).cumsum(0)
            return said, said[-1]  # all steps, and the last state: axes of other lengths

    model = Whole()
    with tt.trace(model, steps=[model]) as trace:
        losses = model(torch.randn(T, B, I))[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)
    assert flow[""].T == 1 and "ran once inside the trace" in flow.skipped[""]
    with (
        pytest.raises(errors.LayerNotFoundError, match="has a forward that takes a state"),
        tt.trace(SpikingRNN()),
    ):
        pass


class SpikingRNN(nn.Module):
    """All steps in one call, of functions: named in the error."""

    def forward(self, x, state=None):
        return x, state
