"""What a long flow costs: all pairs (t, k) of an LSTM over 1000 steps fit in 2 GiB (eq. 9).

Memory grows with T² at most: a flow over the n-th part of the steps may take the n²-th part of it.
What a process with torch has before, 0.3 GiB, or 0.6 in a build with CUDA, is no part of that.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# VmHWM is the peak of the child alone: ru_maxrss begins at that of the process which started it.
# That of a fork begins at what the process holds, which has taken a flow of three steps: torch
# imports some 500 modules only then, which on Python 3.13 take 30 MB more than on 3.11.
CHILD = """
import os, re, sys, torch
import throughtime as tt
from throughtime import kernels

def peak():
    return int(re.search(r"VmHWM:[^0-9]*([0-9]+)", open("/proc/self/status").read())[1]) / 2**20

def measure(kernel, T, H):
    before = peak()
    kernels.use(kernel)
    model = torch.nn.LSTM(16, H)
    # Forget gates near 1: no gradient underflows, which would end a loss's way early.
    model.bias_hh_l0.data[H : 2 * H] += 4
    with tt.trace(model) as trace:
        output, _ = model(torch.randn(T, 8, 16))
        losses = output.pow(2).mean((1, 2))
    flow = trace.flow(losses)["l0"]
    assert flow.norms.shape == (T, T + 1, 8) and flow.norms.isfinite().all()
    assert (flow.norms[-1] > 0).all()
    flow.weight_grad("weight_hh", loss=T - 1, step=1)
    tt.diagnose({"l0": flow})
    print(peak() - before, flush=True)

torch.set_num_threads(1)
torch.manual_seed(0)
measure("auto", 3, 2)
for asked in sys.argv[1:]:
    child = os.fork()
    if not child:
        kernel, T, H = asked.split(",")
        measure(kernel, int(T), int(H))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, asked
"""
T, H = 300, 128
KERNELS = ("auto", "reference")
# Laid out densely, the losses' direct gradients alone would be T·T·8·H floats, 0.34 GiB.
MOST = (2 - 0.3) * (T / 1000) ** 2


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    """Give the peak of a flow by each kernel, in GiB."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *(f"{kernel},{T},{H}" for kernel in KERNELS)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(KERNELS, map(float, done.stdout.split()[1:]), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM stands in Linux's /proc")
@pytest.mark.parametrize("kernel", KERNELS)
def test_all_pairs_of_a_long_lstm_stay_below_their_limit(kernel, peaks):
    assert peaks[kernel] < MOST, f"{peaks[kernel]:.2f} GiB of {MOST:.2f}"
