"""Build what an index takes, into a folder: ``python wheels/build.py dist`` (`make wheels`).

Two wheels with compiled kernels, for x86-64 and aarch64 and a glibc as old as 2.17, one for any
machine, and the source. Zig's Clang compiles for both from any machine. Then auditwheel checks
which systems each serves, twine what an index would say, and the kernels' own tests run on the
library of each wheel: the other machine's in qemu, where that is installed (Debian: qemu-user and
libc6-arm64-cross).
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
GLIBC = "2.17"
LIBRARY = "throughtime/kernels/cpu/_native.so"
# Where Debian's libc6-arm64-cross and its like lie.
SYSROOT = "/usr/{}-linux-gnu"


def run(*command: str | Path, **environment: str) -> None:
    """Run a program; what it says is shown where it fails."""
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=os.environ | environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")


def python(*arguments: str | Path, **environment: str) -> None:
    """Run a module of this environment, whose programs are found first."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run(sys.executable, "-m", *arguments, **{"PATH": programs, **environment})


def compiler(machine: str, folder: Path) -> Path:
    """Return a C++ compiler for a machine."""
    script = folder / f"c++-{machine}"
    target = f"{machine}-linux-gnu.{GLIBC}"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m ziglang c++ -target {target} "$@"\n')
    script.chmod(0o755)
    return script


def compiled(machine: str, folder: Path, dist: Path) -> Path:
    """Build the wheel for a machine, and name it for the systems that it serves."""
    raw = folder / machine
    python(
        "build", "--wheel", "--no-isolation", "--outdir", raw,
        f"-Cbuild-dir={folder / 'objects' / machine}",
        # A strip for this machine cannot read the other's; the linker leaves the symbols out.
        "-Cinstall.strip=false",
        "-Ccmake.define.CMAKE_MODULE_LINKER_FLAGS=-s",
        "-Ccmake.define.CMAKE_SYSTEM_NAME=Linux",
        f"-Ccmake.define.CMAKE_SYSTEM_PROCESSOR={machine}",
        CXX=str(compiler(machine, folder)),
        _PYTHON_HOST_PLATFORM=f"linux-{machine}",
    )  # fmt: skip
    (wheel,) = raw.iterdir()
    # It takes no other machine's platform by name, but finds out which the wheel is for.
    python("auditwheel", "repair", "--plat", "auto", "--wheel-dir", dist, wheel)
    plat = f"manylinux_{GLIBC.replace('.', '_')}_{machine}"
    found = list(dist.glob(f"*{machine}.whl"))
    if len(found) != 1 or plat not in found[0].name:
        sys.exit(f"the wheel should serve {plat}; got {[file.name for file in found]}")
    return found[0]


def tested(wheel: Path, machine: str, folder: Path) -> str:
    """Run the kernels' own tests on a wheel's library; return what came of it."""
    native, program = ROOT / "native", folder / f"sweeps-{machine}"
    library = Path(zipfile.ZipFile(wheel).extract(LIBRARY, folder / f"of-{machine}"))
    # It has no name of its own, so that the program would look for it by this path.
    shutil.copy(library, folder / f"libnative-{machine}.so")
    run(
        compiler(machine, folder), "-std=c++20", "-O1", "-I", native, native / "test/sweeps.cpp",
        f"-L{folder}", f"-lnative-{machine}", f"-Wl,-rpath,{folder}", "-pthread", "-o", program,
    )  # fmt: skip
    if machine == platform.machine():
        run(program)
        return "its native tests pass"
    emulator, root = shutil.which(f"qemu-{machine}"), SYSROOT.format(machine)
    if emulator is None or not Path(root).is_dir():
        return f"its native tests were not run: no qemu-{machine}, or no {root}"
    run(emulator, "-L", root, program)
    return f"its native tests pass in qemu-{machine}"


def main() -> None:
    """Build all, then check all."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    dist = Path(sys.argv[1]).resolve()
    shutil.rmtree(dist, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for machine in MACHINES:
            wheel = compiled(machine, folder, dist)
            print(f"{wheel.name}: {tested(wheel, machine, folder)}", flush=True)
        python("build", "--wheel", "--no-isolation", "--outdir", dist, THROUGHTIME_PURE="1")
        python("build", "--sdist", "--no-isolation", "--outdir", dist)
    files = sorted(dist.iterdir())
    python("twine", "check", "--strict", *files)
    for file in files:
        print(f"{file.stat().st_size / 1e6:6.2f} MB  {file.name}")


if __name__ == "__main__":
    main()
