"""The training steps that are compared on a GPU: ours, cuDNN's, and whoever else is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import kernels
from ..cells.elman import NONLINEARITIES
from ..kernels.choose import TRITON
from ..kernels.gpu.tiling import WAYS, only, plan_for, processors
from ..layers import modules as ours
from .gpu_right import NOT_IN_TORCH
from .rivals import absent, flashrnn_torch

__all__ = ["Case", "Contender", "contenders"]

Step = Callable[[], list[Tensor]]
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
ON_TRITON = "throughtime, use('triton')"


class Contender(NamedTuple):
    """One way to take a training step.

    Attributes:
        what: "all steps", "ragged" or "resets": those of one kind do the same.
        name: whose it is.
        make: returns the step, which returns the gradients of the weights and of x.
        engine: which of ours it is; "" for others.
        slow: whether it takes long to compile or to tune, or to run.
    """

    what: str
    name: str
    make: Callable[[], Step]
    engine: str = ""
    slow: bool = False


class Case:
    """One kind, size and precision: the modules and the numbers that all contenders get."""

    def __init__(
        self, kind: str, size: tuple[int, ...], precision: str, device: torch.device
    ) -> None:
        """Draw the weights, the input, what arrives at the outputs, lengths and resets."""
        B, T, I, H = size
        self.kind, self.H, self.precision, self.dry = kind, H, precision, device.type == "cpu"
        self.name = f"{kind} {size} {precision}"
        torch.manual_seed(0)
        like: dict[str, Any] = {"device": device, "dtype": getattr(torch, precision.split()[0])}
        if kind in NOT_IN_TORCH:
            self.ours: Any = ours.RNN(I, H, nonlinearity=kind, **like)
            self.theirs: Any = nn.RNN(I, H, **like)  # which has the weights
        else:
            self.ours = getattr(ours, kind)(I, H, **like)
            self.theirs = getattr(nn, kind)(I, H, **like)
        self.ours.load_state_dict(self.theirs.state_dict())
        self.x = torch.randn(T, B, I, **like).requires_grad_()
        self.g = torch.randn(T, B, H, **like)
        self.lengths = torch.randint(1, T + 1, (B,))
        self.lengths[0] = T
        self.reset = torch.rand(T, B, device=device) < 0.05

    def meets(self) -> bool:
        """Check whether the programs of our kernel meet after each step."""
        name = "tanh" if self.kind == "RNN" else self.kind.lower()
        count = processors(self.x.device)
        return plan_for(name, self.H, self.x.dtype, count).way == "resident"

    def grads(self, out: Tensor, module: nn.Module) -> list[Tensor]:
        """Return the gradients of a module's weights and of x."""
        return list(torch.autograd.grad(out, [*module.parameters(), self.x], self.g))

    def own(self, engine: str, ways: Sequence[str] = WAYS, **options: Any) -> Step:
        """Return our layer's step on an engine, whose kernels go these ways alone."""

        def step() -> list[Tensor]:
            with kernels.use(engine), only(*ways):
                return self.grads(self.ours(self.x, **options)[0], self.ours)

        return step

    def cudnn(self, enabled: bool = True) -> Step:
        """Return torch's, with cuDNN or without."""

        def step() -> list[Tensor]:
            # Not `cudnn.flags`, which lets TF32 in unless told otherwise.
            before = torch.backends.cudnn.enabled
            torch.backends.cudnn.enabled = enabled
            try:
                return self.grads(self.theirs(self.x)[0], self.theirs)
            finally:
                torch.backends.cudnn.enabled = before

        return step

    def packed(self) -> list[Tensor]:
        """Take torch's own way of rows that end early: packed."""
        packed = nn.utils.rnn.pack_padded_sequence(self.x, self.lengths, enforce_sorted=False)
        out = nn.utils.rnn.pad_packed_sequence(self.theirs(packed)[0])[0]
        return self.grads(out, self.theirs)

    def cell(self) -> nn.Module:
        """Return one step as a module, over weights of its own."""
        size = self.x.shape[2], self.H
        if self.kind in NOT_IN_TORCH:
            found: nn.Module = _Step(*size, NONLINEARITIES[self.kind].f)
        else:
            found = getattr(nn, f"{self.kind}Cell")(*size)
        found = found.to(self.x)
        found.load_state_dict({n[:-3]: w for n, w in self.theirs.state_dict().items()})
        return found

    def loop(self, *, compiled: bool = False, resets: bool = False) -> Step:
        """Return a loop over torch's cell, whose step is compiled or not."""
        cell = advance = self.cell()
        if compiled:
            torch.compiler.reset()  # or it counts as one step's ninth form, and is not compiled
            advance: Any = torch.compile(cell, backend="eager" if self.dry else "inductor")
        goes_on = (~self.reset).unsqueeze(-1).to(self.x.dtype)

        def step() -> list[Tensor]:
            h = self.x.new_zeros(self.x.shape[1], self.H)
            s: Any = (h, h) if self.kind == "LSTM" else h
            out = []
            for x_t, on in zip(self.x, goes_on, strict=True):
                if resets:
                    s = (s[0] * on, s[1] * on) if self.kind == "LSTM" else s * on
                s = advance(x_t, s)
                out.append(s[0] if self.kind == "LSTM" else s)
            return self.grads(torch.stack(out), cell)

        return step

    def cut(self) -> list[Tensor]:
        """Take resets as one writes them for cuDNN: a call for each stretch without one.

        The stretches are known beforehand, so nothing waits for the device.
        """
        h = self.x.new_zeros(1, self.x.shape[1], self.H)
        s: Any = (h, h) if self.kind == "LSTM" else h
        out = []
        for begin, end, on in self.stretches:
            s = (s[0] * on, s[1] * on) if self.kind == "LSTM" else s * on
            h, s = self.theirs(self.x[begin:end], s)
            out.append(h)
        return self.grads(torch.cat(out), self.theirs)

    @property
    def stretches(self) -> list[tuple[int, int, Tensor]]:
        """Return where the batch is cut, and which rows' state goes on there."""
        if not hasattr(self, "_stretches"):
            at = [t for t, any_ in enumerate(self.reset.any(1).tolist()) if any_ or t == 0]
            ends = [*at[1:], len(self.reset)]
            on = (~self.reset).unsqueeze(-1).to(self.x.dtype)
            self._stretches = [(a, b, on[a]) for a, b in zip(at, ends, strict=True)]
        return self._stretches

    def flashrnn(self, backend: str) -> Step:
        """Return FlashRNN's."""
        weights = {name: getattr(self.theirs, f"{name}_l0") for name in NAMES}
        rival = flashrnn_torch(self.kind, weights, self.x, self.g, None if self.dry else backend)

        def step() -> list[Tensor]:
            rival.run()
            found = rival.gradients()
            return [found[name] for name in (*NAMES, "input")]

        return step

    def torchrl(self, *, resets: bool) -> Step:
        """Return that of TorchRL's Triton kernels, whose rows come first.

        They are called as its `GRUModule` and `LSTMModule` do, in the precision of the case, which
        they would not take from torch's switches, and without the modules' own work.
        """
        from torchrl.modules.tensordict_module import (  # pyright: ignore[reportMissingImports]
            _rnn_triton as theirs,
        )

        T, B, _ = self.x.shape
        weights = [getattr(self.theirs, f"{name}_l0") for name in NAMES]
        begins = self.reset.t().clone() if resets else torch.zeros_like(self.reset.t())
        begins[:, 0] = True
        begins = begins.contiguous()
        zeros = [self.x.new_zeros(B, T, self.H)] * (2 if self.kind == "LSTM" else 1)
        run = theirs.lstm_triton if self.kind == "LSTM" else theirs.gru_triton
        dtype = torch.bfloat16 if self.x.dtype == torch.bfloat16 else torch.float32
        precision = "tf32" if "TF32" in self.precision else "tf32x3"

        def step() -> list[Tensor]:
            x = self.x.transpose(0, 1).contiguous()
            out = run(x, *zeros, *weights, begins, dtype, input_precision=precision)[0]
            return self.grads(out.transpose(0, 1), self.theirs)

        return step


