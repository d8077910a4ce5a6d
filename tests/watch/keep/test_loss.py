"""Which operation broke a loss, read off the graph that it hangs on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from throughtime.watch.keep.broken_loss import operation_in

ZERO = torch.tensor([1.0, 0.0])
LOSSES: dict[str, tuple[Callable[[Tensor], Tensor], str, tuple[int, ...]]] = {
    "log of 0": (lambda x: -(x * ZERO).log().mean(), "log", (1,)),
    "by a count of 0": (lambda x: x.sum() / ZERO.sub(1).clamp(min=0).sum(), "div", ()),
    "by 0 in Python": (lambda x: (x / 0.0).sum(), "div", ()),
    "no number is left": (lambda x: x[x > 9].mean(), "mean (of no numbers)", ()),
    "all are ignored": (
        lambda x: functional.cross_entropy(x[None], torch.tensor([-100])),
        "nll_loss (every target is ignored)",
        (),
    ),
    "a power": (lambda x: (x * 1e30).pow(2).mean(), "pow", (0,)),
    "exp": (lambda x: (x * 1e30).exp().mean(), "exp", (0,)),
    "root of less than 0": (lambda x: (x - 3).sqrt().sum(), "sqrt", (0,)),
}


def the_output() -> Tensor:
    return torch.ones(2, requires_grad=True) * torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("name", LOSSES)
def test_the_operation_that_broke_a_loss_is_named(name):
    compute, operation, place = LOSSES[name]
    output = the_output()
    loss = compute(output)
    assert not loss.isfinite()
    found = operation_in(loss, [output])
    assert found is not None and (found.name, found.place) == (operation, place)
    assert f"the forward pass that made {'NaN' if found.kind == 'nan' else 'inf'}" in str(found)


def test_what_was_bad_before_is_no_operations_fault():
    x = the_output() * torch.nan
    assert operation_in(x.exp().sum(), [x]) is None, "the output itself is bad"
    assert operation_in(x.exp().sum()) is None, "nothing is known of what exp was given"
    assert operation_in(x.log().sum()) is None and operation_in((x / 0).sum()) is None
    assert operation_in(x.detach().sum()) is None, "no graph"


def test_what_the_model_does_inside_is_left_to_the_replay():
    masked = (the_output() * ZERO).log().exp()  # 0 again
    assert operation_in(masked.sum() / 0, [masked]).name == "div"  # pyright: ignore


def test_a_long_graph_is_read_without_recursion():
    x = the_output()
    for _ in range(5000):
        x = x * 1.0
    assert operation_in(x.sub(1).log().sum()).name == "log"  # pyright: ignore
