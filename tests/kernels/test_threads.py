"""Any number of threads comes to an end, and to the reference's result.

It runs in a process of its own, which can be stopped: threads that wait for one another wait for
ever.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

# Sixteen threads wait for one another some fifty times in each.
SWEEPS = """
import torch
from throughtime import cells
from throughtime.kernels.comparison import Reference

for name, dtype, span in (
    ("Elman", torch.float64, "prefix"),
    ("GRU", torch.float32, "all"),
    ("LSTM", torch.float32, "suffix"),
    ("LayerNormLSTM", torch.float64, "prefix"),
):
    for B in (1, 2):
        for I, H in ((4, 256), (70, 300)):
            torch.manual_seed(0)
            cell = getattr(cells, name)(I, H, dtype=torch.float64)
            reference = Reference(cell, dtype=dtype, T=15, B=B, V=1, span=span)
            for threads in (4, 5, 16):
                torch.set_num_threads(threads)
                print(name, threads, B, I, H, flush=True)
                reference.check()
print("done")
"""


@pytest.mark.slow
def test_more_threads_than_rows():
    command = [sys.executable, "-c", SWEEPS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.stdout.endswith("done\n"), f"{ended.stdout[-40:]}\n{ended.stderr[-2000:]}"
