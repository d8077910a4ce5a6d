"""Loops over time that once gave a wrong number, a stack trace, or left something behind."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils import checkpoint

import throughtime as tt
from throughtime.errors import GraphError, InputValueError, ShapeError
from throughtime.testing import assert_close

from .loops import B, H, I, Poke, T, per_step, untouched


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def states(model: nn.Module, x: Tensor) -> Tensor:
    """Return ∂E_v/∂s_k (V, K, B, S) at every place that the model pokes, in order."""
    zeros: list[tuple[Tensor, ...]] = []

    def poke(k: int, *state: Tensor) -> tuple[Tensor, ...]:
        zeros.append(tuple(torch.zeros_like(part, requires_grad=True) for part in state))
        return tuple(part + zero for part, zero in zip(state, zeros[-1], strict=True))

    model.poke = poke  # pyright: ignore
    losses = per_step(model(x))
    del model.poke
    rows = []
    for loss in losses:
        flat = [zero for own in zeros for zero in own]
        grads = torch.autograd.grad(loss, flat, retain_graph=True, materialize_grads=True)
        width = len(zeros[0])
        laid = [torch.cat(grads[i : i + width], -1) for i in range(0, len(grads), width)]
        rows.append(torch.stack(laid))
    return torch.stack(rows)


def compare(model: nn.Module, x: Tensor, name: str) -> tt.LayerFlow:
    """Compare every pair of a loss and a step from 1 on with autograd, each by its own size."""
    expected = states(model, x)
    with tt.trace(model) as trace:
        losses = per_step(model(x))
    layer = trace.flow(losses)[name]
    for v in range(len(losses)):
        found = layer.adjoint(v)[1:]
        for one, other in zip(found.flatten(0, 1), expected[v].flatten(0, 1), strict=True):
            assert_close(one, other, rtol=1e-9)
    norms = expected.norm(dim=-1)
    for one, other in zip(layer.norms[:, 1:].flatten(), norms.flatten(), strict=True):
        assert_close(one, other, rtol=1e-9)
    return layer


class Gated(nn.Module):
    """Two layers; the lower one opens the upper one's state by a straight-through gate.

    The gate is 1, so that the state's numbers and its own gradient go on as they are, and yet the
    lower layer gets a gradient by way of it (as in a Skip RNN, or a surrogate reset).
    """

    poke: Poke = staticmethod(untouched)

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.cell, self.out = nn.LSTMCell(I, H), nn.LSTMCell(I, H), nn.Linear(H, I)

    def forward(self, x: Tensor) -> Tensor:
        low, state, said = None, None, []
        for t in range(len(x)):
            low = self.poke(t + 1, *self.lower(x[t], low))
            state = self.cell(x[t], state)
            said.append(self.out(state[0]))
            soft = torch.sigmoid(low[0].sum(-1, keepdim=True))
            gate = soft + (1 - soft).detach()
            state = (state[0] * gate, state[1] * gate)
        return torch.stack(said)


def test_a_gate_that_is_open_still_sends_its_gradient_to_the_layer_that_opens_it():
    compare(Gated(), torch.randn(T, B, I), "lower")


class Opened(nn.Module):
    """A decoder over embedded words whose cell begins without a state."""

    poke: Poke = staticmethod(untouched)

    def __init__(self, kind: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(7, H), nn.Linear(H, I)
        self.cell = kind(H, H)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor) -> Tensor:
        state, heard, said = None, None, []
        for t in range(len(x)):
            word = self.words(x[t])
            new = self.cell(word if heard is None else word + torch.tanh(heard), state)
            parts = self.poke(t + 1, *(new if isinstance(new, tuple) else (new,)))
            state = parts if isinstance(new, tuple) else parts[0]
            heard = parts[0]
            said.append(self.out(heard))
        return torch.stack(said)


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_a_decoder_may_begin_without_a_state(kind):
    compare(Opened(kind), torch.randint(0, 7, (T, B)), "cell")


def test_spectral_norm_is_as_far_after_a_trace_as_without_one():
    cell = nn.LSTMCell(I, H)
    spectral_norm(cell, "weight_hh")
    other, x = copy.deepcopy(cell), torch.randn(T, B, I)
    state, plain = None, None
    with tt.trace(cell):
        for x_t in x:
            state = cell(x_t, state)
    for x_t in x:
        plain = other(x_t, plain)
    assert state is not None and plain is not None
    assert torch.equal(state[0], plain[0])
    for name, value in cell.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_traces_that_end_in_the_order_they_began_leave_torch_as_it_was():
    import torch._dynamo.eval_frame as frames

    before = checkpoint._checkpoint_without_reentrant_generator, frames._stance
    one, two = tt.trace(nn.GRU(2, 3)), tt.trace(nn.GRU(2, 3))
    one.__enter__()
    two.__enter__()
    one.__exit__(None, None, None)
    assert checkpoint._checkpoint_without_reentrant_generator is not before[0]
    two.__exit__(None, None, None)
    assert (checkpoint._checkpoint_without_reentrant_generator, frames._stance) == before
    h = torch.ones(2, requires_grad=True)
    assert tt.mark("h", h) is h


class InPlace(nn.Module):
    """Writes its new state into the tensor that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(I, H)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return state.mul_(0.9).add_(self.lift(x))


