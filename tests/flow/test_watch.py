"""Traces that end in any order, in threads and generators, and copies made while one is open."""

from __future__ import annotations

import copy
import io
import threading

import pytest
import torch
from torch import nn

import throughtime as tt

KINDS = [nn.LSTM, tt.GRU, lambda i, h: tt.Recurrent(tt.cells.Leaky(i, h))]


@pytest.fixture(params=KINDS, ids=["nn.LSTM", "tt.GRU", "tt.Recurrent"])
def model(request) -> nn.Module:
    return nn.Sequential(request.param(3, 4))


def losses(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(6, 2, 3))[0].pow(2).sum((1, 2))


def is_plain(model: nn.Module) -> bool:
    return all("forward" not in vars(module) for module in model.modules())


def test_traces_that_end_in_the_order_in_which_they_began(model):
    first, second = tt.trace(model), tt.trace(model)
    one = first.__enter__()
    two = second.__enter__()
    losses(model)
    first.__exit__(None, None, None)
    losses(model)
    second.__exit__(None, None, None)
    assert is_plain(model)
    losses(model)
    assert len(one.recording.calls) == 0 and len(two.recording.calls) == 2


def test_a_forward_of_the_modules_own_is_put_back_whatever_the_order(model):
    def own(*args):
        return type(model[0]).forward(model[0], *args)

    model[0].forward = own
    first, second = tt.trace(model), tt.trace(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert model[0].forward is own


def test_a_trace_held_by_a_generator(model):
    def watched():
        with tt.trace(model) as trace:
            yield trace

    open_ = watched()
    trace = next(open_)
    with tt.trace(model) as inner:
        losses(model)
        open_.close()
        losses(model)
    assert is_plain(model)
    assert len(trace.recording.calls) == 0 and len(inner.recording.calls) == 2


def test_each_threads_trace_sees_the_calls_of_its_own_thread(model):
    meet, found, wrong = threading.Barrier(3), {}, []

    def work(number: int) -> None:
        try:
            with tt.trace(model) as trace:
                meet.wait()
                for _ in range(number):
                    losses(model)
                meet.wait()
            found[number] = len(trace.recording.calls)
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and found == {1: 1, 2: 2, 3: 3}
    assert is_plain(model)


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_made_inside_a_trace_is_not_watched_and_has_its_own_weights(model, way):
    with tt.trace(model) as trace:
        if way == "deepcopy":
            made = copy.deepcopy(model)
        else:
            buffer = io.BytesIO()
            torch.save(model, buffer)
            buffer.seek(0)
            made = torch.load(buffer, weights_only=False)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.zero_()
        x = torch.randn(6, 2, 3)
        inside = made(x)[0]
        assert not trace.recording.calls
    assert (inside == made(x)[0]).all() and (made(x)[0] == 0).all()
    assert is_plain(model) and not (model(x)[0] == 0).all()
    again = copy.deepcopy(made)
    with tt.trace(again) as trace:
        found = losses(again)
    assert list(trace.flow(found)) == ["0.l0"]


def test_an_exception_inside_one_of_two_traces(model):
    with tt.trace(model) as outer:
        with pytest.raises(ZeroDivisionError), tt.trace(model):
            raise ZeroDivisionError
        losses(model)
    assert len(outer.recording.calls) == 1 and is_plain(model)
