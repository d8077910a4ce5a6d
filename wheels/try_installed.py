"""Install each file of a folder as a user would, on a machine without a compiler, and use it.

``python wheels/try_installed.py dist``: the wheel for this machine, the one for any and the source,
each into the same clean environment, which before and after has only what the package needs. Each
runs a training step, on the widest instruction set that this machine has, and writes the explorer.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Try all of them."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    files = sorted(Path(sys.argv[1]).resolve().iterdir())
    # "manylinux" holds "any" too, so that the ends of the names are looked at.
    ends = (f"{platform.machine()}.whl", "-any.whl", ".tar.gz")
    fit = [file for file in files if file.name.endswith(ends)]
    if not fit:
        sys.exit(f"there is nothing for this machine in {sys.argv[1]}; run make wheels.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder, with_pip=True)
        # With the package's own requirements, PyTorch as it is pinned here.
        pip(folder, "install", "-c", ROOT / "constraints.txt", "torch", fit[0])
        for file in fit:
            pip(folder, "uninstall", "-y", "throughtime")
            pip(folder, "install", "--no-deps", file)
            isa = widest() if platform.machine() in file.name else ""
            print(f"{file.name}: {step(folder, isa=isa)}", flush=True)


def run(folder: Path, *arguments: str | Path) -> str:
    """Run the environment's Python where no compiler is to be found."""
    done = subprocess.run(
        [folder / "bin" / "python", *arguments],
        cwd=folder, env=os.environ | {"PATH": str(folder / "bin"), "CC": "", "CXX": ""},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}\nfailed: {' '.join(map(str, arguments))}")
    return done.stdout


def pip(folder: Path, *arguments: str | Path) -> None:
    """Run pip there."""
    run(folder, "-m", "pip", "-qq", "--disable-pip-version-check", *arguments)


def step(folder: Path, *, isa: str) -> str:
    """Run a training step, on an instruction set or in plain torch, and write the explorer.

    Returns:
        In words, what ran.
    """
    found = json.loads(run(folder, "-I", ROOT / "wheels" / "one_step.py"))
    native, worst = bool(isa), max(found["away"].values())
    wrong = [
        not Path(found["file"]).is_relative_to(folder) and "it is not what was installed that ran",
        worst > 1e-12 and f"its gradients are {worst:.1e} away from torch.nn's",
        found["native"] != native and f"it has {'no ' * native}kernels: {found['reason']}",
        native and found["isa"] != isa and f"it runs on {found['isa']}, not on {isa}",
    ]
    if any(wrong):
        sys.exit("; ".join(filter(None, wrong)))
    ran = f"the compiled kernels ({isa})" if native else "plain torch"
    page = folder / "explore.html"
    page.unlink(missing_ok=True)
    run(folder, "-I", "-m", "throughtime", "explore", "--out", page)
    size = page.stat().st_size / 1e3
    return f"a step in {ran}, within {worst:.0e} of torch.nn; the explorer, {size:.0f} kB"


def widest() -> str:
    """Return the widest instruction set of the kernels that this machine has."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    if "avx512bw" in flags:
        return "avx512"
    return "avx2" if "avx2" in flags else "portable"


if __name__ == "__main__":
    main()
