"""A new engine for a new device is one class and one row: here a toy one, that layers run on.

The device is torch's "meta" with a memory added. What torch sees of a `ToyTensor` has a shape and
no numbers; the numbers lie in `held`, where every operation goes through `__torch_dispatch__`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_map_only

import throughtime as tt
from throughtime import kernels
from throughtime.cells import AbstractCell
from throughtime.kernels.plain.engine import Plain
from throughtime.testing import assert_close

F64 = torch.float64


class ToyTensor(Tensor):
    """A tensor on the toy device."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> ToyTensor:
        return Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device="meta"
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        given = tree_map_only(cls, lambda tensor: tensor.held, (args, kwargs or {}))
        on_args, on_kwargs = tree_map_only(torch.device, lambda _: torch.device("cpu"), given)
        found = tree_map_only(Tensor, cls, func(*on_args, **on_kwargs))
        return return_and_correct_aliasing(func, args, kwargs or {}, found)


class OnToy(TorchDispatchMode):
    """Give what is made anew on the toy device, as by ``torch.arange(…, device=…)``, its memory."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if types or kwargs.get("device") != torch.device("meta"):
            return func(*args, **kwargs)
        return ToyTensor(func(*args, **{**kwargs, "device": torch.device("cpu")}))


class Counting(Plain):
    """The reference's sweeps, and which verbs were called."""

    name = "counting"

    def __init__(self) -> None:
        self.verbs: set[str] = set()

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


class Toy(Counting):
    """The toy device's engine, for Elman cells of four units in float64."""

    name = "toy"

    def concerns(self, cell: AbstractCell) -> bool:
        return all(isinstance(weight.data, ToyTensor) for weight in cell.weights().values())

    def obstacle(self, cell: AbstractCell, demand: kernels.Demand) -> str:
        if not self.concerns(cell):
            return "the toy takes cells whose weights are on the toy device."
        if type(cell) is not tt.cells.Elman or cell.hidden_size != 4:
            return "the toy takes Elman cells of four units."
        if cell.weight_hh.dtype != F64:
            return "the toy takes float64."
        return ""


def add(engine: Counting, monkeypatch) -> Counting:
    monkeypatch.setattr(kernels.choose, "ENGINES", [engine, *kernels.ENGINES])
    return engine


@pytest.fixture
def toy(monkeypatch) -> Iterator[Counting]:
    with OnToy():
        yield add(Toy(), monkeypatch)


def on_toy(layer: nn.Module) -> nn.Module:
    """Return the layer with its weights moved to the toy device."""
    for name, weight in list(layer.named_parameters()):
        setattr(layer, name, nn.Parameter(ToyTensor(weight.detach().clone())))
    return layer


def step(layer, x: Tensor) -> list[Tensor]:
    """Return the output and all gradients of a training step, where their numbers are."""
    output, state = layer(x)
    (output.pow(2).sum() + state.sum()).backward()
    return [getattr(t, "held", t) for t in (output.detach(), *(p.grad for p in layer.parameters()))]


@pytest.mark.parametrize(
    "through", [tt.Full(), tt.Truncated(4, 2), tt.Checkpointed(3)], ids=lambda s: type(s).__name__
)
def test_a_layer_runs_on_it_under_every_schedule(toy, through):
    layer, x = (
        tt.RNN(3, 4, num_layers=2, dtype=F64, through=through),
        torch.randn(9, 2, 3, dtype=F64),
    )
    with kernels.use("reference"):
        wanted = step(layer, x)
    assert not toy.verbs
    found = step(on_toy(layer), ToyTensor(x))
    assert {"outputs", "gradients"} <= toy.verbs
    assert kernels.last_choice() == ("toy", "Elman runs on toy.")
    assert layer.weight_hh_l0.device.type == layer.weight_hh_l0.grad.device.type == "meta"
    for got, want in zip(found, wanted, strict=True):
        assert_close(got, want, rtol=1e-12)


def test_lengths_and_resets_run_on_it(toy):
    layer, x = tt.RNN(3, 4, dtype=F64), torch.randn(9, 2, 3, dtype=F64)
    reset = torch.rand(9, 2) < 0.3
    want = layer(x, lengths=[9, 5], reset=reset)[0].detach()
    got = on_toy(layer)(ToyTensor(x), lengths=[9, 5], reset=ToyTensor(reset))[0]
    assert toy.verbs == {"outputs"}
    assert_close(got.detach().held, want, rtol=1e-12)


def test_a_layer_elsewhere_does_not_hear_of_it(toy):
    tt.RNN(3, 4, dtype=F64)(torch.randn(9, 2, 3, dtype=F64))
    chosen = kernels.last_choice()
    assert not toy.verbs and chosen.name != "toy" and "toy" not in chosen.reason


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (tt.RNN(3, 5, dtype=F64), "the toy takes Elman cells of four units."),
        (tt.GRU(3, 4, dtype=F64), "the toy takes Elman cells of four units."),
        (tt.RNN(3, 4), "the toy takes float64."),
    ],
    ids=["RNN of five", "GRU", "float32"],
)
def test_what_it_does_not_take_runs_by_the_reference_and_says_why(toy, layer, why):
    x = torch.randn(9, 2, 3, dtype=layer.weight_hh_l0.dtype)
    want = layer(x)[0].detach()
    got = on_toy(layer)(ToyTensor(x))[0]
    chosen = kernels.last_choice()
    assert (chosen.name, chosen.reason[: len(why)]) == ("reference", why)
    assert not toy.verbs
    assert_close(got.detach().held, want, rtol=1e-5)


def test_it_can_be_asked_for_by_name(toy):
    x = torch.randn(9, 2, 3, dtype=F64)
    with kernels.use("toy"):
        on_toy(tt.RNN(3, 4, dtype=F64))(ToyTensor(x))
        with pytest.raises(tt.errors.UnsupportedError, match="four units"):
            on_toy(tt.RNN(3, 5, dtype=F64))(ToyTensor(x))
        with pytest.raises(tt.errors.UnsupportedError, match="toy"):
            tt.RNN(3, 4, dtype=F64)(x)
    assert toy.verbs == {"outputs"}
    with pytest.raises(tt.errors.InputValueError, match="toy"):
        kernels.use("fastest")


def test_a_flow_and_its_questions_run_on_an_engine_that_is_added(monkeypatch):
    # A trace reads its losses' numbers, and refuses a device on which torch sees none.
    engine = add(Counting(), monkeypatch)
    layer = tt.RNN(3, 4, dtype=F64)
    with tt.trace(layer) as trace:
        losses = layer(torch.randn(9, 2, 3, dtype=F64))[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    engine.verbs.clear()
    flow.weight_grad("weight_hh")
    assert engine.verbs == {"losses"}
    flow.dropped(tt.Truncated(3))
    flow.jacobian_product(9, 2)
    assert "backward" in engine.verbs