@pytest.mark.parametrize("read", [True, False])
def test_a_step_that_writes_into_its_argument_computes_what_it_computes_untraced(read):
    step, x = InPlace(), torch.randn(T, B, I)

    def run() -> Tensor:
        state, said = torch.zeros(B, H), []
        for x_t in x:
            new = step(x_t, state)
            state = new if read else state
            said.append(state * 1.0)
        return torch.stack(said)

    plain = run()
    with tt.trace(step, steps=[step]):
        assert torch.equal(run(), plain)


def marked(*shapes: tuple[int, ...], **how: int) -> tt.LayerFlow:
    weight = torch.randn((), requires_grad=True)
    with tt.trace() as trace:
        state: tuple[Tensor, ...] = tuple(torch.randn(shape) for shape in shapes)
        for _ in range(4):
            state = tt.mark("s", *(torch.tanh(part * weight) for part in state), **how)  # pyright: ignore
        loss = sum((part.sum() for part in state), torch.zeros(()))
    return trace.flow(loss)["s"]


def test_parts_without_a_common_batch_are_one_row():
    layer = marked((3, 2), (5, 2))
    assert (layer.B, layer.S) == (1, 16)


def test_parts_of_unequal_batches_are_refused_where_the_axis_was_named():
    with pytest.raises(ShapeError, match="as many rows"):
        marked((3, 2), (5, 2), batch_dim=0)


def test_an_axis_from_the_end_is_refused_where_parts_differ_in_axes():
    with pytest.raises(InputValueError, match="from the front"):
        marked((3, 2), (3, 3, 2), batch_dim=-2)


class Planner(nn.Module):
    """Tries out two steps before each one that it takes, and hears what came of them."""

    poke: Poke = staticmethod(untouched)

    def __init__(self, detach: bool) -> None:
        super().__init__()
        self.cell, self.out, self.detach = nn.GRUCell(I, H), nn.Linear(H, I), detach

    def forward(self, x: Tensor) -> Tensor:
        state, said = torch.zeros(B, H), []
        for t in range(len(x)):
            plan = state.detach() if self.detach else state
            for _ in range(2 if 0 < t < len(x) - 2 else 0):
                plan = self.cell(self.out(plan), plan)
            (state,) = self.poke(t + 1, self.cell(x[t] + self.out(plan), state))
            said.append(self.out(state))
        return torch.stack(said)


@pytest.mark.parametrize("detach", [False, True])
def test_a_plan_tried_out_between_two_steps_does_not_end_the_run(detach):
    layer = compare(Planner(detach), torch.randn(T, B, I), "cell")
    assert layer.T == T and not layer.cuts


