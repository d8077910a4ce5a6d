"""Any number of threads comes to an end, and to the reference's result.

It runs in a process of its own, which can be stopped: threads that wait for one another wait for
ever.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

SWEEPS = """
import torch
from throughtime import cells
from throughtime.kernels.check import Reference

for B in (1, 2):
    for I, H in ((4, 256), (70, 300)):
        torch.manual_seed(0)
        cell = cells.{name}(I, H, dtype=torch.float64)
        reference = Reference(cell, dtype=torch.{dtype}, T=60, B=B, V=1, span="{span}")
        for threads in (4, 5, 16):
            torch.set_num_threads(threads)
            print(threads, B, I, H, flush=True)
            reference.check()
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "span"),
    [
        ("Elman", "float64", "prefix"),
        ("GRU", "float32", "all"),
        ("LSTM", "float32", "suffix"),
        ("LayerNormLSTM", "float64", "prefix"),
    ],
)
def test_more_threads_than_rows(name, dtype, span):
    code = SWEEPS.format(name=name, dtype=dtype, span=span)
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.stdout.endswith("done\n"), f"{ended.stdout[-40:]}\n{ended.stderr[-2000:]}"
