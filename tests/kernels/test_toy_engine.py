"""A new engine is one class and one row: a toy one, on which layers then run and are traced."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import throughtime as tt
from throughtime import kernels
from throughtime.cells import AbstractCell
from throughtime.kernels.plain.engine import Plain
from throughtime.testing import assert_close

F64 = torch.float64


class Toy(Plain):
    """Takes Elman cells of four units in float64, by the reference's sweeps, and counts."""

    name = "toy"

    def __init__(self) -> None:
        self.verbs: set[str] = set()

    def obstacle(self, cell: AbstractCell, demand: kernels.Demand) -> str:
        if type(cell) is not tt.cells.Elman or cell.hidden_size != 4:
            return "the toy takes Elman cells of four units."
        given = [t for t in demand.tensors if t is not None and t.is_floating_point()]
        return "" if all(t.dtype == F64 for t in given) else "the toy takes float64."

    def outputs(self, *args, **named):
        self.verbs.add("outputs")
        return super().outputs(*args, **named)

    def backward(self, *args, **named):
        self.verbs.add("backward")
        return super().backward(*args, **named)

    def gradients(self, *args, **named):
        self.verbs.add("gradients")
        return super().gradients(*args, **named)

    def losses(self, *args, **named):
        self.verbs.add("losses")
        return super().losses(*args, **named)


@pytest.fixture
def toy(monkeypatch) -> Toy:
    engine = Toy()
    monkeypatch.setattr(kernels.choose, "ENGINES", [engine, *kernels.ENGINES])
    return engine


def step(layer, x: Tensor) -> list[Tensor]:
    layer.zero_grad()
    output, state = layer(x)
    (output.pow(2).sum() + state.sum()).backward()
    return [output.detach(), *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize(
    "through", [tt.Full(), tt.Truncated(4, 2), tt.Checkpointed(3)], ids=lambda s: type(s).__name__
)
def test_a_layer_runs_on_it_under_every_schedule(toy, through):
    layer = tt.RNN(3, 4, num_layers=2, dtype=F64, through=through)
    x = torch.randn(9, 2, 3, dtype=F64)
    found = step(layer, x)
    assert {"outputs", "gradients"} <= toy.verbs
    assert kernels.last_choice() == ("toy", "Elman runs on toy.")
    with kernels.use("reference"):
        for got, want in zip(found, step(layer, x), strict=True):
            assert_close(got, want, rtol=1e-12)


def test_a_flow_and_its_questions_run_on_it(toy):
    layer = tt.RNN(3, 4, dtype=F64)
    with tt.trace(layer) as trace:
        losses = layer(torch.randn(9, 2, 3, dtype=F64))[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    toy.verbs.clear()
    flow.weight_grad("weight_hh")
    assert toy.verbs == {"losses"}
    flow.dropped(tt.Truncated(3))
    flow.jacobian_product(9, 2)
    assert "backward" in toy.verbs


def test_what_it_does_not_take_runs_elsewhere_and_says_why(toy):
    tt.RNN(3, 5, dtype=F64)(torch.randn(9, 2, 3, dtype=F64), torch.zeros(1, 2, 5, dtype=F64))
    chosen = kernels.last_choice()
    assert chosen.name in ("native", "reference") and "four units" in chosen.reason
    assert not toy.verbs


def test_it_can_be_asked_for_by_name(toy):
    x = torch.randn(9, 2, 3, dtype=F64)
    with kernels.use("toy"):
        tt.RNN(3, 4, dtype=F64)(x)
        with pytest.raises(tt.errors.UnsupportedError, match="four units"):
            tt.RNN(3, 5, dtype=F64)(x)
    assert toy.verbs == {"outputs"}
    with pytest.raises(tt.errors.InputValueError, match="toy"):
        kernels.use("fastest")
