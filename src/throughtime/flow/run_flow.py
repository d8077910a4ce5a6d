"""The flow of a run that only the model's own graph connects: a decoder, a mark, an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from ..errors import InputValueError, UnsupportedError
from ..node.recording import Call
from ..norms import vector_norm
from ..schedules import Schedule
from ..schedules.base import check_schedule
from . import jacobians
from .direct import Direct, graph_grads
from .layer_flow import LayerFlow
from .nonfinite import NonFinite, first_nonfinite
from .relay import Entries, Relay
from .segments import Back, Segment
from .steps import GraphSegment

__all__ = ["RunFlow", "Source"]

# How many bytes one question about weights may take at a time.
MEMORY = 256 * 2**20


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


class RunFlow(LayerFlow):
    """A `LayerFlow` over steps that the user's own code connects.

    What a step is told of, and by what, is the model's graph: between two states may lie whatever
    somebody wrote, a readout that is fed back among it. ∂s_t/∂s_k is taken along all of it.

    Attributes:
        cuts: the steps before which the state was detached.
        kind: what the steps are: a module's class, or "mark".
    """

    def __init__(
        self,
        source: Source,
        r: int,
        norms: Tensor,
        loss_index: Tensor,
        enters: Tensor,
        g: Tensor,
        entries: Entries,
        split: str,
    ) -> None:
        """Take what was measured.

        Args:
            source: what all runs share.
            r: the run's number.
            norms: (V, T+1, B).
            loss_index: (V,).
            enters: (V, B).
            g: all that enters the run, summed over losses (T, B, G).
            entries: where each loss enters.
            split: "loss" or "step".
        """
        layout = source.relay.layout
        whole = layout.wholes[r]
        super().__init__(whole, norms, loss_index, enters, g, self._of_loss, entries.V, split)
        self.source, self._r, self._entries = source, r, entries
        self._parts = [layout.segments[u] for u in layout.parts[r]]
        self._numbers = layout.parts[r]
        run, first = layout.runs[r], 1
        cuts = []
        for number, cut in zip(run.numbers, run.cut, strict=True):
            call = source.relay.recording.calls[number]
            if cut:
                cuts.append(first)
            first += call.tape.T if isinstance(call, Call) else 1
        self.cuts = tuple(cuts)
        if not self._knows_beginning():
            # The state before the first step is not known, so no step leads to the first one.
            seen = torch.ones(self.T, self.B, dtype=torch.bool, device=norms.device)
            seen[0] = False
            self.tape = replace(self.tape, active=seen)
        self._module = next(
            (p.step.module for p in self._parts if isinstance(p, GraphSegment)), None
        )

    @property
    def kind(self) -> str:
        """What the steps are."""
        if self._module is not None:
            return type(self._module).__name__
        return "mark" if self.cell is None else type(self.cell).__name__

    @property
    def jacobian_steps(self) -> range:
        """The steps that have a Jacobian: not the first where no state is known before it."""
        return range(1 if self._knows_beginning() else 2, self.T + 1)

    @property
    def cell_alone(self) -> bool:
        """False: the model's own code lies between the steps."""
        return False

    @cached_property
    def _profile(self) -> Tensor:
        profile = super()._profile
        return profile if self._knows_beginning() else profile[:-1]

    @cached_property
    def first_nonfinite(self) -> NonFinite | None:
        """Where the first inf or NaN stands, forward or backward; None where all is finite."""
        delta, s = self.adjoint(), self.tape.s
        if not self._knows_beginning():
            delta, s = (torch.cat((torch.zeros_like(v[:1]), v[1:])) for v in (delta, s))
        weights = None if self.cell is None else self.cell.weights()
        return first_nonfinite(s, delta, x=self.tape.x, weights=weights)

    @cached_property
    def preact_norms(self) -> Tensor:
        """‖dE/da_t‖₂ of the summed loss, (T, B); ‖dE/ds_t‖₂ where the steps' cell is not known."""
        if self.cell is None or not self.cell.has_preact:
            return self.total_norms[1:]
        A = self.cell.preact_size
        norms = torch.zeros_like(self.total_norms[1:])
        for steps, _, adjoints in self._adjoints():
            norms[steps] = vector_norm(adjoints[..., :A])
        return norms

    def input_norms(self) -> Tensor:
        """Return ‖dE/dx_t‖₂ of the summed loss, (T, B)."""
        norms = torch.zeros_like(self.total_norms[1:])
        for steps, part, adjoints in self._adjoints():
            norms[steps] = vector_norm(part.cell.input_grad(adjoints))
        return norms

    def share_of(self, steps: Tensor) -> dict[str, float]:
        """Return the share of each dE/dW that some steps of rows give; {} where that is not known.

        Args:
            steps: (T, B) bool.
        """
        some: dict[str, Tensor] = {}
        for where, part, adjoints in self._adjoints():
            with torch.no_grad():
                terms = part.cell.param_grads(part.tape, adjoints * steps[where][..., None])
            some = {n: g + some[n] if n in some else g for n, g in terms.items()}
        whole = {n: vector_norm(self.weight_grad(n).flatten()) for n in some}
        return {n: float(vector_norm(g.flatten()) / whole[n]) for n, g in some.items()}

    def _adjoints(self) -> Iterator[tuple[slice, Segment, Tensor]]:
        """Yield, for each part of a known cell, its steps, itself and the adjoints of a_t there."""
        first = 0
        for part, back in zip(self._parts, self._backs(None), strict=False):
            steps = slice(first, first + part.tape.T)
            first = steps.stop
            if part.cell is not None and back is not None and back.adjoints is not None:
                yield steps, part, back.adjoints[0]

    @property
    def S(self) -> int:
        """How many entries the state has."""
        return self.tape.s.shape[-1]

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The weights that `weight_grad` knows; those of a step's module by dotted name."""
        if self.cell is not None:
            return tuple(self.cell.weights())
        first = self._parts[0]
        return tuple(first.step.weights) if isinstance(first, GraphSegment) else ()

    def weight_grad(self, name: str, loss: int | None = None, step: int | None = None) -> Tensor:
        """Return one term of ∂E/∂W (eq. 5), as `LayerFlow.weight_grad`.

        Of a step module the terms come from autograd: each step saw an alias of the parameters.

        Args:
            name: one of `weight_names`.
            loss: the loss that the error arose at, from 0; None sums over all.
            step: the step k that it reached, 1 to T; None sums over all.

        Raises:
            InputValueError: no such weight, loss or step.
            GraphError: the graph was freed.
        """
        if name not in self.weight_names:
            known = ", ".join(self.weight_names) or "none: a mark knows no module"
            raise InputValueError(f"{self.name} has no weight {name!r}; it has {known}.")
        if step is not None:
            self._check_step("step", step, 1)
        if self.cell is None:
            return self._graph_grad(name, loss, step)
        total: Tensor | None = None
        first = 0
        for part, back in zip(self._parts, self._backs(loss), strict=False):
            T, own = part.tape.T, None if step is None else step - first
            first += T
            if back is None or back.adjoints is None or (own is not None and not 1 <= own <= T):
                continue
            adjoints, tape = back.adjoints[0], part.tape
            if own is not None:
                adjoints, tape = adjoints[own - 1 : own], tape.steps(own, own)
            assert part.cell is not None
            with torch.no_grad():
                term = part.cell.param_grads(tape, adjoints)[name]
            total = term if total is None else total + term
        return torch.zeros_like(self.cell.weights()[name]) if total is None else total

    def _graph_grad(self, name: str, loss: int | None, step: int | None) -> Tensor:
        steps = [p.step for p in self._parts if isinstance(p, GraphSegment)]
        chosen = steps if step is None else [steps[step - 1]]
        outputs, seeds = self._seeds(loss)
        like = chosen[0].weights[name]
        total = torch.zeros_like(like, requires_grad=False)
        at_once = max(1, MEMORY // max(1, like.numel() * like.element_size()))
        recording = self.source.relay.recording
        for first in range(0, len(chosen), at_once):
            edges = [get_gradient_edge(s.weights[name]) for s in chosen[first : first + at_once]]
            if outputs:
                for g in graph_grads(recording, outputs, edges, seeds, cut=False):
                    total = total if g is None else total + g
        return total

    def _seeds(self, loss: int | None) -> tuple[list[Tensor], list[Tensor]]:
        """Return what one loss, or their sum, is sent back from, and with what."""
        losses = self.source.losses
        if loss is None:
            return [losses], [torch.ones_like(losses)]
        self._check_loss(loss)
        if self.split == "loss":
            seed = torch.zeros_like(losses)
            seed[loss] = 1
            return [losses], [seed]
        part = self._parts[loss]
        assert isinstance(part, GraphSegment)
        pairs = zip(part.step.raw, part._shares(self._g[loss : loss + 1]), strict=True)
        both = [(raw, seed) for raw, seed in pairs if raw.requires_grad]
        return [raw for raw, _ in both], [seed for _, seed in both]

    @cached_property
    def _steps_of_weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name in self.weight_names:
            whole = self.weight_grad(name).flatten().double()
            scale = vector_norm(whole)
            terms = [self.weight_grad(name, step=k).flatten() for k in range(1, self.T + 1)]
            shares = [(term.double() / scale) @ (whole / scale) for term in terms]
            found[name] = torch.stack([vector_norm(t) for t in terms]), torch.stack(shares)
        return found

    def dropped(self, schedule: Schedule) -> dict[str, float]:
        """Return 0 for an exact schedule.

        Raises:
            InputTypeError: it is no schedule.
            UnsupportedError: it cuts, and these steps are the user's own loop, which no schedule
                cuts.
        """
        check_schedule(schedule)
        if schedule.exact:
            return dict.fromkeys(self.weight_names, 0.0)
        raise UnsupportedError(
            f"{self.name} is a loop of the model's own, which a schedule does not cut; compare "
            "weight_grad(name, loss, step) over the steps instead."
        )

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

    def follow(self, losses: Tensor) -> Tensor:
        """Return ‖∂E_v/∂s_k‖₂ of one loss a row, all the way to its beginning: (T+1, B).

        Args:
            losses: (B,), which loss v each row is followed for, from 0.

        Raises:
            GraphError: the graph was freed.
        """
        norms = self.norms.new_zeros(self.T + 1, self.B)
        for loss in losses.unique().tolist():
            rows = losses == loss
            norms[:, rows] = vector_norm(self.adjoint(loss))[:, rows]
        return norms

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

    def _knows_beginning(self) -> bool:
        layout = self.source.relay.layout
        return self._parts[0].cell is not None or self._r in layout.begins.values()

    def _place(self, k: int) -> tuple[int, int]:
        """Return the number of the part that holds s_k as a state after a step, and which."""
        first = 0
        for number, part in enumerate(self._parts):
            if k <= first + part.tape.T:
                return number, k - first
            first += part.tape.T
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

    def _of_loss(self, loss: int) -> Tensor:
        """Return what enters the run from one loss alone, (T, B, S)."""
        g = torch.zeros_like(self.tape.s[1:])
        first = 0
        which = torch.tensor([loss], device=g.device)
        for u, part in zip(self._numbers, self._parts, strict=True):
            own = self._entries.at(u, which)
            if own is not None:
                g[first : first + part.tape.T, :, : own.shape[-1]] = own[0]
            first += part.tape.T
        return g

    def _check_loss(self, loss: int) -> None:
        if not 0 <= loss < self._losses:
            raise InputValueError(f"loss must lie in 0…{self._losses - 1}; got {loss}.")

    def _backs(self, loss: int | None) -> list[Back | None]:
        """Return what one loss, or their sum, left in each part, and last in the beginning."""
        if loss is None:
            return [*self.source.summed[self._r], self.source.begun.get(self._r)]
        self._check_loss(loss)
        found: list[Back | None] = [None] * (len(self._parts) + 1)

        def visit(u: int, losses: Tensor, back: Back) -> None:
            if u in self._numbers:
                found[self._numbers.index(u)] = back
            elif self.source.relay.layout.begins.get(u) == self._r:
                found[-1] = back

        which = torch.tensor([loss])
        with torch.no_grad():
            self.source.relay.send(self._entries, visit, which=which, deltas=True)
        return found

    def _swept(self, loss: int | None) -> tuple[Tensor, Tensor]:
        """Return dE/ds (T+1, B, S) of one loss or of the sum; the second is what is known of a."""
        if loss is not None:
            self._check_loss(loss)
        delta = self.tape.s.new_zeros(self.T + 1, self.B, self.S)
        if not self._knows_beginning():
            delta[0] = torch.nan
        first, backs = 0, self._backs(loss)
        begun = backs.pop()
        for part, back in zip(self._parts, backs, strict=True):
            if back is not None and back.deltas is not None:
                delta[first + 1 : first + 1 + part.tape.T] = back.deltas[0, 1:]
                if first == 0:
                    delta[0] = back.deltas[0, 0]
            first += part.tape.T
        if self._r in self.source.relay.layout.begins.values():
            known = begun is not None and begun.deltas is not None
            delta[0] = begun.deltas[0, 1] if known else 0  # pyright: ignore
        return delta, delta


class AxisFlow(RunFlow):
    """A `LayerFlow` of a marked axis: what each position gets, with no state between positions."""

    @property
    def kind(self) -> str:
        """What the steps are."""
        return "axis"

    @property
    def jacobian_steps(self) -> range:
        """None: no state connects the steps."""
        return range(0)

    def jacobian_product(self, to: int, since: int, *, rows: Sequence[int] | None = None) -> Tensor:
        """Raise: a position is no state that the next one comes from.

        Args:
            to: the later step.
            since: the earlier one.
            rows: batch rows.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            f"{self.name} marks positions of one tensor, not a state that one step hands to the "
            "next, so there is no Jacobian; norms, adjoint and lag_profile are what it has."
        )

    def lyapunov(
        self, n: int | None = None, *, since: int = 0, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Raise: without a state there are no exponents.

        Args:
            n: how many.
            since: the step before the first.
            rows: batch rows.

        Raises:
            UnsupportedError: always.
        """
        return self.jacobian_product(1, 0)
