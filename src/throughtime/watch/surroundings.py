"""What lies around a model in a training: wrappers, other processes, random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["generators", "is_main", "processes", "unwrapped"]

# What holds the model that it runs as ``module``.
WRAPPERS = ("DistributedDataParallel", "DataParallel", "FullyShardedDataParallel")


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside what distributes or compiles it, so that names are its own.

    Args:
        model: as the training calls it.
    """
    while True:
        inside = model._modules.get("_orig_mod")  # torch.compile's
        if inside is None and type(model).__name__ in WRAPPERS:
            inside = model._modules.get("module")
        if inside is None:
            return model
        model = inside


def is_main() -> bool:
    """Check whether this is the process that writes: the first one, or the only one."""
    return not _together() or torch.distributed.get_rank() == 0


def processes() -> int:
    """Return how many processes train together."""
    return torch.distributed.get_world_size() if _together() else 1


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


@contextmanager
def generators() -> Iterator[None]:
    """Leave torch's random state as it was, within a block."""
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    with torch.random.fork_rng([torch.cuda.current_device()] if used else []):
        yield
