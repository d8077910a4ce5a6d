"""What a long flow costs: all pairs (t, k) of an LSTM over 1000 steps fit in 2 GiB (eq. 9).

Memory grows with T² at most, so half the steps may take a quarter of it. What a process with torch
has before is no part of it: a build with CUDA begins 0.3 GiB higher.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

# VmHWM is the peak of the child alone: ru_maxrss begins at that of the process which started it.
CHILD = """
import re, sys, torch
import throughtime as tt
from throughtime import kernels
def peak():
    return int(re.search(r"VmHWM:[^0-9]*([0-9]+)", open("/proc/self/status").read())[1]) / 2**20
kernels.use(sys.argv[1])
T, H = int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
before = peak()
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
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM stands in Linux's /proc")
@pytest.mark.parametrize(
    ("kernel", "T", "H", "most"),
    # Laid out densely, the losses' direct gradients alone would be T·T·8·H floats.
    [("auto", 500, 128, 0.3), ("reference", 400, 96, 0.3)],
    ids=["500 steps, 128 units in 0.3 GiB", "400 steps, 96 units in plain torch in 0.3 GiB"],
)
def test_all_pairs_of_a_long_lstm_stay_below_their_limit(kernel, T, H, most):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kernel, str(T), str(H)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    added = float(done.stdout)
    assert added < most, f"{added:.2f} GiB"
