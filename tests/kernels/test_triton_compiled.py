"""What Triton's kernels take on sm_90, compiled here without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from throughtime.kernels.gpu.tiling import MULTIPROCESSOR, RESIDENT_WARPS

SCRIPT = Path(__file__).with_name("compiled_for_sm90.py")
LAUNCHED = Path(__file__).with_name("launched_for_sm90.py")
PLAIN = [
    ("lstm", 128, "bf16", "forward_whole", "ragged"),
    ("lstm", 128, "bf16", "backward_whole", "ragged"),
    ("lstm", 1024, "bf16", "forward_step", "ragged"),
    ("lstm", 1024, "bf16", "backward_step", "ragged"),
]
# The widest that a program keeps, of every recurrence and width of number.
WIDEST = [
    (cell, H, dtype, kernel, asked)
    for cell, H, dtype in (
        ("lstm", 64, "fp32"), ("gru", 64, "fp32"), ("gru", 128, "fp16"), ("tanh", 128, "fp32"),
        ("relu", 256, "bf16"), ("sigmoid", 256, "fp16"),
    )
    for kernel in ("forward_whole", "backward_whole")
    for asked in ("ragged",)
] + [
    (cell, H, dtype, kernel, asked)
    for cell, H, dtype, way in (
        ("gru", 512, "fp32", "step"), ("tanh", 1024, "bf16", "step"), ("lstm", 64, "fp16", "whole"),
        ("gru", 64, "bf16", "whole"), ("identity", 64, "bf16", "whole"),
    )
    for kernel in (f"forward_{way}", f"backward_{way}")
    for asked in ("plain", "flow")
]  # fmt: skip
# Programs that meet: the widest, and where the tensor cores are given two gates at once.
RESIDENT = [
    (cell, H, dtype, f"{way}_resident", asked)
    for cell, H, dtype, asked in (
        ("lstm", 1024, "bf16", "ragged"), ("gru", 256, "fp16", "flow"),
        ("tanh", 1024, "bf16", "flow"),
    )
    for way in ("forward", "backward")
]  # fmt: skip
# Bytes of registers that do not fit and are written to memory: 0 but for these.
STACK = {
    ("lstm", 64, "fp32", "backward_whole", "ragged"): 64,
    ("lstm", 1024, "bf16", "backward_resident", "ragged"): 64,
    ("tanh", 1024, "bf16", "backward_resident", "flow"): 64,
}


def told(script: Path, *arguments: str) -> list:
    """Return what a script prints in a process of its own, where Triton does not interpret."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    environment = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    # The package and Triton are found where this process finds them.
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode and "ptxas" in done.stderr and "not found" in done.stderr.lower():
        pytest.skip(f"this Triton has no ptxas for sm_90: {done.stderr.strip().splitlines()[-1]}")
    assert not done.returncode, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def compiled(kernels: list[tuple]) -> dict[tuple, dict]:
    """Return what each kernel takes."""
    return {tuple(line[:5]): line[5] for line in told(SCRIPT, *map(json.dumps, kernels))}


@pytest.mark.slow
def test_they_fit_and_run_on_the_tensor_cores_without_spilling():
    for kernel, found in compiled(PLAIN + WIDEST + RESIDENT).items():
        assert found["shared"] <= MULTIPROCESSOR, (kernel, found)
        assert found["registers"] <= 255, (kernel, found)
        assert found["stack"] <= STACK.get(kernel, 0), (kernel, found)
        assert found["wgmma"] > 0 and found["mma"] == found["calls"] == 0, (kernel, found)
        if found["meets"]:
            they_meet(found["meets"])


def they_meet(order: list[str]) -> None:
    """A program arrives after all its threads, and reads after who looked has told the others."""
    for n, name in enumerate(order):
        assert name != "arrive" or order[n - 1] == "threads", order
        assert name != "look" or order[n + 1] == "threads", order
    # Without the trap a program that never meets the others would hang the device.
    assert {"arrive", "look", "state", "trap"} <= set(order), order


@pytest.mark.slow
def test_what_a_launch_of_programs_that_meet_asks_of_the_driver():
    """One step, one row and one loss, which Triton takes for constants unless told not to."""
    found = told(LAUNCHED, "LSTM", "512", "1", "1")
    assert [(row["name"], row["grid"]) for row in found] == [
        ("forward_resident", [32, 1, 1]), ("backward_resident", [32, 1, 1]),
    ]  # fmt: skip
    assert all(row["together"] and row["num_warps"] == RESIDENT_WARPS for row in found)


@pytest.mark.slow
def test_where_not_all_programs_run_at_once_the_steps_are_taken_one_by_one():
    names = [row["name"] for row in told(LAUNCHED, "Elman", "300", "2", "3", "refuses")]
    assert names == [
        "forward_resident", "forward_step", "forward_step",
        "backward_resident", "backward_step", "backward_step", "backward_step",
    ]  # fmt: skip


STEPS_BACK = [
    (cell, H, dtype, "step_back", asked)
    for cell, H, dtype, asked in (
        ("lstm", 128, "fp32", "flow"), ("gru", 1024, "bf16", "ragged"),
        ("lstm", 700, "fp64", "flow"), ("relu", 64, "fp32", "ragged"),
    )
]  # fmt: skip


def test_the_kernel_of_a_step_back_compiles_and_spills_nothing():
    for kernel, found in compiled(tuple(STEPS_BACK)).items():
        assert found["registers"] <= 255 and found["stack"] == 0, (kernel, found)
