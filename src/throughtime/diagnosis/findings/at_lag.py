"""Whether the gradient reaches the lag that the user names."""

from __future__ import annotations

import torch

from ..evidence import Evidence
from ..finding import Finding
from ..look import Seen
from .coverage import coverage, remedy

__all__ = ["at_lag"]


def at_lag(seen: Seen, lag: int, fraction: float) -> Finding | None:
    """Compare what arrives ``lag`` steps back with what arrives one step back."""
    layer = seen.layer
    if layer.one_loss:
        share, how_many = _one_at_lag(seen, lag, fraction)
    else:
        share, how_many = _each_at_lag(seen, lag)
    if how_many == 0:
        return Finding(
            "vanishes",
            "note",
            seen.name,
            f"No loss of {seen.called} has {lag} measured steps behind it: these sequences, or the "
            "window, are too short to tell whether it reaches that far.",
            (Evidence("steps", float(layer.T), float(lag), "the longest row", "eq. 9", True),),
            "Examine it on sequences at least as long as the lag.",
        )
    if share >= fraction:
        return None
    return Finding(
        "vanishes",
        "warning",
        seen.name,
        f"In {seen.called} {share:.1g} of the gradient arrives {lag} steps back, the lag that the "
        f"task needs; less than {100 * fraction:g} % is too little.",
        (Evidence("share that arrives at the lag", share, fraction, f"lag {lag}", "eq. 9", True),),
        *remedy(seen, lag),
    )


def _one_at_lag(seen: Seen, lag: int, fraction: float) -> tuple[float, int]:
    layer = seen.layer
    cover = coverage(seen, fraction)
    step = torch.arange(1, layer.T + 1, device=seen.device)[:, None]
    last = (step * seen.enters).amax(0)
    rows = seen.reached & (last > lag)
    if not bool(rows.any()):
        return 0.0, 0
    at = cover.level.gather(0, (last - lag - 1).clamp(min=0)[None])[0]
    return float(at[rows].median()), int(rows.sum())


def _each_at_lag(seen: Seen, lag: int) -> tuple[float, int]:
    layer = seen.layer
    norms, enters = layer.norms, layer.enters
    begins = torch.cat((torch.zeros_like(seen.episode[:1]), seen.episode))
    k = (enters - lag).clamp(min=0)
    same = begins.gather(0, enters) == begins.gather(0, k)
    there = (enters > lag) & same
    stands = norms.gather(1, (enters - 1).clamp(min=0)[:, None])[:, 0]
    there &= stands > 0
    if not bool(there.any()):
        return 0.0, 0
    shares = (norms.gather(1, k[:, None])[:, 0] / stands)[there]
    shares = shares[~shares.isnan()]  # beyond a window nothing was measured
    return (float(shares.median()), len(shares)) if len(shares) else (0.0, 0)
