"""What the runs of one trace share where the model's own graph connects their steps."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        backs: by segment, what the sum of the losses left there.
    """

    relay: Relay
    losses: Tensor
    total: Entries
    backs: dict[int, Back] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Send the sum of the losses back, once for all runs."""

        def visit(u: int, losses: Tensor, back: Back) -> None:
            self.backs[u] = back

        self.relay.send(self.total, visit, deltas=True)

    def of(self, r: int) -> list[Back | None]:
        """Return what the sum left in each part of run r, and last in the state it began from."""
        layout = self.relay.layout
        begin = next((u for u, run in layout.begins.items() if run == r), -1)
        return [self.backs.get(u) for u in (*layout.parts[r], begin)]
