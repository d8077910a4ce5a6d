"""The table of single steps on a GPU: right first, then timed; here a CPU passes for a GPU."""

from __future__ import annotations

import torch
from tests.oracles.on_gpu import gpu

from throughtime import replays
from throughtime.bench import gpu_steps, gpu_table
from throughtime.kernels.gpu import fused

__all__ = ["gpu"]


def test_single_steps_are_held_against_float64_and_timed_dry(tmp_path, gpu, monkeypatch):
    """With a CPU that passes for a GPU, so that recordings are made."""
    monkeypatch.setattr(fused, "_no_kernel", lambda device: "triton is not installed.")
    few = ("GRU", "Function")
    jobs = {name: job for name, job in gpu_steps.JOBS.items() if name.endswith(few)}
    monkeypatch.setattr(gpu_steps, "JOBS", jobs)
    table = gpu_table.Table(tmp_path, {}, 5)
    device = torch.device("cpu")
    gpu_steps.right_steps(table, device, dry=True)
    assert not gpu_steps.wrong_steps(table) and gpu.replayed > 0
    gpu_steps.time_steps(table, device, gpu_steps.Size(3, 2, 3), 1)
    rows = [row for row in table.rows if row["table"] == "Single steps"]
    assert not [row for row in rows if "failed" in row]
    assert all({"recorded, ms", "plain torch, ms"} <= set(row) for row in rows)
    maps = [row for row in rows if row["what"].startswith("(t, k) map")]
    assert len(maps) == 2 and all("T calls of autograd, ms" in row for row in maps)


def test_a_replay_that_is_wrong_is_noticed_before_anything_is_timed(tmp_path, gpu, monkeypatch):
    monkeypatch.setattr(replays.graphs, "copy_all", lambda to, given: None)
    table = gpu_table.Table(tmp_path, {}, 5)
    monkeypatch.setattr(gpu_steps, "JOBS", {"map": gpu_steps.JOBS["(t, k) map, LayerNormLSTM"]})
    gpu_steps.right_steps(table, torch.device("cpu"), dry=True)
    assert table.rows[0]["right"] == "NO" and gpu_steps.wrong_steps(table) == {"map"}
    gpu_steps.time_steps(table, torch.device("cpu"), gpu_steps.Size(3, 2, 3), 1)
    assert "not timed" in table.rows[1]["failed"]
