"""The training steps that are compared on a GPU: ours, cuDNN's, and whoever else is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import kernels
from ..kernels.choose import TRITON
from ..kernels.gpu.tiling import WAYS, only, plan_for, processors
from ..layers import modules as ours
from .rivals import absent, flashrnn_torch

__all__ = ["Case", "Contender", "contenders"]

Step = Callable[[], list[Tensor]]
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Contender(NamedTuple):
    """One way to take a training step.

    Attributes:
        what: "all steps", "ragged" or "resets": those of one kind do the same.
        name: whose it is.
        make: returns the step, which returns the gradients of the weights and of x.
    """

    what: str
    name: str
    make: Callable[[], Step]


class Case:
    """One kind, size and precision: the modules and the numbers that all contenders get."""

    def __init__(
        self, kind: str, size: tuple[int, ...], precision: str, device: torch.device
    ) -> None:
        """Draw the weights, the input, what arrives at the outputs, lengths and resets."""
        B, T, I, H = size
        self.kind, self.precision, self.dry = kind, precision, device.type == "cpu"
        self.name = f"{kind} {size} {precision}"
        torch.manual_seed(0)
        like: dict[str, Any] = {"device": device, "dtype": getattr(torch, precision.split()[0])}
        self.theirs = getattr(nn, kind)(I, H, **like)
        self.ours = getattr(ours, kind)(I, H, **like)
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
        return plan_for(name, self.g.shape[2], self.x.dtype, count).way == "resident"

    def grads(self, out: Tensor, module: nn.Module) -> list[Tensor]:
        """Return the gradients of a module's weights and of x."""
        return list(torch.autograd.grad(out, [*module.parameters(), self.x], self.g))

    def own(self, engine: str, ways: tuple[str, ...] = (), **options: Any) -> Step:
        """Return our layer's step on an engine, whose kernels go these ways alone."""

        def step() -> list[Tensor]:
            with kernels.use(engine), only(*(ways or WAYS)):
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

    def compiled_loop(self) -> Step:
        """Return a loop over torch's cell, whose step is compiled."""
        theirs, H = self.theirs, self.g.shape[2]
        cell = getattr(nn, f"{self.kind}Cell")(self.x.shape[2], H).to(self.x)
        cell.load_state_dict({n[:-3]: w for n, w in theirs.state_dict().items()})
        torch.compiler.reset()  # or it counts as one step's ninth form, and is not compiled
        advance = torch.compile(cell, backend="eager" if self.dry else "inductor")

        def step() -> list[Tensor]:
            h = self.x.new_zeros(self.x.shape[1], H)
            s: Any = (h, h) if self.kind == "LSTM" else h
            out = []
            for x_t in self.x:
                s = advance(x_t, s)
                out.append(s[0] if self.kind == "LSTM" else s)
            return self.grads(torch.stack(out), cell)

        return step

    def flashrnn(self) -> Step:
        """Return FlashRNN's fused kernel's."""
        weights = {name: getattr(self.theirs, f"{name}_l0") for name in NAMES}
        backend = None if self.dry else "cuda_fused"
        rival = flashrnn_torch(self.kind, weights, self.x, self.g, backend)

        def step() -> list[Tensor]:
            rival.run()
            found = rival.gradients()
            return [found[name] for name in (*NAMES, "input")]

        return step

    def torchrl(self, *, resets: bool) -> Step:
        """Return that of TorchRL's Triton kernels, whose rows come first."""
        from tensordict import TensorDict  # pyright: ignore[reportMissingImports]
        from torchrl.modules import GRUModule, LSTMModule  # pyright: ignore[reportMissingImports]

        T, B, I = self.x.shape
        H = self.g.shape[2]
        made, states = {"GRU": (GRUModule, ["h"]), "LSTM": (LSTMModule, ["h", "c"])}[self.kind]
        module = made(
            input_size=I, hidden_size=H, in_keys=["x", *states],
            out_keys=["out", *(("next", s) for s in states)], default_recurrent_mode=True,
            recurrent_backend="triton", device=self.x.device,
        ).to(self.x.dtype)  # fmt: skip
        inner = getattr(module, self.kind.lower())
        inner.load_state_dict(self.theirs.state_dict())
        begins = self.reset.t().clone() if resets else torch.zeros_like(self.reset.t())
        begins[:, 0] = True
        zeros = {name: self.x.new_zeros(B, T, 1, H) for name in states}

        def step() -> list[Tensor]:
            data = {"x": self.x.transpose(0, 1), "is_init": begins[..., None], **zeros}
            out = module(TensorDict(data, batch_size=[B, T]))["out"]
            return self.grads(out.transpose(0, 1), inner)

        return step


def contenders(case: Case) -> Iterator[Contender]:
    """Return who takes a case's step; the first of each kind is what the others are held against.

    Args:
        case: the kind, size and precision.
    """
    ragged, resets = {"lengths": case.lengths}, {"reset": case.reset}
    ways = (("all steps", {}), ("ragged", ragged), ("resets", resets))
    yield Contender("all steps", "cuDNN", case.cudnn)
    yield Contender("ragged", "cuDNN, packed", lambda: case.packed)
    for what, options in ways:
        yield Contender(what, "throughtime", lambda o=options: case.own(_default(case), **o))
    if not TRITON.missing():
        for what, options in ways:
            name = "throughtime, use('triton')"
            yield Contender(what, name, lambda o=options: case.own("triton", **o))
        if case.meets() or case.dry:
            name = "throughtime, use('triton'), a launch a step"
            yield Contender("all steps", name, lambda: case.own("triton", ("steps",)))
    yield Contender("all steps", "torch without cuDNN", lambda: case.cudnn(enabled=False))
    yield Contender("all steps", "compiled loop", case.compiled_loop)
    if not absent("flashrnn"):
        yield Contender("all steps", "FlashRNN", case.flashrnn)
    if not absent("torchrl") and case.kind != "RNN" and not case.dry:
        for what in ("all steps", "resets"):
            yield Contender(
                what, "TorchRL, Triton", lambda w=what: case.torchrl(resets=w == "resets")
            )


def _default(case: Case) -> str:
    """Return what is chosen by itself on a GPU; a dry run on a CPU asks for it."""
    return "torch" if case.dry else "auto"
