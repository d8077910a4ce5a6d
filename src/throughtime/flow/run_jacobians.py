"""Jacobians, their products and exponents along whatever the model's own graph holds."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputValueError, UnsupportedError
from . import jacobians
from .direct import Direct
from .relay import Entries
from .run_steps import RunSteps
from .segments import Back

__all__ = ["RunJacobians"]


class RunJacobians(RunSteps):
    """The part of `RunFlow` that sends vectors from one state back to another."""

    def jacobian_product(self, to: int, since: int, *, rows: Sequence[int] | None = None) -> Tensor:
        """Return ∂s_to/∂s_since, (B, S, S) (eq. 4), along all that the model's graph holds between.

        Args:
            to: the later step.
            since: the earlier one, from 0.
            rows: batch rows to which it is restricted, in this order; None: all.

        Raises:
            InputValueError: not 0 ≤ since ≤ to ≤ T, or no such row.
            UnsupportedError: rows depend on each other; the state at ``since`` is not known; an
                axis has no state.
            GraphError: the graph was freed.
        """
        self._check_span(to, since)
        identity = torch.eye(self.S, dtype=self.norms.dtype, device=self.norms.device)
        if to == since:
            product = identity.expand(self.B, self.S, self.S).clone()
        else:
            self._need_rows_apart(to, since)
            basis = identity[:, None, :].expand(self.S, self.B, self.S)
            product = self._back(basis, to, since).transpose(0, 1).contiguous()
        self._of_rows(rows, self.tape)
        return product if rows is None else product[list(rows)]

    def lyapunov(
        self, n: int | None = None, *, since: int = 0, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Return the n largest Lyapunov exponents in nats a step, (B, n), largest first.

        Args:
            n: how many; all S where None.
            since: only the steps after this one count; 1 at least where s_0 is not known.
            rows: batch rows to which it is restricted, in this order; None: all.

        Raises:
            InputValueError: not 1 ≤ n ≤ S, not 0 ≤ since < T, or no such row.
            UnsupportedError: as `jacobian_product`.

        Cost:
            T steps of n·B rows, each with a QR of (S, n).
        """
        n = self.S if n is None else n
        since = max(since, self.jacobian_steps.start - 1)
        if not 1 <= n <= self.S or not 0 <= since < self.T:
            raise InputValueError(
                f"lyapunov needs 1 <= n <= S={self.S} and 0 <= since < T={self.T}; "
                f"got n={n}, since={since}."
            )
        self._of_rows(rows, self.tape)
        self._need_rows_apart(since + 1, since)
        taken = jacobians.steps_taken(self.tape)
        found = jacobians.exponents(
            self.tape.s, n, self.T, since, taken, lambda t, q: self._back(q, t, t - 1)
        )
        return found if rows is None else found[list(rows)]

    def bound(self, to: int, since: int, tight: bool = False) -> Tensor:
        """Return Π_j ‖J_j‖₂ for each row, (B,), float64 (eq. 7).

        Args:
            to: the later step.
            since: the earlier one, from 0.
            tight: must be True: no constant bounds what the model's own code does between steps.

        Raises:
            InputValueError: not 0 ≤ since ≤ to ≤ T.
            UnsupportedError: not ``tight``; else as `jacobian_product`.
        """
        self._check_span(to, since)
        if not tight:
            raise UnsupportedError(
                f"{self.name} is a loop of the model's own, for which (β_W·β_f)^(t−k) bounds "
                "nothing; use bound(to, since, tight=True), the product of the Jacobians' norms."
            )
        return super().bound(to, since, tight=True)

    def _back(self, q: Tensor, to: int, since: int) -> Tensor:
        """Send n vectors (n, B, S) at s_to back to s_since."""
        layout = self.source.relay.layout
        begin = next((u for u, r in layout.begins.items() if r == self._r), None)
        target, at = self._place(since) if since else (0, 0)
        last, at = (self._numbers[target], at) if since or begin is None else (begin, 1)
        if since == 0 and not self._knows_beginning():
            raise UnsupportedError(
                f"{self.name} has no state before step 1: only states that come after a step are "
                "marked. Ask from step 1 on."
            )
        parts: list[Direct | Tensor | None] = [None] * (len(layout.runs) + len(layout.begins))
        laid = q.new_zeros(len(q), self.T, self.B, self.S)
        laid[:, to - 1] = q
        parts[self._r] = laid
        entries = Entries(layout, parts, len(q))
        found: list[Tensor] = []

        def visit(u: int, losses: Tensor, back: Back) -> None:
            if u == last and back.deltas is not None:
                delta = torch.zeros_like(q)
                delta[losses] = back.deltas[:, at]
                found.append(delta)

        self.source.relay.send(entries, visit, until=last, deltas=True)
        return found[0] if found else torch.zeros_like(q)

    def _place(self, k: int) -> tuple[int, int]:
        """Return the number of the part that holds s_k as a state after a step, and which."""
        for number, steps in enumerate(self._steps):
            if k <= steps.stop:
                return number, k - steps.start
        raise IndexError(k)

    def _need_rows_apart(self, to: int, since: int) -> None:
        """Raise unless each row's vector goes back by itself: a factor a row must come out."""
        draw = torch.Generator().manual_seed(0)
        like = self.norms
        q = torch.randn(1, self.B, self.S, generator=draw, dtype=torch.float64, device="cpu")
        factor = torch.randn(1, self.B, 1, generator=draw, dtype=torch.float64, device="cpu")
        q, factor = q.to(like), factor.to(like)
        plain, scaled = self._back(q, to, since), self._back(factor * q, to, since)
        if not jacobians.alike(scaled, factor * plain):
            raise UnsupportedError(
                f"{self.name} {jacobians.NO_JACOBIAN}, since rows of the batch depend on each "
                "other between these steps; ask for batches of one row."
            )
