"""The gradient's way through one layer, taken apart."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputTypeError, InputValueError
from ..kernels import losses
from ..kernels.choose import choose_back
from ..norms import size, vector_norm
from ..schedules import Schedule
from ..schedules.base import check_schedule
from ..tape import Tape
from . import jacobians
from .nonfinite import NonFinite, Terms, first_nonfinite
from .pairs import sweep_losses
from .profiles import LagProfiles
from .segments import Segment

__all__ = ["LayerFlow"]

# How many losses' adjoints are kept after they were asked for.
KEPT_LOSSES = 4


class LayerFlow(LagProfiles):
    """The gradient's way back through one layer in one direction (eq. 3 to 10).

    Steps are counted in the order in which the layer takes them: for a reverse direction step 1
    is the input's last.

    Attributes:
        name: the layer's name.
        cell: the recurrence, over the weights as they were.
        tape: the states and what else the forward sweep kept.
        reverse: whether the layer goes through the input from its end.
        through: the schedule that the layer is trained under; what is measured is exact under any.
        norms: ‖∂E_v/∂s_k‖₂ (V, T+1, B) at ``[v, k, b]``; exactly 0 after the last step at which
            anything of the loss enters; NaN where ``window=`` left it out.
        loss_index: (V,), which losses the rows of ``norms`` are.
        enters: (V, B), the step at which each loss stands: the last one that it reads, here or,
            where this layer feeds others step by step, there; else the last one at which anything
            of it enters. 0 where it does not reach the row. Below a bidirectional layer something
            enters after that step too.
        split: "loss", or "step" where a scalar was split by the step at which its gradient enters.
        cuts: the steps before which the state was detached, where it was.

    Example:
        >>> model = torch.nn.RNN(3, 5)
        >>> with tt.trace(model) as trace:
        ...     losses = model(torch.randn(7, 2, 3))[0].pow(2).mean((1, 2))
        >>> flow = trace.flow(losses)["l0"]
        >>> flow.norms.shape, flow.weight_grad("weight_hh", loss=6, step=2).shape
        (torch.Size([7, 8, 2]), torch.Size([5, 5]))
    """

    cuts: tuple[int, ...] = ()

    def __init__(
        self,
        run: Segment,
        norms: Tensor,
        loss_index: Tensor,
        enters: Tensor,
        g: Tensor,
        g_of: Callable[[int], Tensor],
        losses: int,
        split: str = "loss",
    ) -> None:
        """Take what the trace measured.

        Args:
            run: the layer's, as one segment.
            norms: (V, T+1, B).
            loss_index: (V,).
            enters: (V, B).
            g: all that enters the layer, summed over losses (T, B, G).
            g_of: the same for one loss.
            losses: how many losses there are.
            split: as the attribute.
        """
        self.name, self.cell, self.tape, self.reverse = (
            run.name,
            run.cell,
            run.tape,
            run.reverse,
        )
        self.through = run.through
        self.norms, self.loss_index, self.enters = norms, loss_index, enters
        self._g, self._g_of, self._losses, self.split = g, g_of, losses, split
        self._kept: OrderedDict[int | None, tuple[Tensor, Tensor]] = OrderedDict()

    @property
    def T(self) -> int:
        """How many steps there are."""
        return self.tape.T

    @property
    def B(self) -> int:
        """How many batch rows there are."""
        return self.tape.B

    @property
    def S(self) -> int:
        """How many entries the state has."""
        return self.cell.state_size

    @property
    def jacobian_steps(self) -> range:
        """The steps that have a Jacobian."""
        return range(1, self.T + 1)

    @property
    def cell_alone(self) -> bool:
        """Whether nothing but the cell connects the steps, so that eq. 6 speaks of them."""
        return True

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The weights that `weight_grad` knows."""
        return tuple(self.cell.weights())

    @cached_property
    def total_norms(self) -> Tensor:
        """‖dE/ds_k‖₂ of the summed loss, (T+1, B)."""
        return vector_norm(self.adjoint())

    @cached_property
    def entering_norms(self) -> Tensor:
        """‖g_t‖₂ of what the summed loss sends into step t, from above and directly, (T, B)."""
        return vector_norm(self._g)

    @cached_property
    def preact_norms(self) -> Tensor:
        """‖dE/da_t‖₂ of the summed loss, (T, B): what step t has to move the weights with (eq. 5).

        Where the cell has no a_t of its own it is ‖dE/ds_t‖₂.
        """
        if self.cell is None or not self.cell.has_preact:
            return self.total_norms[1:]
        return vector_norm(self._swept(None)[1][..., : self.cell.preact_size])

    def input_norms(self) -> Tensor:
        """Return ‖dE/dx_t‖₂ of the summed loss, (T, B)."""
        return vector_norm(self.terms.whole["x"])

    @property
    def loss_count(self) -> int:
        """How many losses there are, followed or not; a scalar split by step has one a step."""
        return self._losses

    @property
    def entering(self) -> Tensor:
        """g_t of the summed loss, all that enters step t from above and directly, (T, B, G)."""
        return self._g

    @property
    def preact_adjoints(self) -> Tensor:
        """The adjoints of the summed loss that the weights' gradients are made of, (T, B, A…)."""
        return self._swept(None)[1]

    @property
    def one_loss(self) -> bool:
        """Whether there is only one loss: a scalar, or a vector of one entry."""
        return self.split == "step" or self._losses == 1

    def adjoint(self, loss: int | None = None) -> Tensor:
        """Return dE_v/ds_k for all k, (T+1, B, S) (eq. 9); ``loss=None`` sums over the losses.

        Args:
            loss: the loss's index, from 0; None for the sum.

        Raises:
            InputValueError: there is no such loss.
            GraphError: the graph between the layers was freed before one loss was asked for.
        """
        return self._swept(loss)[0]

    def weight_grad(self, name: str, loss: int | None = None, step: int | None = None) -> Tensor:
        """Return one term of ∂E/∂W = Σ_t Σ_k … (eq. 5), in the shape of the weight.

        Args:
            name: ``"weight_hh"``, ``"weight_ih"``, ``"bias_hh"``, ``"bias_ih"``; for other cells
                one of `weight_names`.
            loss: the loss that the error arose at, from 0; None sums over all.
            step: the step k that it reached, 1 to T; None sums over all. With both None this is
                what ``backward()`` leaves in ``.grad``, as far as the loss depends on the weight by
                way of the layer: a penalty such as λ‖W‖² comes on top.

        Raises:
            InputValueError: no such weight, loss or step.

        Cost:
            one sweep a loss, kept for the next question about it; then one GEMM.
        """
        if name not in self.weight_names:
            raise InputValueError(
                f"{self.name} has no weight {name!r}; it has {', '.join(self.weight_names)}."
            )
        adjoint, tape = self._swept(loss)[1], self.tape
        if step is not None:
            self._check_step("step", step, 1)
            adjoint, tape = adjoint[step - 1 : step], tape.steps(step, step)
        return self.cell.param_grads(tape, adjoint)[name]

    def weight_norms(self, name: str) -> Tensor:
        """Return the Frobenius norm of each step's term of dE/dW, (T,) (eq. 5, summed over t)."""
        self.weight_grad(name)  # says so where there is no such weight
        return self._steps_of_weights[name][0].clone()

    def weight_share(self, name: str) -> Tensor:
        """Return each step's signed share ⟨G_k, G⟩/‖G‖² of dE/dW, (T,); the shares sum to 1."""
        self.weight_grad(name)
        return self._steps_of_weights[name][1].clone()

    @cached_property
    def _steps_of_weights(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Each weight's norms and shares by step: one pass over the steps for all of them."""
        adjoint = self._swept(None)[1]
        whole = {n: g.flatten().double() for n, g in self._grads(adjoint, self.tape).items()}
        scale = {n: vector_norm(g) for n, g in whole.items()}
        found: dict[str, tuple[list[Tensor], list[Tensor]]] = {n: ([], []) for n in whole}
        for k in range(1, self.T + 1):
            terms = self._grads(adjoint[k - 1 : k], self.tape.steps(k, k))
            for name, (norms, shares) in found.items():
                term = terms[name].flatten()
                norms.append(vector_norm(term))
                along = whole[name] / scale[name]
                shares.append((term.double() / scale[name]) @ along)
        return {n: (torch.stack(a), torch.stack(b)) for n, (a, b) in found.items()}

    def _grads(self, adjoint: Tensor, tape: Tape) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.cell.param_grads(tape, adjoint)

    def share_of(self, steps: Tensor) -> dict[str, float]:
        """Return the share of each dE/dW that some steps of rows give: ‖Σ G_k‖/‖dE/dW‖ (eq. 5).

        Args:
            steps: (T, B) bool.
        """
        some, rest = self._grads_of(steps), self._grads_of(~steps)
        return {n: size(g) / (size(g + rest[n]) or math.nan) for n, g in some.items()}

    def _grads_of(self, steps: Tensor) -> dict[str, Tensor]:
        """Return the gradients that some steps (T, B) of rows give, over no more steps than that.

        Two parts that make up the whole so cost little more than the whole.
        """
        adjoint = self._swept(None)[1]
        taken = steps.any(1).nonzero().flatten()
        if not len(taken):
            return {n: torch.zeros_like(w) for n, w in self.cell.weights().items()}
        first, last = int(taken[0]), int(taken[-1])
        own = steps[first : last + 1]
        part = adjoint[first : last + 1]
        if not bool(own.all()):
            part = part * own[..., None]
        return self._grads(part, self.tape.steps(first + 1, last + 1))

    def dropped(self, schedule: Schedule) -> dict[str, float]:
        """Return the share of each dE/dW that a schedule leaves out: ‖left out‖/‖dE/dW‖ (eq. 5).

        The left-out terms are those of `weight_grad` whose step lies beyond the reach of the step
        at which they enter the layer. 0 under a schedule that is exact; above 1 where terms cancel
        in the whole, NaN where that is 0. In a stack it is this layer's own share, given all that
        enters it from above.

        Args:
            schedule: `Truncated`, or one of the others.

        Raises:
            InputTypeError: it is no schedule.

        Cost:
            T·window/every steps back, and T more.
        """
        check_schedule(schedule)
        engine = choose_back(self.cell, self.tape, self._g)
        left = schedule.left_out(engine, self.cell, self.tape, self._g)
        if left is None:
            return dict.fromkeys(self.weight_names, 0.0)
        sizes = {name: float(vector_norm(grad.flatten())) for name, grad in left.items()}
        whole = {n: float(vector_norm(self.weight_grad(n).flatten())) for n in sizes}
        return {n: sizes[n] and sizes[n] / (whole[n] or math.nan) for n in sizes}

    def jacobian(self, step: int, *, rows: Sequence[int] | None = None) -> Tensor:
        """Return J_t = ∂s_t/∂s_{t−1}, (B, S, S) (eq. 4); of the rows named, where some are."""
        self._check_step("step", step, 1)
        return self.jacobian_product(step, step - 1, rows=rows)

    def jacobian_product(self, to: int, since: int, *, rows: Sequence[int] | None = None) -> Tensor:
        """Return ∂s_to/∂s_since = J_to ⋯ J_{since+1}, (B, S, S) (eq. 4).

        Args:
            to: the later step.
            since: the earlier one, from 0.
            rows: batch rows to which it is restricted, in this order; None: all.

        Raises:
            InputValueError: not 0 ≤ since ≤ to ≤ T, or no such row.
        """
        self._check_span(to, since)
        tape = self._of_rows(rows, self.tape.steps(since + 1, to))
        return jacobians.jacobian_product(self.cell, tape, to - since, 0)

    def singular_values(self, step: int) -> Tensor:
        """Return the singular values of J_t, largest first, (B, S)."""
        return jacobians.singular_values(self.jacobian(step))

    def bound(self, to: int, since: int, tight: bool = False) -> Tensor:
        """Return an upper bound of ‖∂s_to/∂s_since‖₂ for each row, (B,), float64 (eq. 7).

        Args:
            to: the later step.
            since: the earlier one, from 0.
            tight: Π_j ‖J_j‖₂ instead of (β_W β_f)^{t−k}; for any cell, at one SVD a step and row.

        Raises:
            InputValueError: not 0 ≤ since ≤ to ≤ T.
            UnsupportedError: not ``tight``, and the cell has no β.
        """
        self._check_span(to, since)
        if not tight:
            beta_W, beta_f = self.cell.gain()
            active = self.tape.active
            steps = torch.full((self.B,), to - since, device=self.norms.device)
            if active is not None:
                steps = active[since:to].sum(0)
            return torch.pow(
                torch.tensor(beta_W * beta_f, dtype=torch.float64, device=steps.device), steps
            )
        product = torch.ones(self.B, dtype=torch.float64, device=self.norms.device)
        for j in range(since + 1, to + 1):
            product = product * self.singular_values(j)[:, 0]
        return product

    def lyapunov(
        self, n: int | None = None, *, since: int = 0, rows: Sequence[int] | None = None
    ) -> Tensor:
        """Return the n largest Lyapunov exponents in nats a step, (B, n), largest first.

        Args:
            n: how many; all S where None.
            since: only the steps after this one count, for a start that is not typical.
            rows: batch rows to which it is restricted, in this order; None: all.

        Raises:
            InputValueError: not 1 ≤ n ≤ S, not 0 ≤ since < T, or no such row.

        Cost:
            T steps of n·B rows, each with a QR of (S, n).
        """
        n = self.S if n is None else n
        if not 1 <= n <= self.S or not 0 <= since < self.T:
            raise InputValueError(
                f"lyapunov needs 1 <= n <= S={self.S} and 0 <= since < T={self.T}; "
                f"got n={n}, since={since}."
            )
        return jacobians.lyapunov(self.cell, self._of_rows(rows, self.tape), n, since)

    def _of_rows(self, rows: Sequence[int] | None, tape: Tape) -> Tape:
        """Return a tape, or that of some of its rows."""
        if rows is None:
            return tape
        for row in rows:
            _check_integer("row", row)
            if not 0 <= row < self.B:
                raise InputValueError(f"row must lie in 0…{self.B - 1}; got {row}.")
        return tape.of_rows(rows)

    def follow(self, losses: Tensor) -> Tensor:
        """Return ‖∂E_v/∂s_k‖₂ of one loss a row, all the way to its beginning: (T+1, B).

        Args:
            losses: (B,), which loss v each row is followed for, from 0.

        Raises:
            GraphError: the graph between the layers was freed.

        Cost:
            one sweep; and one more through the layers above for each loss that is named.
        """
        g = self.tape.s.new_zeros(self.T, self.B, self.S)
        for loss in losses.unique().tolist():
            rows = losses == loss
            entering = self._g_of(loss)
            g[:, rows, : entering.shape[-1]] = entering[:, rows]
        floor = torch.zeros(1, dtype=torch.long, device=g.device)
        return sweep_losses(self.cell, self.tape, g[None], floor).norms[0]

    @cached_property
    def first_nonfinite(self) -> NonFinite | None:
        """Where the first inf or NaN stands, in the order of computation; None where all is finite.

        Looked at are the input, the weights, the states, the adjoints, and every term of the
        weights' gradients and of dE/dx: None means that this layer leaves nothing in ``.grad`` that
        is not finite.
        """
        tape = self.tape
        s = tape.s
        if tape.reset is not None:  # a state that is zeroed before it is used spoils nothing
            s = torch.cat((s[:1].masked_fill(tape.reset[0][None, :, None], 0), s[1:]))
        if self.cell is None:
            return first_nonfinite(s, self.adjoint(), x=tape.x)
        return first_nonfinite(
            s,
            self.adjoint(),
            x=tape.x,
            weights=self.cell.weights(),
            terms=lambda: self.terms,
        )

    @cached_property
    def terms(self) -> Terms:
        """The gradients that the summed loss leaves in the weights and the input."""
        return Terms(self.cell, self.tape, self._swept(None)[1])

    def __repr__(self) -> str:
        """Return one line."""
        return (
            f"LayerFlow({self.name}: {self.kind}, T={self.T}, B={self.B}, "
            f"S={self.S}, V={len(self.loss_index)}, horizon={self.horizon_text()})"
        )

    def _swept(self, loss: int | None) -> tuple[Tensor, Tensor]:
        """Return dE/ds (T+1, B, S) and the adjoints of a_t (T, B, A) of one loss or of the sum."""
        if loss is not None:
            self._check_loss(loss)
        if loss in self._kept:
            self._kept.move_to_end(loss)
            return self._kept[loss]
        g = self._g if loss is None else self._g_of(loss)
        found = losses(self.cell, self.tape, g[None], norms=False, deltas=True, adjoints=True)
        assert found.deltas is not None and found.adjoints is not None
        self._kept[loss] = found.deltas[0], found.adjoints[0]
        singles = [key for key in self._kept if key is not None]
        if len(singles) > KEPT_LOSSES:
            del self._kept[singles[0]]
        return self._kept[loss]

    def _check_loss(self, loss: int) -> None:
        _check_integer("loss", loss)
        if not 0 <= loss < self._losses:
            raise InputValueError(f"loss must lie in 0…{self._losses - 1}; got {loss}.")

    def _check_step(self, name: str, step: int, least: int) -> None:
        _check_integer(name, step)
        if not least <= step <= self.T:
            raise InputValueError(f"{name} must lie in {least}…T={self.T}; got {step}.")

    def _check_span(self, to: int, since: int) -> None:
        self._check_step("to", to, 0)
        self._check_step("since", since, 0)
        if since > to:
            raise InputValueError(f"since must not lie after to; got to={to}, since={since}.")


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputTypeError(f"{name} must be an integer; got {value!r}.")
