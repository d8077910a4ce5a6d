"""What differs on a GPU, without one: the one question asked of a tensor is answered yes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import kernels, torch_state
from throughtime.cells import GRU, LSTM, Elman, MinGRU
from throughtime.kernels.cpu.engine import NATIVE
from throughtime.kernels.gpu import engine as triton
from throughtime.kernels.torch import chunk
from throughtime.testing import assert_close

F32, BF16 = torch.float32, torch.bfloat16
T, B, I, H = 7, 4, 3, 5
KINDS = ("LSTM", "GRU", "RNN")


@pytest.fixture
def gpu(monkeypatch):
    """Let the CPU pass for a GPU, on which the compiled sweeps for CPUs do not run."""
    monkeypatch.setattr(torch_state, "is_on_gpu", lambda tensor: True)
    monkeypatch.setattr(NATIVE, "obstacle", lambda cell, demand: "it is for CPUs.")


def ran_on() -> str:
    return kernels.last_choice().name


def test_on_a_cpu_nothing_changes():
    for cell in (LSTM(I, H), GRU(I, H, dtype=BF16), Elman(I, H)):
        assert kernels.choice(cell).name in ("native", "reference")
        assert "torch's own" not in kernels.choice(cell).reason


def test_on_a_gpu_torchs_modules_run_by_themselves_and_it_is_said_why(gpu):
    for cell in (LSTM(I, H), LSTM(I, H, proj_size=2), GRU(I, H, dtype=BF16), Elman(I, H)):
        chosen = kernels.choice(cell)
        assert chosen.name == "torch"
        assert "has no compiled kernel" in chosen.reason
        assert "It runs on torch's own fused module." in chosen.reason
    for cell in (Elman(I, H, "sigmoid"), MinGRU(I, H), GRU(I, H, dtype=torch.complex64)):
        assert kernels.choice(cell).name != "torch"


@pytest.mark.parametrize(
    ("missing", "why"),
    [("triton is not installed.", "triton is not installed"), ("", "kernels.use('triton') asks")],
)
def test_where_triton_is_missing_or_not_asked_for_it_falls_back_and_says_why(
    missing, why, gpu, monkeypatch
):
    monkeypatch.setattr(triton, "_missing", lambda: missing)
    chosen = kernels.choice(LSTM(I, H))
    assert chosen.name == "torch" and why in chosen.reason


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
def test_a_training_step_of_every_kind_runs_there(kind, options, gpu):
    layer = getattr(tt, kind)(I, H, dtype=torch.float64, **options)
    x = torch.randn(T, B, I, dtype=torch.float64)
    resets = torch.arange(T * B).view(T, B) % 5 == 3
    for call in ({}, {"lengths": [7, 1, 4, 4]}, {"reset": resets}):
        layer.zero_grad()
        layer(x, **call)[0].pow(2).sum().backward()
        assert ran_on() == "torch"
        got = [p.grad.clone() for p in layer.parameters()]
        with kernels.use("reference"):
            want = torch.autograd.grad(layer(x, **call)[0].pow(2).sum(), list(layer.parameters()))
        for a, b in zip(got, want, strict=True):
            assert_close(a, b, rtol=1e-12)


def test_single_steps_and_many_losses_run_one_by_one_there(gpu):
    layer, x = tt.GRU(I, H), torch.randn(T, B, I)
    with tt.trace(layer):
        layer(x)
    assert ran_on() == "reference" and "one by one in plain torch" in kernels.last_choice().reason
    with kernels.use("reference"):
        layer(x)
    assert ran_on() == "reference"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}], ids=str)
def test_under_autocast_a_layer_there_has_its_precision_as_torchs_own(kind, options, gpu):
    layer = getattr(tt, kind)(I, H, **options)
    x = torch.randn(T, B, I).requires_grad_()
    with torch.autocast("cpu", dtype=BF16):
        h, s = layer(x)
        more, _ = layer(x.to(BF16), s, lengths=[7, 1, 4, 4])
    assert {t.dtype for t in (h, more, *(s if isinstance(s, tuple) else (s,)))} == {BF16}
    h.sum().backward()
    assert x.grad.dtype == F32 and all(p.grad.dtype == F32 for p in layer.parameters())
    theirs = getattr(nn, kind)(I, H, dtype=BF16, **options)
    theirs.load_state_dict(layer.state_dict())
    assert torch.equal(theirs(x.detach().to(BF16))[0], h)


def test_under_autocast_the_weights_precision_stays_elsewhere(gpu, monkeypatch):
    layer, x = tt.GRU(I, H), torch.randn(T, B, I)
    double = tt.GRU(I, H, dtype=torch.float64)
    with torch.autocast("cpu", dtype=BF16):
        assert double(x)[0].dtype == torch.float64
        with tt.per_sample_grads(layer):
            assert layer(x)[0].dtype == F32
        with tt.trace(layer):
            assert layer(x)[0].dtype == F32
        monkeypatch.setattr(torch_state, "is_on_gpu", lambda tensor: False)
        assert layer(x)[0].dtype == F32


def flat(cell):
    """Move a cell's weights into one piece of memory, as `_cudnn_rnn_flatten_weight` does."""
    ordered = [cell.weights()[name] for name in chunk.ORDER if name in cell.weights()]
    whole = torch.cat([w.detach().flatten() for w in ordered])
    for weight, part in zip(ordered, whole.split([w.numel() for w in ordered]), strict=True):
        weight.data = part.view_as(weight)
    return ordered