def test_a_method_may_mark_whatever_its_first_argument_is_called():
    class Own(nn.Module):
        def step(module, h: Tensor) -> Tensor:  # noqa: N805  # pyright: ignore
            return tt.mark("h", torch.tanh(h * torch.ones((), requires_grad=True)))  # pyright: ignore

    model, h = Own(), torch.ones(B, H)
    with tt.trace(model) as trace:
        for _ in range(4):
            h = model.step(h)
    assert trace.flow(h.sum())["h"].T == 4


@dataclass
class Belief:
    """What a step returns: a state, and what is none."""

    h: Tensor
    note: str


@dataclass(frozen=True)
class Frozen:
    """The same, of fixed content."""

    h: Tensor
    note: str


@pytest.mark.parametrize("kind", [Belief, Frozen])
def test_a_step_may_take_and_return_a_dataclass(kind):
    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.turn = nn.Linear(I, H), nn.Linear(H, H)

        def forward(self, x: Tensor, belief):
            return kind(torch.tanh(self.lift(x) + self.turn(belief.h)), belief.note + "!")

    step, x = Step(), torch.randn(T, B, I)
    with tt.trace(step, steps=[step]) as trace:
        belief = kind(torch.zeros(B, H), "")
        for x_t in x:
            belief = step(x_t, belief)
        loss = belief.h.pow(2).sum()
    assert belief.note == "!" * T and type(belief) is kind
    layer = trace.flow(loss)[""]
    assert layer.T == T
    J = torch.eye(H).expand(B, H, H)
    h = torch.zeros(B, H)
    for t, x_t in enumerate(x):
        h = torch.tanh(step.lift(x_t) + step.turn(h)).detach()
        if t >= 3:
            J = (1 - h**2)[..., None] * (step.turn.weight @ J)
    assert_close(layer.jacobian_product(T, 3), J.detach(), rtol=1e-9)


class Remembers(nn.Module):
    """Keeps its state in a dictionary or a list that its caller gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.turn = nn.Linear(I, H), nn.Linear(H, H)

    def forward(self, x: Tensor, memory) -> Tensor:
        memory[0] = torch.tanh(self.lift(x) + self.turn(memory[0]))
        return memory[0] * 1.0


@pytest.mark.parametrize("kind", [list, lambda h: dict(enumerate(h))])
def test_a_step_may_write_into_a_container_of_its_caller(kind):
    step, x = Remembers(), torch.randn(T, B, I)

    def run() -> tuple[Tensor, Tensor]:
        memory = kind([torch.zeros(B, H)])
        said = torch.stack([step(x_t, memory) for x_t in x])
        return said, memory[0]

    said, last = run()
    with tt.trace(step, steps=[step]):
        traced = run()
    assert torch.equal(traced[0], said) and torch.equal(traced[1], last)


def test_a_state_that_is_put_into_the_callers_dictionary_is_followed():
    step, x, memory = Remembers(), torch.randn(T, B, I), {0: torch.zeros(B, H)}
    with tt.trace(step, steps=[step]) as trace:
        losses = torch.stack([step(x_t, memory).pow(2).sum() for x_t in x])
    layer = trace.flow(losses)[""]
    J = torch.eye(H).expand(B, H, H)
    h = torch.zeros(B, H)
    for t, x_t in enumerate(x):
        h = torch.tanh(step.lift(x_t) + step.turn(h)).detach()
        if t >= 3:
            J = (1 - h**2)[..., None] * (step.turn.weight @ J)
    assert_close(layer.jacobian_product(T, 3)[..., :H, :H], J.detach(), rtol=1e-9)


def test_a_frozen_cell_that_nothing_reaches_is_named():
    cell, state = nn.LSTMCell(I, H).requires_grad_(False), None
    with tt.trace(cell) as trace:
        for x_t in torch.randn(T, B, I):
            state = cell(x_t, state)
    assert state is not None
    with pytest.raises(GraphError, match="none of which requires grad"):
        trace.flow(state[0].sum())
