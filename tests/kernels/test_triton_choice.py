"""When Triton's kernels are chosen, what is said where they are not, and how launches are replayed.

Nothing here needs Triton or a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from throughtime import kernels
from throughtime.cells import GRU, LSTM, Elman
from throughtime.kernels.gpu import engine
from throughtime.kernels.gpu.engine import TRITON
from throughtime.kernels.gpu.tiling import plan_for

BF16, F32 = torch.bfloat16, torch.float32


@pytest.fixture(autouse=True)
def forget():
    engine._missing.cache_clear()
    engine._trial.cache_clear()
    yield
    engine._missing.cache_clear()
    engine._trial.cache_clear()


def test_on_a_cpu_nothing_is_said_of_it_unless_it_is_asked_for():
    assert not TRITON.concerns(Elman(2, 3))
    assert "riton" not in kernels.choice(GRU(2, 3, dtype=BF16)).reason


def test_without_a_device_it_is_not_there(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(kernels.choose.UnsupportedError, match="no CUDA device"):
        kernels.use("triton")


@pytest.mark.parametrize(
    ("module", "compiler", "why"),
    [
        (None, "gcc", "triton is not installed"), ("there", None, "needs a C compiler"),
        ("there", "gcc", "needs Python's headers, and /none has none: install python3-dev"),
    ],
)  # fmt: skip
def test_a_gpu_without_triton_a_compiler_or_headers_says_why(module, compiler, why, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _: module)
    monkeypatch.setattr(engine.shutil, "which", lambda _: compiler)
    monkeypatch.setattr(engine.sysconfig, "get_path", lambda _: "/none")
    monkeypatch.setattr(TRITON, "concerns", lambda _: True)  # as on a GPU
    chosen = kernels.choice(LSTM(2, 3))
    assert chosen.name != "triton"
    assert "LSTM has no compiled kernel" in chosen.reason and why in chosen.reason


def test_a_device_with_little_shared_memory_is_left_to_others(monkeypatch):
    small = SimpleNamespace(name="a small one", shared_memory_per_block_optin=100 * 1024)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: small)
    assert "227 KiB" in engine._trial(torch.device("cuda", 0))


def test_a_first_sweep_that_fails_is_said_and_not_raised(monkeypatch):
    from throughtime.kernels.gpu import launch

    def broken(*_, **__):
        raise RuntimeError("no ptxas\nfor this device")

    monkeypatch.setattr(launch, "run_forward", broken)
    told = launch.trial(torch.device("cpu"))
    assert told == "Triton fails on cpu: RuntimeError: no ptxas"

    def wrong(shape, keep, a, weight, bias, s_0, *_):
        return torch.ones(a.shape[0] + 1, *s_0.shape), None, None

    monkeypatch.setattr(launch, "run_forward", wrong)
    monkeypatch.setattr(launch, "backward", lambda cell, tape, g: (g, g[:, 0]))
    assert "was wrong by" in launch.trial(torch.device("cpu"))


@pytest.mark.parametrize(
    ("name", "dtype", "widest"),
    [
        ("tanh", BF16, 256), ("gru", BF16, 128), ("lstm", BF16, 128),
        ("tanh", F32, 128), ("gru", F32, 64), ("lstm", F32, 64),
    ],
)  # fmt: skip
def test_a_program_keeps_w_h_up_to_a_width(name, dtype, widest):
    assert plan_for(name, widest, dtype).way == "whole"
    assert plan_for(name, widest + 1, dtype).way != "whole"
