"""What Checkpointed promises of memory, by the peak of a child process; the study measures it."""

import json
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
STEPS = 2000
# The layer's output and the gradient that arrives at it, (T, 8, 256) in float32.
OUTPUT_AND_GRADIENT = 2 * STEPS * 8 * 256 * 4 / 2**20
BUDGET = 'Checkpointed(memory="4MiB")'
FEW, MORE, MILLION = 100_000, 200_000, 1_000_000
# What freed memory is given back when differs from run to run, so that the less of two counts.
ASKED = [
    ("Full()", STEPS), *2 * [("Checkpointed()", STEPS)], *2 * [(BUDGET, STEPS)],
    ("million", FEW), ("million", MORE),
]  # fmt: skip

# The study, imported once: the peak of a fork begins at what the process holds.
CHILD = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import bench_memory
bench_memory.torch.set_num_threads(1)
bench_memory.torch.manual_seed(0)
for name, steps in json.loads(sys.argv[2]):
    child = os.fork()
    if not child:
        bench_memory.child(name, steps)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""


@pytest.fixture(scope="module")
def peaks(root):
    """Give what one gradient adds to a process's peak, in MiB: {(schedule, T): MiB}."""
    run = [sys.executable, "-c", CHILD, root / "benchmarks", json.dumps(ASKED)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, timeout=300)
    found: dict[tuple[str, int], float] = {}
    for asked, line in zip(ASKED, done.stdout.splitlines(), strict=True):
        found[asked] = min(float(line.split()[0]), found.get(asked, float("inf")))
    return found


def test_the_default_takes_a_tenth_of_the_memory_beyond_the_output_and_its_gradient(peaks):
    full, kept = peaks["Full()", STEPS], peaks["Checkpointed()", STEPS]
    assert kept - OUTPUT_AND_GRADIENT < 0.1 * (full - OUTPUT_AND_GRADIENT), (kept, full)


def test_a_budget_is_kept_but_for_the_weights_and_their_gradients(peaks):
    # Three of W_h's size are packed, multiplied and added up beside the 4 MiB for the sweeps.
    assert peaks[BUDGET, STEPS] - OUTPUT_AND_GRADIENT < 4 + 16


def test_a_million_steps_train_within_a_gibibyte(peaks):
    # The input, the output and their gradients grow with T, what is kept beyond with its root: a
    # line through two lengths lies above what a million takes, which the study measures.
    few, more = peaks["million", FEW], peaks["million", MORE]
    assert more + (more - few) / (MORE - FEW) * (MILLION - MORE) < 1024, (few, more)
