"""PyTorch's own sample inputs for its recurrent modules, run here and there."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import throughtime as tt
from oracles.by_hand import F64
from throughtime.testing import assert_close

OURS = {nn.RNN: tt.RNN, nn.LSTM: tt.LSTM, nn.GRU: tt.GRU}


@pytest.fixture(scope="module")
def infos():
    """Give what torch knows of each module; importing that takes seconds, so not at collection."""
    with warnings.catch_warnings():
        # The module that holds the samples imports what torch itself calls deprecated.
        warnings.simplefilter("ignore")
        from torch.testing._internal.common_modules import module_db
    return {info.module_cls: info for info in module_db if info.module_cls in OURS}


def flat(result) -> list[torch.Tensor]:
    if isinstance(result, nn.utils.rnn.PackedSequence):
        return [result.data]
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in flat(part)]


def leaves(part) -> list[torch.Tensor]:
    if isinstance(part, torch.Tensor):
        return [part]
    if isinstance(part, nn.utils.rnn.PackedSequence):
        return []
    return [t for p in part for t in leaves(p)] if isinstance(part, tuple) else []


@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("theirs", OURS)
def test_outputs_and_gradients_are_torchs_on_its_own_samples(theirs, training, infos):
    samples = infos[theirs].module_inputs_func(
        infos[theirs], device="cpu", dtype=F64, requires_grad=True, training=training
    )
    assert len(samples) > 8
    for number, sample in enumerate(samples):
        compare(theirs, training, sample, f"sample {number}")


def compare(theirs, training, sample, name):
    make, call = sample.constructor_input, sample.forward_input
    found = []
    for kind in (theirs, OURS[theirs]):
        torch.manual_seed(0)
        module = kind(*make.args, **make.kwargs).to(F64).train(training)
        torch.manual_seed(1)
        results = flat(module(*call.args, **call.kwargs))
        loss = sum(
            (r * torch.linspace(-1, 2, r.numel(), dtype=F64).view_as(r)).sum() for r in results
        )
        inputs = [
            i for i in leaves(call.args) + leaves(tuple(call.kwargs.values())) if i.requires_grad
        ]
        grads = torch.autograd.grad(
            loss, [*inputs, *module.parameters()], allow_unused=True, retain_graph=True
        )
        found.append((results, grads))
    for which, ours, torchs in zip(("result", "gradient"), found[1], found[0], strict=True):
        for i, (got, want) in enumerate(zip(ours, torchs, strict=True)):
            assert (got is None) == (want is None)
            if want is not None:
                assert_close(got, want, name=f"{name}, {which} {i}")