class _Step(nn.Module):
    """A step of the Elman cell with a nonlinearity that torch's has not."""

    def __init__(self, I: int, H: int, f: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.f = f
        self.weight_ih, self.weight_hh = (nn.Parameter(torch.zeros(H, n)) for n in (I, H))
        self.bias_ih, self.bias_hh = (nn.Parameter(torch.zeros(H)) for _ in range(2))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return h_t."""
        linear = nn.functional.linear
        return self.f(
            linear(x, self.weight_ih, self.bias_ih) + linear(h, self.weight_hh, self.bias_hh)
        )


def contenders(case: Case) -> Iterator[Contender]:
    """Return who takes a case's step; the first of each kind is what the others are held against.

    Args:
        case: the kind, size and precision.
    """
    if case.kind in NOT_IN_TORCH:
        yield Contender("all steps", "loop in torch", case.loop)
        yield from _of_ours(case, {"all steps": {}})
    else:
        yield Contender("all steps", "cuDNN", case.cudnn)
        yield Contender("ragged", "cuDNN, packed", lambda: case.packed)
        yield Contender("resets", "cuDNN, a call for each stretch", lambda: case.cut)
        ragged, resets = {"lengths": case.lengths}, {"reset": case.reset}
        yield from _of_ours(case, {"all steps": {}, "ragged": ragged, "resets": resets})
        yield from _of_torchrl(case)
        yield from _of_flashrnn(case)
        without = "torch without cuDNN"
        yield Contender("all steps", without, lambda: case.cudnn(enabled=False), slow=True)
    yield Contender("all steps", "compiled loop", lambda: case.loop(compiled=True), slow=True)


def _of_ours(case: Case, ways: dict[str, dict[str, Any]]) -> Iterator[Contender]:
    # What is chosen by itself on a GPU; a dry run on a CPU asks for it.
    fallback = "reference" if case.kind in NOT_IN_TORCH else "torch"
    engine = fallback if case.dry else "auto"
    for what, options in ways.items():
        yield Contender(what, "throughtime", lambda o=options: case.own(engine, **o), "torch")
    if not TRITON.missing():
        for what, options in ways.items():
            yield Contender(what, ON_TRITON, lambda o=options: case.own("triton", **o), "triton")
        if case.meets() or case.dry:
            make = lambda: case.own("triton", ("steps",))  # noqa: E731
            yield Contender("all steps", f"{ON_TRITON}, a launch a step", make, "triton")


def _of_flashrnn(case: Case) -> Iterator[Contender]:
    if absent("flashrnn") or case.precision == "float32":  # its float32 is TF32
        return
    for backend in ("triton_fused", "cuda_fused") if case.kind == "LSTM" else ("cuda_fused",):
        name = f"FlashRNN, {backend}"
        make = lambda b=backend: case.flashrnn(b)  # noqa: E731
        yield Contender("all steps", name, make, slow=True)


def _of_torchrl(case: Case) -> Iterator[Contender]:
    if absent("torchrl") or case.kind == "RNN" or case.dry:
        return
    for what in ("resets", "all steps"):
        make = lambda w=what: case.torchrl(resets=w == "resets")  # noqa: E731
        yield Contender(what, "TorchRL, Triton", make, slow=True)
