"""One comparison of tensors, relative to the norm of what should be there."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import CheckError

__all__ = ["assert_close"]


def assert_close(got: Tensor, want: Tensor, *, rtol: float = 1e-10, name: str = "value") -> None:
    """Raise unless ``got`` is ``want`` up to ``rtol`` of ``want``'s own norm.

    There is no absolute tolerance: it would let all zeros pass for a vanished gradient. Where
    ``want`` is exactly 0, ``got`` must be too; anything non-finite fails.

    Args:
        got: what was computed.
        want: what it should be.
        rtol: ‖got − want‖ / ‖want‖ that is let pass.
        name: what it is, for the message.

    Raises:
        CheckError: it is not; the message names the entry that is farthest off, and what the error
            looks like as a whole where it has a pattern.

    Example:
        >>> assert_close(torch.ones(2), torch.ones(2))
    """
    if got.shape != want.shape:
        raise CheckError(f"{name}: shape {tuple(got.shape)}, should be {tuple(want.shape)}.")
    got, want = got.detach().double(), want.detach().double()
    if not got.isfinite().all() or not want.isfinite().all():
        bad = (~got.isfinite() | ~want.isfinite()).nonzero()[0].tolist()
        raise CheckError(f"{name}: not finite at {bad}: got {got[tuple(bad)]:g}.")
    if want.numel() == 0:
        return
    scale = want.abs().max()
    error = (got - want).abs()
    if scale == 0:
        off = float(error.max())
    else:
        off = float((error / scale).norm() / (want / scale).norm())
    if off > (rtol if scale > 0 else 0):
        at = tuple(torch.unravel_index(error.argmax(), error.shape))
        where = [int(i) for i in at]
        raise CheckError(
            f"{name}: off by {off:.2e} of its norm (allowed {rtol:.0e}), most at entry {where}: "
            f"got {float(got[at]):.6g}, should be {float(want[at]):.6g}.{_pattern(got, want)}"
        )


def _pattern(got: Tensor, want: Tensor, rtol: float = 1e-6) -> str:
    """Describe a wrong tensor: a factor, another order, or only some entries wrong."""

    def same(a: Tensor, b: Tensor) -> bool:
        return bool((a - b).norm() <= rtol * b.norm())

    if not want.any():
        return ""
    got, want = got / want.abs().max(), want / want.abs().max()
    if not got.any():
        return " Every entry is 0."
    factor = float((got * want).sum() / (want * want).sum())
    if same(got, factor * want):
        return f" Everywhere it is {factor:.4g} times what it should be."
    if want.dim() > 1 and want.shape[-1] == want.shape[-2] and same(got.mT, want):
        return " It is the transpose of what it should be."
    if want.numel() > 1 and same(got.flatten().sort()[0], want.flatten().sort()[0]):
        return " The numbers are right and stand at other places: is the order that of the gates?"
    wrong = (got - want).abs() > rtol
    places = []
    for axis, size in enumerate(want.shape):
        others = [other for other in range(want.dim()) if other != axis]
        hit = (wrong.any(others) if others else wrong).nonzero().flatten().tolist()
        if hit and len(hit) < size and hit[-1] - hit[0] + 1 == len(hit):
            places.append(f"{hit[0]} to {hit[-1]} of axis {axis} (0 to {size - 1})")
    return f" All that is wrong lies in {' and '.join(places)}." if places else ""