@pytest.mark.parametrize("cell", [LSTM(I, H), LSTM(I, H, proj_size=2), GRU(I, H, bias=False)])
def test_weights_in_one_chunk_are_recognised(cell):
    ordered = [cell.weights()[name] for name in chunk.ORDER if name in cell.weights()]
    assert not chunk.is_one_chunk(ordered)
    assert chunk.is_one_chunk(flat(cell))
    big = torch.zeros(5000)
    assert not chunk.is_one_chunk([big[:10], big[10:20]])  # one layer of several


@pytest.fixture
def flattened(gpu, monkeypatch):
    """Do what cuDNN does with weights, and return a list of where they were and of which shape."""
    seen = []

    def flatten(weights, shape):
        seen.append(([w.data_ptr() for w in weights], shape))
        whole = torch.cat([w.flatten() for w in weights])
        for weight, part in zip(weights, whole.split([w.numel() for w in weights]), strict=True):
            weight.set_(part.view_as(weight))

    monkeypatch.setattr(chunk, "flatten", flatten)
    monkeypatch.setattr(chunk, "_wants_chunks", lambda weight: True)
    return seen


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("call", [{}, {"lengths": [7, 1, 4, 4]}], ids=str)
def test_weights_that_lie_apart_are_copied_and_the_parameters_left_alone(call, options, flattened):
    layer = tt.LSTM(I, H, dtype=torch.float64, **options)
    x = torch.randn(T, B, I, dtype=torch.float64)
    where = [p.data_ptr() for p in layer.parameters()]
    for _ in range(2):
        layer.zero_grad()
        layer(x, **call)[0].pow(2).sum().backward()
    layers, both = options.get("num_layers", 1), "bidirectional" in options
    assert flattened == [(where, ("LSTM", I, H, 0, layers, both))] * 2
    assert [p.data_ptr() for p in layer.parameters()] == where
    got = [p.grad.clone() for p in layer.parameters()]
    with kernels.use("reference"):
        loss = layer(x, **call)[0].pow(2).sum()
        for a, b in zip(got, torch.autograd.grad(loss, list(layer.parameters())), strict=True):
            assert_close(a, b, rtol=1e-12)


def test_weights_that_lie_together_are_taken_as_they_are(flattened):
    layer = tt.LSTM(I, H)
    flat(LSTM.over({n[:-3]: p for n, p in layer.named_parameters()}))
    layer(torch.randn(T, B, I), lengths=[7, 1, 4, 4])[0].sum().backward()
    layer(torch.randn(T, B, I))[0].sum().backward()
    assert not flattened


def test_cudnn_is_told_the_shape(monkeypatch):
    told = []
    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", lambda *given: told.append(given[1:]))
    monkeypatch.setattr(torch.cuda, "device_of", lambda _: torch.no_grad())
    monkeypatch.setattr("torch.backends.cudnn.rnn.get_cudnn_mode", lambda mode: mode)
    for cell in (LSTM(I, H, proj_size=2), GRU(I, H), Elman(I, H, "relu", bias=False)):
        weights = [cell.weights()[n] for n in chunk.ORDER if n in cell.weights()]
        chunk.flatten(weights, chunk.RNNDescriptor.of(cell))
    both = chunk.RNNDescriptor("GRU", I, H, 0, 2, True)
    chunk.flatten(list(tt.GRU(I, H, 2, bidirectional=True).parameters()), both)
    assert told == [
        (5, I, "LSTM", H, 2, 1, False, False),
        (4, I, "GRU", H, 0, 1, False, False),
        (2, I, "RNN_RELU", H, 0, 1, False, False),
        (4, I, "GRU", H, 0, 2, False, True),
    ]
