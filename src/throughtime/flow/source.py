"""What the runs of one trace share where the model's own graph connects their steps."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .relay import Entries, Relay
from .segments import Back

__all__ = ["Source"]


@dataclass
class Source:
    """What the runs of one trace share.

    Attributes:
        relay: the segments and the graph between them.
        losses: (V,) or a scalar.
        total: where the sum of the losses enters.
        entries: where each loss enters; None where a scalar was split.
    """

    relay: Relay
    losses: Tensor
    total: Entries
    entries: Entries | None

    def __post_init__(self) -> None:
        """Send the sum of the losses back, once for all runs."""
        layout = self.relay.layout
        self.summed: list[list[Back | None]] = [[None] * len(part) for part in layout.parts]

        self.begun: dict[int, Back] = {}

        def visit(u: int, losses: Tensor, back: Back) -> None:
            r = self.total.place[u][0]
            if u in layout.begins:
                self.begun[layout.begins[u]] = back
            else:
                self.summed[r][layout.parts[r].index(u)] = back

        self.relay.send(self.total, visit, deltas=True)
