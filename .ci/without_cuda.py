"""Let a CUDA build of PyTorch run on a CPU without the gigabytes of CUDA it asks for.

An index has, for Linux on x86-64, one build of each PyTorch, and that is linked with CUDA's
libraries: 3 GB, none of which is called where there is no GPU. This puts empty libraries of the
same names and versions beside PyTorch's own, whose every function returns an error.

    python .ci/without_cuda.py torch==2.8.0

installs that PyTorch into the environment of the Python that runs it (pip, no CUDA packages), makes
the libraries, and takes what they stand in for out of what PyTorch says it needs, so that pip does
not bring it later. It needs a C compiler and readelf. For tests on a CPU, and nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from importlib import metadata
from pathlib import Path

# What CUDA's own libraries are called, and the smallest, which is taken as it is: it answers
# "no GPU here" in many calls that PyTorch makes.
CUDA = re.compile(r"lib(cu(?!da\.)|nccl|nv)[A-Za-z0-9_]*\.so\.\d+")
REAL = "libcudart.so"
LEFT_OUT = re.compile(r"^(nvidia|cuda)-")
RUNTIME = re.compile(r"^nvidia-cuda-runtime")


def pip(*arguments: str) -> None:
    """Run pip of this environment; it need not like what is missing."""
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(run.stdout + run.stderr)


def install(torch: str) -> None:
    """Install PyTorch with what it needs apart from CUDA."""
    pip("--no-deps", torch)
    needed = [line for line in metadata.requires("torch") or [] if "extra ==" not in line]
    kept = [line for line in needed if RUNTIME.match(line) or not LEFT_OUT.match(line)]
    pip("setuptools", "numpy", *kept)
    (file,) = Path(sysconfig.get_path("purelib")).glob("torch-*.dist-info/METADATA")
    gone = {f"Requires-Dist: {line}" for line in needed if line not in kept}
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(line for line in lines if line not in gone), encoding="utf-8")


def asked_for(library: Path) -> tuple[set[str], dict[str, tuple[str, str]]]:
    """Return the CUDA libraries that a file needs, and each function's library and version."""
    out = subprocess.run(
        ["readelf", "-W", "-d", "-V", "--dyn-syms", library],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    needed = {name for name in re.findall(r"\(NEEDED\).*\[(.+?)\]", out) if CUDA.fullmatch(name)}
    files, current = {}, ""
    for file, version in re.findall(r"File: (\S+)|Name: (\S+) +Flags", out):
        current = file or current
        if version:
            files[version] = current
    functions = {}
    for name, version in re.findall(r" UND (\w+)(?:@(\S+))?", out):
        functions[name] = (files.get(version, ""), version)
    return needed, functions


def stand_ins(folder: Path) -> None:
    """Write a library for each that is asked for beside PyTorch's own."""
    needed: set[str] = set()
    functions: dict[str, dict[str, str]] = defaultdict(dict)
    for library in sorted(folder.glob("*.so*")):
        more, found = asked_for(library)
        needed |= more
        for name, (file, version) in found.items():
            if CUDA.fullmatch(file) or (not file and re.match(r"cu[a-zA-Z]|nccl|nv[a-z]", name)):
                functions[file][name] = version
    for name in sorted(needed):
        if not name.startswith(REAL):
            # A function without a version could be any library's; it is in each.
            compile_empty(folder / name, functions[""] | functions[name])


def compile_empty(library: Path, functions: dict[str, str]) -> None:
    """Compile a library of these functions, which all return 1."""
    versions: dict[str, list[str]] = defaultdict(list)
    for name, version in sorted(functions.items()):
        versions[version].append(name)
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder, "empty.c"), Path(folder, "versions")
        source.write_text("".join(f"int {name}(void) {{ return 1; }}\n" for name in functions))
        script.write_text("".join(
            f"{version} {{ global: {'; '.join(names)}; }};\n"
            for version, names in versions.items() if version
        ))  # fmt: skip
        options = [f"-Wl,--version-script={script}"] if script.stat().st_size else []
        subprocess.run(
            [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-fno-builtin", "-w", *options,
             f"-Wl,-soname,{library.name}", "-o", library, source],
            check=True,
        )  # fmt: skip


def main() -> None:
    """Install, and stand in."""
    if len(sys.argv) != 2 or not sys.argv[1].startswith("torch"):
        sys.exit(__doc__)
    install(sys.argv[1])
    stand_ins(Path(sysconfig.get_path("purelib"), "torch", "lib"))
    subprocess.run([sys.executable, "-c", "import torch; print(torch.__version__)"], check=True)


if __name__ == "__main__":
    main()
