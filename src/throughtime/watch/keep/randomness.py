"""The state of the random generators: taken down at every step, written as tensors, put back."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Randomness"]


class Randomness(NamedTuple):
    """What torch, CUDA, NumPy and Python draw from, as it was at one moment.

    A generator of the user's own is not in it.

    Attributes:
        torch: of the CPU.
        cuda: of each device, where CUDA is in use.
        numpy: as `numpy.random.get_state` returns it; None where it was not asked for.
        python: as `random.getstate` returns it; None where it was not asked for.
    """

    torch: Tensor
    cuda: tuple[Tensor, ...]
    numpy: Any
    python: Any

    @classmethod
    def now(cls, *, all_of_it: bool = True) -> Randomness:
        """Take it down.

        Args:
            all_of_it: whether NumPy's and Python's are taken too, which cost 20 µs each.

        Example:
            >>> before = Randomness.now()
            >>> first = torch.rand(1)
            >>> Randomness.from_tensors(before.to_tensors()).restore()
            >>> bool(torch.rand(1) == first)
            True
        """
        used = torch.cuda.is_available() and torch.cuda.is_initialized()
        cuda = tuple(torch.cuda.get_rng_state_all()) if used else ()
        if not all_of_it:
            return cls(torch.get_rng_state(), cuda, None, None)
        return cls(torch.get_rng_state(), cuda, np.random.get_state(), random.getstate())

    def also_moved(self) -> bool:
        """Check whether NumPy or Python drew since this was taken down."""
        if self.python is None:
            return False
        own, now = self.numpy, np.random.get_state()
        same = all(np.array_equal(a, b) for a, b in zip(own, now, strict=True))
        return not same or self.python != random.getstate()

    def restore(self) -> None:
        """Draw again from where this was taken down; devices that are not here are left out."""
        torch.set_rng_state(self.torch)
        if self.cuda and torch.cuda.is_available():
            for device, state in enumerate(self.cuda[: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, device)
        if self.python is not None:
            np.random.set_state(self.numpy)
            random.setstate(self.python)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return it as tensors by name, ready for a file."""
        cuda = {f"cuda.{device}": state for device, state in enumerate(self.cuda)}
        if self.python is None:
            return {"torch": self.torch, **cuda}
        _, keys, place, has_gauss, gauss = self.numpy
        version, words, next_gauss = self.python
        none = float("nan")
        return {
            "torch": self.torch,
            **cuda,
            "numpy.keys": torch.from_numpy(keys.astype(np.int64)),
            "numpy.place": torch.tensor([place, has_gauss]),
            "numpy.gauss": torch.tensor([gauss], dtype=torch.float64),
            "python.words": torch.tensor([version, *words], dtype=torch.int64),
            "python.gauss": torch.tensor(
                [none if next_gauss is None else next_gauss], dtype=torch.float64
            ),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Randomness:
        """Return the state that `to_tensors` made these of.

        Args:
            tensors: by name.
        """
        count = sum(name.startswith("cuda.") for name in tensors)
        cuda = tuple(tensors[f"cuda.{device}"] for device in range(count))
        if "python.words" not in tensors:
            return cls(tensors["torch"], cuda, None, None)
        place, has_gauss = tensors["numpy.place"].tolist()
        keys = tensors["numpy.keys"].numpy().astype(np.uint32)
        version, *words = tensors["python.words"].tolist()
        gauss = float(tensors["python.gauss"])
        return cls(
            tensors["torch"],
            cuda,
            ("MT19937", keys, place, has_gauss, float(tensors["numpy.gauss"])),
            (version, tuple(words), None if gauss != gauss else gauss),
        )
