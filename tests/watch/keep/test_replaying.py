"""A step taken again has the bits that it had: its loss, and the gradient of every weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.watch.keep import Replay, read_bundle
from throughtime.watch.keep.operation import Operation, first_operation

from ..trainings import H, Loop, Model, Normed, Packed, batches, mean_square, same_bits, train

PACKED = [((x, [12, 9, 7, 2]), y) for x, y in batches()]


def packed_losses(model: nn.Module, batch: Any) -> Tensor:
    (x, lengths), y = batch
    return (model(x, lengths) - y).pow(2).mean()


def outside(model: Any, batch: Any) -> Tensor:
    """A loop outside of any module's forward."""
    x, y = batch
    h = x.new_zeros(x.shape[1], H)
    total = x.new_zeros(())
    for x_t, y_t in zip(x, y, strict=True):
        h = model.cell(model.drop(x_t), h)
        total = total + (model.read(h) - y_t).pow(2).mean()
    return total / torch.rand(())


CASES = {
    "lstm with dropout": (Model, batches(), mean_square),
    "buffers": (Normed, batches(), mean_square),
    "tt layer": (lambda: Model(tt.GRU), batches(), mean_square),
    "packed": (Packed, PACKED, packed_losses),
    "cell loop": (Loop, batches(), mean_square),
    "loop outside": (Loop, batches(), outside),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("every", [1, 4])
def test_a_step_taken_again_has_the_same_bits(tmp_path, name, every):
    build, data, losses = CASES[name]
    torch.manual_seed(0)

    def spoil(step: int, model: nn.Module) -> None:
        if step == 6:  # what the loss was computed from is sound
            next(model.parameters()).grad[0, 0] = torch.inf  # pyright: ignore

    run = train(build(), tmp_path, data, losses=losses, every=every, after=spoil)
    assert run.keeper.broken.what == "gradient" and run.keeper.broken.step == 6
    torch.manual_seed(77)
    replay = Replay(read_bundle(run.keeper.bundle), build(), losses, like=data[0])
    for _ in range(2):
        loss = replay.run()
        assert same_bits(loss, run.losses[5])
        gradients = torch.autograd.grad(loss, list(replay.model.parameters()))
        assert all(map(same_bits, gradients, run.gradients[5]))


@pytest.mark.parametrize("name", [name for name in CASES if name != "loop outside"])
def test_without_a_batch_the_call_is_repeated_with_what_the_loss_sent(tmp_path, name):
    build, data, losses = CASES[name]

    def spoil(step: int, model: nn.Module) -> None:
        if step == 6:
            next(model.parameters()).grad[0, 0] = torch.inf  # pyright: ignore

    run = train(build(), tmp_path, data, losses=losses, give=False, after=spoil)
    replay = Replay(read_bundle(run.keeper.bundle), build())
    loss = replay.run()
    assert same_bits(loss, run.losses[5])
    gradients = torch.autograd.grad(loss, list(replay.model.parameters()))
    assert all(map(same_bits, gradients, run.gradients[5]))


def test_draws_from_numpy_and_python_are_repeated(tmp_path):
    import random

    import numpy as np

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return mean_square(model, batch) * (random.random() + np.random.rand())

    def spoil(step: int, model: nn.Module) -> None:
        if step == 6:
            next(model.parameters()).grad[0, 0] = torch.inf  # pyright: ignore

    run = train(Model(), tmp_path, batches(), losses=losses, after=spoil)
    replay = Replay(read_bundle(run.keeper.bundle), Model(), losses)
    assert same_bits(replay.run(), run.losses[5])


# --- operations --------------------------------------------------------------------------------


def operation_of(function: Any, *values: float) -> Operation | None:
    model = nn.ParameterList([torch.tensor(values)])
    return first_operation(model, lambda: function(model[0]).sum())


def test_what_is_given_bad_numbers_makes_none():
    nan, inf = float("nan"), float("inf")
    assert operation_of(lambda w: (w * torch.tensor([nan, 1.0])).sigmoid_(), 1.0, 2.0) is None
    assert operation_of(lambda w: w + torch.full((2,), inf), 1.0, 2.0) is None
    assert operation_of(lambda w: w.masked_fill(w > 1, -inf).softmax(0), 1.0, 2.0) is None
    assert operation_of(lambda w: w * 2, 1.0, 2.0) is None


@pytest.mark.parametrize(
    ("function", "name", "backward", "kind", "place"),
    [
        (lambda w: (w - 2).log(), "log", False, "inf", (1,)),
        (lambda w: (w * 1e38).mul_(2), "mul_", False, "inf", (1,)),
        (lambda w: (w - 2).div_(w - 2), "div_", False, "nan", (1,)),
        (lambda w: (w - 2).abs().sqrt(), "SqrtBackward0", True, "inf", (1,)),
    ],
)
def test_the_first_bad_operation_is_named(function, name, backward, kind, place):
    found = operation_of(function, 1.0, 2.0)
    assert found is not None and found[:4] == (name, backward, kind, place)
    assert "test_replaying.py, line" in (found.line or ""), "not the line of the forward pass"
