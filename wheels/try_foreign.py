"""Install the wheel for aarch64 on a machine that is not one, as a user there would, and use it.

``python wheels/try_foreign.py dist``: Debian's Python for that machine and the libraries it needs
are unpacked into a folder, where qemu-user runs them. pip there installs PyTorch and the wheel, and
a training step runs, as ``try_installed.py`` has it. All this emulates, and takes minutes. Where
there is no qemu-user, or no apt-get to fetch that Python by, it says so, and nothing is tried.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from try_installed import pip, step

MACHINE, DEBIAN = "aarch64", "arm64"
PACKAGES = ("python3", "libstdc++6")
# The last whose build for aarch64 on the index does not need gigabytes of CUDA's libraries.
TORCH = "torch==2.10.0"


class MissingError(Exception):
    """What is missing on this machine to try the wheel."""


def main() -> None:
    """Try it, or say what is missing."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    wheels = sorted(Path(sys.argv[1]).resolve().glob(f"*{MACHINE}.whl"))
    if len(wheels) != 1:
        sys.exit(f"there should be one wheel for {MACHINE} in {sys.argv[1]}; run make wheels.")
    with tempfile.TemporaryDirectory() as name:
        try:
            emulator = emulated()
            root = unpacked(Path(name, "root"))
        except MissingError as missing:
            print(f"{wheels[0].name}: not installed on {MACHINE}: {missing}")
            return
        folder = environment(Path(name, "environment"), emulator, root)
        pip(folder, "install", "--no-compile", TORCH, wheels[0])
        # Its kernels have no wider instruction set there than what every such machine has.
        did = step(folder, isa="portable")
        print(f"{wheels[0].name}, in qemu-{MACHINE} with {TORCH}: {did}")


def emulated() -> str:
    """Return the emulator, where there is one to be had and a need for it."""
    if platform.machine() == MACHINE:
        raise MissingError("this machine is one, and try_installed.py has tried the wheel")
    emulator = shutil.which(f"qemu-{MACHINE}")
    if emulator is None:
        raise MissingError(f"there is no qemu-{MACHINE} (Debian: qemu-user)")
    if shutil.which("apt-get") is None:
        raise MissingError("there is no apt-get, which fetches its Python")
    return emulator


def unpacked(root: Path) -> Path:
    """Fetch Python for that machine with all it depends on, and unpack them into a folder."""
    state = root.with_name("apt")
    for part in ("lists/partial", "archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    # Of this machine's apt only the sources and their keys: what it has installed stays as it is.
    settings = {
        "Dir::State": state, "Dir::State::status": state / "status", "Dir::Cache": state,
        "APT::Architecture": DEBIAN, "APT::Architectures": DEBIAN, "APT::Sandbox::User": "",
    }  # fmt: skip
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in settings.items())]
    fetched(*apt, "update")
    fetched(*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES)
    root.mkdir()
    for package in sorted((state / "archives").glob("*.deb")):
        fetched("dpkg-deb", "--extract", package, root)
    # Newer releases have nothing in /lib; the loader is looked for there all the same.
    if not (root / "lib").exists():
        (root / "lib").symlink_to("usr/lib")
    return root


def fetched(*command: str | Path) -> None:
    """Run a program without which there is no Python for that machine."""
    done = subprocess.run(
        [*command], env=os.environ | {"LC_ALL": "C"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise MissingError(f"its Python cannot be had: {done.stdout.strip() or done.returncode}")


def environment(folder: Path, emulator: str, root: Path) -> Path:
    """Return an environment like those of venv, with pip, whose Python is that machine's."""
    (folder / "bin").mkdir(parents=True)
    python, real = folder / "bin" / "python", (root / "usr/bin/python3").resolve()
    # Python takes what it is called by for its path, and finds the environment around that.
    python.write_text(f'#!/bin/sh\nexec {emulator} -L {root} -0 {python} {real} "$@"\n')
    python.chmod(0o755)
    (folder / "pyvenv.cfg").write_text(
        f"home = {real.parent}\ninclude-system-site-packages = false\n"
    )
    packages = folder / "lib" / real.name / "site-packages"
    # pip is the same for every machine; what it installs is not.
    command = [sys.executable, "-m", "pip", "-qq", "--disable-pip-version-check"]
    subprocess.run([*command, "install", "--target", packages, "pip"], check=True)
    return folder


if __name__ == "__main__":
    main()
