"""A training step on a GPU: right first, then against cuDNN, torch without it, and other libraries.

Run: python benchmarks/bench_gpu.py [--out FOLDER] [--minutes 5]. It needs a GPU, and says so where
there is none; `throughtime bench --device cuda` is the same. A compiled loop is always among the
rivals, FlashRNN and TorchRL where they are installed. Rows are written to gpu.json and gpu.md as
they come, so that a run that is cut short leaves what it had. A row that fails says why;
after a wrong address on the device, or where nothing comes back from it, the script begins anew
behind that row. In a checkout nothing of throughtime has to be installed. ``--dry`` runs all of it
at tiny sizes on the CPU, in Triton's interpreter where Triton is installed: its times mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

if "--dry" in sys.argv:  # Triton reads it when it is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # as it is in a checkout

from throughtime.bench.gpu import no_gpu, run_all


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=10)
    late = "begin no case after these; by default 5, and a dry run ends by itself"
    options.add_argument("--minutes", type=float, help=late)
    options.add_argument("--out", type=Path, default=Path("gpu-results"))
    options.add_argument("--dry", action="store_true", help="tiny sizes on the CPU")
    given = options.parse_args()
    if not given.dry and no_gpu():
        print(no_gpu())
        return
    minutes = given.minutes if given.minutes is not None else 600 if given.dry else 5
    if not run_all(given.out, minutes=minutes, rounds=given.rounds, dry=given.dry):
        print("Something failed." if given.dry else "Something of throughtime is wrong here.")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
