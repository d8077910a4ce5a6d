"""The fuzz of random graphs at length: the flow of each against loops by hand, term by term.

    python benchmarks/fuzz_graphs.py [number of graphs]

Prints how many numbers were compared and the largest relative error; exit 1 where one is wrong.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from core.checked_graphs import Checked, Mismatch, check


def main(graphs: int = 1200) -> int:
    """Check so many graphs."""
    torch.set_num_threads(1)
    checked, wrong = Checked(), 0
    for seed in range(graphs):
        try:
            check(seed, checked)
        except Mismatch as mismatch:
            wrong += 1
            print(mismatch)
    print(f"{graphs} graphs, {checked.checks} checks, largest relative error {checked.worst:.1e}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
