"""Launch Triton kernels at a driver that only writes down what it is asked; no GPU is needed.

Prints each launch as JSON. Run: python launched_for_sm90.py LSTM 1024 12 33 [refuses], for a cell,
H, T and B; a driver that refuses cannot run so many programs at the same time.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from throughtime import cells
from throughtime.kernels.gpu import bare, launch, tiling

# What the driver's own C file makes of CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE.
REFUSED = "Triton Error [CUDA]: too many blocks in cooperative launch"


class Launcher:
    """What Triton calls for each launch of a compiled kernel."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.told = metadata

    def __call__(self, *given: Any) -> None:
        told = {name: getattr(self.told, name) for name in ("name", "num_warps", "shared")}
        together = self.told.launch_cooperative_grid
        print(json.dumps(told | {"grid": given[:3], "together": together}))
        if together and "refuses" in sys.argv:
            raise RuntimeError(REFUSED)


class Driver:
    """A driver of an H200, as far as Triton asks one."""

    launcher_cls = Launcher

    @property
    def utils(self) -> Driver:
        return self

    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 1, 255, 0, 256  # registers, spilt ones, and most threads of a program

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": tiling.MULTIPROCESSOR}

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0


def sweep(name: str, H: int, T: int, B: int) -> None:
    """Take a sweep forward and back."""
    cell = getattr(cells, name)(3, H, dtype=torch.bfloat16)
    x = torch.zeros(T, B, 3, dtype=torch.bfloat16)
    tape = launch.forward(cell, x, x.new_zeros(B, cell.state_size))
    launch.backward(cell, tape, x.new_zeros(1, T, B, cell.state_size))


if __name__ == "__main__":
    driver.set_active(Driver())  # pyright: ignore[reportArgumentType]
    tiling.processors = lambda device: tiling.PROCESSORS
    sweep(sys.argv[1], *map(int, sys.argv[2:5]))
    assert bare.too_large() == ("refuses" in sys.argv)
