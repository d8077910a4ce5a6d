"""The random state and torch's global settings, as they were, whatever happens in between."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

__all__ = ["Before", "seeded", "undisturbed"]


class Before:
    """Python's, NumPy's and torch's generators, on every device in use, and torch's settings."""

    def __init__(self) -> None:
        """Take it down."""
        self._python, self._numpy = random.getstate(), np.random.get_state()
        self._torch = torch.get_rng_state()
        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        self._cuda = torch.cuda.get_rng_state_all() if used else []
        self._settings = [get() for get, _ in SETTINGS]

    def settings(self) -> None:
        """Put torch's global settings back."""
        for (get, put), value in zip(SETTINGS, self._settings, strict=True):
            if get() != value:
                put(value)

    def restore(self) -> None:
        """Put all of it back."""
        self.settings()
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)


def seeded(seed: int) -> None:
    """Seed all generators.

    Args:
        seed: at least 0.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    # Not `torch.use_deterministic_algorithms`, which imports torch's compiler: seconds.
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
)


@contextmanager
def undisturbed() -> Iterator[Before]:
    """Put the random state and torch's global settings back at the end, also after an exception.

    Yields:
        What can be put back in between, too.

    Example:
        >>> _ = torch.manual_seed(0); first = torch.rand(1)
        >>> _ = torch.manual_seed(0)
        >>> with undisturbed():
        ...     _ = torch.rand(5)
        >>> bool(torch.rand(1) == first)
        True
    """
    before = Before()
    try:
        yield before
    finally:
        before.restore()
