"""The fuzz of random models and losses at length: each flow's numbers beside loops by hand.

Run: python benchmarks/fuzz_graphs.py [--seeds 900] [--first 0]

It prints a line for each number that is wrong, then how many were compared and the largest relative
error; exit 1 where one is wrong. The suite runs every third one of the first 90 seeds.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from flow.graph_checks import RTOL, RTOL_FLOAT32, RTOL_SATURATED, check


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=900, help="how many cases to draw")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_args()
    torch.set_num_threads(1)
    checks, wrong = 0, 0
    worst = dict.fromkeys((RTOL, RTOL_SATURATED, RTOL_FLOAT32), 0.0)
    for seed in range(args.first, args.first + args.seeds):
        report = check(seed)
        checks += report.checks
        worst[report.rtol] = max(worst[report.rtol], report.worst)
        wrong += bool(report.failures)
        for failure in report.failures:
            print(failure, flush=True)
    print(f"{args.seeds} cases, {checks} checks, {wrong} cases with a wrong number")
    for name, rtol in (
        ("float64", RTOL),
        ("float64, saturated", RTOL_SATURATED),
        ("float32 beside float64", RTOL_FLOAT32),
    ):
        print(f"{name}: largest relative error {worst[rtol]:.1e} (allowed {rtol:.0e})")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
