"""A stream knows the time axis from the model's layers, and refuses a contradiction."""

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import errors
from throughtime.testing import assert_close

T, B, I, H = 7, 3, 2, 4


class Two(nn.Module):
    """Two layers, which may have their axes one way or the other; the model turns between them."""

    def __init__(self, first, second):
        super().__init__()
        self.first = tt.LSTM(I, H, batch_first=first)
        self.second = tt.Recurrent(tt.cells.GRU(H, H), batch_first=second)

    def forward(self, x):
        h = self.first(x)[0]
        turned = self.first.batch_first != self.second.batch_first
        return self.second(h.transpose(0, 1) if turned else h)[0]


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("given", ["left out", "said"])
def test_the_axis_is_that_of_the_layers(batch_first, given):
    model = Two(batch_first, batch_first)
    x = torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)
    said = {} if given == "left out" else {"batch_first": batch_first}
    parts = [model(part) for part in tt.stream(model, x, window=3, **said)]
    assert_close(torch.cat(parts, int(batch_first)), model(x), rtol=1e-5)


def test_masks_lie_as_the_layers_have_it():
    model, x = tt.GRU(I, H, batch_first=True), torch.randn(B, T, I)
    mask = torch.rand(T, B) > 0.6
    parts = [model(part)[0] for part in tt.stream(model, x, window=3, reset=mask.t())]
    assert_close(torch.cat(parts, 1), model(x, reset=mask)[0], rtol=1e-5)


@pytest.mark.parametrize("make", [tt.LSTM, nn.LSTM])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_contradiction_is_refused(make, batch_first):
    model = make(I, H, batch_first=batch_first)
    with pytest.raises(
        errors.InputValueError,
        match=f"={not batch_first} was given, but the LSTM has batch_first={batch_first}",
    ):
        tt.stream(model, torch.randn(5, 5, I), window=3, batch_first=not batch_first)


def test_layers_that_disagree_need_a_word():
    model, x = Two(True, False), torch.randn(B, T, I)
    with pytest.raises(errors.InputValueError, match="LSTM 'first' has batch_first=True and Recur"):
        tt.stream(model, x, window=3)
    parts = [model(part) for part in tt.stream(model, x, window=3, batch_first=True)]
    assert_close(torch.cat(parts), model(x), rtol=1e-5)


def test_the_argument_is_a_bool():
    with pytest.raises(
        errors.InputTypeError, match="batch_first must be True, False or None; got 1"
    ):
        tt.stream(tt.GRU(I, H), torch.randn(T, B, I), batch_first=1)
