"""What Checkpointed promises of memory, by the peak of a child process; the study measures it."""

import subprocess
import sys

import pytest

from throughtime import kernels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="VmHWM stands in Linux's /proc"),
    pytest.mark.skipif(not kernels.available().native, reason="in plain torch it takes minutes"),
]
# The study takes 10,000; what is kept beyond the output grows with T under Full alone.
STEPS = 3000
# The layer's output and the gradient that arrives at it, (T, 8, 256) in float32.
OUTPUT_AND_GRADIENT = 2 * STEPS * 8 * 256 * 4 / 2**20


@pytest.fixture
def peak(root):
    """Give what one gradient adds to a process's peak, in MiB."""

    def measure(name, steps=STEPS):
        script = root / "benchmarks" / "bench_memory.py"
        run = [sys.executable, script, "--child", name, "--steps", str(steps)]
        done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=300)
        return float(done.stdout.split()[0])

    return measure


def test_the_default_takes_a_tenth_of_the_memory_beyond_the_output_and_its_gradient(peak):
    full, kept = peak("Full()"), peak("Checkpointed()")
    assert kept - OUTPUT_AND_GRADIENT < 0.1 * (full - OUTPUT_AND_GRADIENT), (kept, full)


def test_a_budget_is_kept_but_for_the_weights_and_their_gradients(peak):
    # Three of W_h's size are packed, multiplied and added up beside the 4 MiB for the sweeps.
    assert peak('Checkpointed(memory="4MiB")') - OUTPUT_AND_GRADIENT < 4 + 16


def test_a_million_steps_train_within_a_gibibyte(peak):
    assert peak("million", 1_000_000) < 1024
