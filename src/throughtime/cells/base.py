"""What a cell is: one recurrence, its step and its adjoint; it knows no time and no loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedError
from ..shapes import check_sizes
from .factors import Factors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..tape import Tape

__all__ = ["AbstractCell", "GatedWeights", "rebind", "set_plain"]

M = TypeVar("M", bound=nn.Module)
_BLANK = nn.Module().__dict__


def set_plain(module: nn.Module, **attributes: object) -> None:
    """Set plain attributes past nn.Module's setattr.

    Args:
        module: what gets them.
        attributes: their values by name.
    """
    if not torch.compiler.is_compiling():
        vars(module).update(attributes)
        return
    # The compiler of torch 2.8 reads no vars of a module.
    for name, value in attributes.items():
        object.__setattr__(module, name, value)


class AbstractCell(nn.Module, ABC):
    """One recurrence s_t = step(a_t, s_{t-1}) with its vector-Jacobian product (eq. 1, 9).

    The state is one flat tensor (B, S). h, the layer's output, comes first in it; nothing outside
    the cell knows what follows. A subclass sets the four sizes and implements the methods below;
    `throughtime.testing.check_cell` compares them with autograd.

    Attributes:
        input_size: I.
        hidden_size: H, the width of h.
        state_size: S.
        preact_size: A, the width of a_t.
        given: tensors that the step takes beside the weights and that belong to others, by name:
            an encoder's memory, a hypernetwork's weights. Only a `Function` takes any.

    Shapes:
        x (T, B, I), a_t (B, A), s_t (B, S), delta (V, B, S), adjoint (V, B, A).
    """

    input_size: int
    hidden_size: int
    state_size: int
    preact_size: int
    given: Mapping[str, Tensor] = MappingProxyType({})

    @abstractmethod
    def drive(self, x: Tensor) -> Tensor:
        """Return the input's part of a_t for all steps at once: (T, B, I) → (T, B, A) (eq. 1)."""

    @abstractmethod
    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Take one step (eq. 1) and return what `vjp` will need of it.

        It must consist of differentiable torch operations, not write into its arguments, and be
        the same function of its tensors at every step: on a GPU it may be recorded and replayed.

        Args:
            a_t: (B, A), what `drive` returned for this step.
            s_prev: (B, S).

        Returns:
            s_t (B, S), and a tuple of tensors (B, ·). Put ``s_t`` or ``s_prev`` themselves into
            the tuple where they are needed: they are kept once.
        """

    @abstractmethod
    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        """Go one step back (eq. 9).

        Args:
            saved: what `step` returned.
            delta: dE/ds_t for V losses, (V, B, S).

        Returns:
            J_tᵀ delta (V, B, S), and the adjoint α = dE/da_t (V, B, A); columns beyond A may hold
            whatever else `param_grads` needs of this step.
        """

    def swept(self, tape: Tape) -> Callable[[int, Tensor], tuple[Tensor, Tensor]]:
        """Return `vjp` by step, 1 to T, with what does not depend on delta computed for all steps.

        A step's small operations cost as much as large ones: on a GPU nearly always, on a CPU up to
        some hundred numbers. So the fewer are left the better. What is computed beforehand is kept
        for all steps, as the tape is.

        Args:
            tape: what the forward sweep kept, complete.
        """
        return lambda t, delta: self.vjp(tape.at(t), delta)

    def factors(self, tape: Tape) -> Factors | None:
        """Return the factors of all steps back, where they have the form of `Factors`; else None.

        A GPU then takes a step back in two launches. A subclass that overrides `step` or `vjp`
        starts from None again. Whether there are any is said by ``has_factors``.

        Args:
            tape: what the forward sweep kept, complete.
        """
        del tape
        return None

    @property
    def has_factors(self) -> bool:
        """Whether `factors` returns any."""
        return type(self).factors is not AbstractCell.factors

    @abstractmethod
    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return dE/dW for every weight, from one GEMM per weight over all steps (eq. 5).

        Args:
            tape: the steps that ``adjoints`` belong to.
            adjoints: (T, B, A), as `vjp` returned them.

        Returns:
            One gradient per weight, by the names of `weights`.
        """

    @abstractmethod
    def input_grad(self, adjoints: Tensor) -> Tensor:
        """Return dE/dx from the adjoints: (..., A) → (..., I), the transpose of `drive`."""

    def jacobian(self, saved: tuple[Tensor, ...]) -> Tensor:
        """Return J_t = ∂s_t/∂s_{t-1}, (B, S, S), as `vjp` of the identity (eq. 9).

        For a complex state autograd returns the conjugate of J_tᵀ, which is undone here.
        """
        B, S = saved[0].shape[0], self.state_size
        identity = torch.eye(S, dtype=saved[0].dtype, device=saved[0].device)
        delta_prev, _ = self.vjp(saved, identity[:, None, :].expand(S, B, S).contiguous())
        return delta_prev.transpose(0, 1).conj().resolve_conj()

    def affine(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Return d and u of s_t = d ⊙ s_{t-1} + u, each (T, B, S), for a cell that is of this form.

        Its Jacobian is then diag(d), and a sweep takes all steps by one scan. A cell that does not
        override this is taken one step at a time.

        Args:
            a: (T, B, A), what `drive` returned; d and u depend on nothing else.

        Raises:
            UnsupportedError: this cell is not of that form.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no d and u: its step is not known to be d ⊙ s + u with d "
            "and u from the input alone, as that of MinGRU is. Its sweeps go step by step."
        )

    def kept_widths(self) -> tuple[int, ...] | None:
        """Return the widths of what a sweep has to keep of a step besides the states.

        These come first in what `step` saves; `with_states` adds the rest. None: everything that
        `step` saves is kept. A subclass that overrides `step` starts from None again.
        """
        return None

    def with_states(self, tape: Tape) -> tuple[Tensor, ...]:
        """Return what `step` saves, from a tape that has only what `kept_widths` lists."""
        return tape.saved

    def __init_subclass__(cls, **named) -> None:
        """Forget what is known of the parent's step where the class overrides it."""
        super().__init_subclass__(**named)
        if "step" in vars(cls) and "kept_widths" not in vars(cls):
            cls.kept_widths = AbstractCell.kept_widths  # pyright: ignore
        if {"step", "vjp", "swept"} & set(vars(cls)) and "factors" not in vars(cls):
            cls.factors = AbstractCell.factors

    @property
    def has_preact(self) -> bool:
        """Whether a_t is a sum that weights lead to; a `Function`'s is the input itself."""
        return True

    @property
    def rows_depend(self) -> bool:
        """Whether a row's state is known to depend on the other rows; only a `Function`'s may."""
        return False

    def takes_steps_at_once(self, tape: Tape) -> bool:
        """Check whether `param_grads` may take many steps at once; a `Function`'s may not."""
        del tape
        return True

    def need_rows_apart(
        self, cannot: str, instead: str, tape: Tape | None = None, rows: int | None = None
    ) -> None:
        """Raise where a row's state depends on the other rows; only a `Function`'s may.

        Args:
            cannot: what such a step cannot do, to end a sentence.
            instead: what to do instead, to end another.
            tape: steps, some of which are examined.
            rows: how many rows there are, if there is no tape.
        """

    def with_context(self, context: Mapping[str, Tensor]) -> AbstractCell:
        """Return the same cell, whose step is also given these tensors; only a `Function` can.

        Args:
            context: by name.

        Raises:
            UnsupportedError: this cell's step takes none.
        """
        raise UnsupportedError(
            f"the step of {type(self).__name__} takes no context; got {', '.join(context)}. "
            "throughtime.cells.Function makes a cell of a step that does."
        )

    def gain(self) -> tuple[float, float]:
        """Return β_W and β_f of eq. 6; only a cell of the form h_t = f(W_h h_{t-1} + …) has them.

        Raises:
            UnsupportedError: this cell has no such constants.
        """
        raise UnsupportedError(
            f"{type(self).__name__} has no β_W·β_f: eq. 6 bounds a recurrence of the form "
            "h_t = f(W_h h_{t-1} + …), which only the Elman cell has. "
            "Use bound(to, since, tight=True), the product of the Jacobians' norms."
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name, in a fixed order."""
        return dict(self.named_parameters())

    def parts(self) -> tuple[int, ...]:
        """Return the widths of a layer's final states: (S,), or those of h and c."""
        return (self.state_size,)


def rebind(module: M, weights: Mapping[str, Tensor], prefix: str = "") -> M:
    """Return the same module over other weight tensors, leaving ``module`` as it is.

    Args:
        module: any module.
        weights: tensors by dotted parameter name; absent names keep theirs.
        prefix: what the names inside ``module`` begin with.
    """
    new = object.__new__(type(module))
    new.__dict__.update(module.__dict__)
    new._parameters = {  # pyright: ignore[reportAttributeAccessIssue]
        name: weights.get(prefix + name, parameter)
        for name, parameter in module._parameters.items()
    }
    new._modules = {
        name: child if child is None else rebind(child, weights, f"{prefix}{name}.")
        for name, child in module._modules.items()
    }
    if isinstance(module, AbstractCell) and module.given:
        vars(new)["given"] = {n: weights.get(prefix + n, t) for n, t in module.given.items()}
    return new


class GatedWeights(AbstractCell):
    """The weights that Elman, LSTM and GRU share: W_x, W_h and two biases, stacked by gate.

    ``weight_ih`` (A, I), ``weight_hh`` (A, H), ``bias_ih`` and ``bias_hh`` (A) or None.
    """

    gates: int

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Draw every weight from U(−1/√H, 1/√H), as ``torch.nn`` does.

        Args:
            input_size: I.
            hidden_size: H.
            bias: whether there are biases.
            device: where the weights live.
            dtype: of the weights.

        Raises:
            InputTypeError: a size that is no integer.
            InputValueError: a size below 1.
        """
        super().__init__()
        check_sizes(input_size=input_size, hidden_size=hidden_size)
        A, spread = self.gates * hidden_size, 1 / math.sqrt(hidden_size)

        def draw(*shape: int) -> nn.Parameter:
            weight = torch.empty(*shape, device=device, dtype=dtype)
            return nn.Parameter(weight.uniform_(-spread, spread))

        self.weight_ih = draw(A, input_size)
        self.weight_hh = draw(A, hidden_size)
        self.bias_ih = draw(A) if bias else None
        self.bias_hh = draw(A) if bias else None
        self._take_sizes()

    def _take_sizes(self) -> None:
        weights = self._parameters
        A, I = weights["weight_ih"].shape  # pyright: ignore[reportOptionalMemberAccess]
        H = weights["weight_hh"].shape[1]  # pyright: ignore[reportOptionalMemberAccess]
        if self.gates * H != A and weights.get("weight_hr") is None:
            got = ", ".join(str(tuple(weights[n].shape)) for n in ("weight_ih", "weight_hh"))  # pyright: ignore
            raise ShapeError(
                f"weight_ih must be (A, I) and weight_hh (A, H) with A = {self.gates}·H; got {got}."
            )
        set_plain(self, preact_size=A, input_size=I, hidden_size=H, state_size=H)

    @classmethod
    def over(cls, weights: Mapping[str, Tensor | None], **attributes: object):
        """Build the cell over existing tensors instead of drawing new ones.

        Args:
            weights: ``weight_ih``, ``weight_hh``, ``bias_ih``, ``bias_hh``; biases may be absent.
            attributes: whatever else the cell's constructor would have set.
        """
        cell = object.__new__(cls)
        # What nn.Module's constructor and setattr would produce, in a fifth of their time.
        state = {k: v.copy() if isinstance(v, (dict, set)) else v for k, v in _BLANK.items()}
        absent = {name: None for name in ("bias_ih", "bias_hh") if name not in weights}
        state["_parameters"] = {**weights, **absent}
        set_plain(cell, **state, **attributes)
        cell._take_sizes()
        return cell

    def is_over(self, weights: Mapping[str, Tensor | None]) -> bool:
        """Check whether these are the cell's weights, with the sizes that they had."""
        own = self._parameters
        for name, weight in weights.items():
            if own.get(name) is not weight:
                return False
        A, H = weights["weight_hh"].shape  # pyright: ignore[reportOptionalMemberAccess]
        I = weights["weight_ih"].shape[1]  # pyright: ignore[reportOptionalMemberAccess]
        return (self.preact_size, self.hidden_size, self.input_size) == (A, H, I)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights by name, in a fixed order."""
        return {name: w for name, w in self._parameters.items() if w is not None}

    def drive(self, x: Tensor) -> Tensor:
        """Return W_x x_t + b_ih + b_hh for all steps in one GEMM: (T, B, I) → (T, B, A) (eq. 1)."""
        if self.bias_ih is None or self.bias_hh is None:
            return nn.functional.linear(x, self.weight_ih)
        return nn.functional.linear(x, self.weight_ih, self.bias_ih + self.bias_hh)

    def input_grad(self, adjoints: Tensor) -> Tensor:
        """Return dE/dx_t = W_xᵀ dE/da_t: (..., A) → (..., I)."""
        return adjoints[..., : self.preact_size] @ self.weight_ih

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        """Return the gradients of W_x, W_h and the biases, one GEMM per matrix (eq. 5)."""
        adjoint_x = adjoints[..., : self.preact_size].flatten(0, 1)
        return self._grads(tape, adjoint_x, adjoint_x)

    def _grads(self, tape: Tape, adjoint_x: Tensor, adjoint_h: Tensor) -> dict[str, Tensor]:
        grads = {
            "weight_ih": adjoint_x.T @ tape.x.flatten(0, 1),
            "weight_hh": adjoint_h.T @ tape.s_prev().flatten(0, 1)[:, : self.hidden_size],
        }
        if self.bias_ih is not None:
            grads["bias_ih"] = adjoint_x.sum(0)
            same = adjoint_h is adjoint_x
            grads["bias_hh"] = grads["bias_ih"].clone() if same else adjoint_h.sum(0)
        return grads
