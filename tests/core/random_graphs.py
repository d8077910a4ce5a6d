"""Random models of recurrent runs with links between them, losses and options, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import throughtime as tt

F64 = torch.float64
Runner = Callable[..., Any]


def shifted(x: Tensor) -> Tensor:
    """Return x one step later, 0 at the first step."""
    return torch.cat((torch.zeros_like(x[:1]), x[:-1]))


LINKS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda h: h,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "scaled": lambda h: 2 * h,
    "flip": lambda h: h.flip(0),
    "shift": shifted,
    "cumsum": lambda h: h.cumsum(0),
    "mean": lambda h: h.mean(0, keepdim=True).expand_as(h),
    "last": lambda h: h[-1:].expand_as(h),
    "first half twice": lambda h: torch.cat((h[: len(h) - len(h) // 2], h[: len(h) // 2])),
    "mixed": lambda h: torch.einsum(
        "ts,sbi->tbi", torch.linspace(-1, 1, len(h) ** 2, dtype=h.dtype).view(len(h), -1), h
    ),
    "detached": lambda h: h.detach(),
}


class Graph(nn.Module):
    """Up to four runs over at most three modules, each fed by the input or an earlier run.

    `forward` takes a runner, so that the same graph is run by the modules and by hand.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        draw = random.Random(seed)
        torch.manual_seed(seed)
        self.T, self.B, self.I = draw.randint(1, 9), draw.randint(1, 4), 3
        # All widths are alike, so that any run can feed any other and take its state.
        kind = draw.choice(["RNN", "LSTM", "GRU"])
        self.modules_ = nn.ModuleList(self._module(draw, kind) for _ in range(draw.randint(1, 3)))
        scale = draw.choice([0.5, 1.0, 1.0, 1.5])
        with torch.no_grad():
            for weight in self.parameters():
                weight *= scale
        self.plan = [self._run(draw, n) for n in range(draw.randint(1, 4))]
        self.terms, self.scalar = self._losses(draw)
        self.options = {
            "window": draw.choice([None, None, 1, 2, draw.randint(1, 9)]),
            "every": draw.choice([None, None, None, 2, 3]),
        }
        self.hooked = draw.random() < 0.5
        self.x = torch.randn(self.T, self.B, self.I, dtype=F64)

    def _module(self, draw: random.Random, kind: str) -> nn.Module:
        options: dict[str, Any] = {"num_layers": draw.choice([1, 1, 2]), "dtype": F64}
        options["bidirectional"] = self._both = draw.random() < 0.25
        options["bias"] = draw.random() < 0.8
        hidden = self.I  # so that an output can be an input, after its halves are added
        if kind == "RNN":
            options["nonlinearity"] = draw.choice(["tanh", "relu"])
        source = draw.choice([nn, tt])
        return getattr(source, kind)(self.I, hidden, **options)

    def _run(self, draw: random.Random, n: int) -> dict[str, Any]:
        module = draw.randrange(len(self.modules_))
        before = list(range(n))
        source = draw.choice([None, *before, *before])
        carried = (
            [
                m
                for m in before
                if self._shape(self.plan_module(m)) == self._shape(module) and draw.random() < 0.4
            ]
            if n
            else []
        )
        return {
            "module": module,
            "source": source,
            "link": draw.choice(list(LINKS)),
            "beside": draw.choice([None, None, "input", *before]) if source is not None else None,
            "state": draw.choice(carried) if carried else None,
            "masks": self._masks(draw, module),
        } | self._remember(module)

    def _masks(self, draw: random.Random, module: int) -> dict[str, Tensor]:
        own, found = self.modules_[module], {}
        if own.bidirectional or not type(own).__module__.startswith("throughtime"):
            return {}
        if draw.random() < 0.3:
            lengths = [draw.randint(1, self.T) for _ in range(self.B)]
            found["lengths"] = torch.tensor(lengths)
        if draw.random() < 0.3:
            reset = torch.rand(self.T, self.B) < 0.3
            if "lengths" in found:
                reset &= torch.arange(self.T)[:, None] < found["lengths"]
            found["reset"] = reset
        return found

    def _remember(self, module: int) -> dict[str, Any]:
        self._planned = [*getattr(self, "_planned", []), module]
        return {}

    def plan_module(self, n: int) -> int:
        return self._planned[n]

    def _shape(self, module: int) -> tuple[int, bool]:
        own = self.modules_[module]
        return own.num_layers, own.bidirectional

    def _losses(self, draw: random.Random) -> tuple[list[list[tuple]], bool]:
        runs = range(len(self.plan))
        form = draw.choice(["a loss a step", "any", "any", "scalar"])
        if form == "a loss a step":
            run = draw.choice(list(runs))
            return [[(run, "h", t, draw.choice([1, 2]))] for t in range(self.T)], False
        terms = [
            [
                (draw.choice(list(runs)), draw.choice(["h", "h", "h", "s"]),
                 draw.randrange(self.T), draw.choice([1, 2]))
                for _ in range(draw.randint(1, 3))
            ]
            for _ in range(draw.randint(1, 5))
        ]  # fmt: skip
        return terms, form == "scalar"

    def forward(self, run: Runner, watch: Callable[[Tensor], None] = lambda _: None) -> Tensor:
        """Return the losses, with each recurrent run taken by ``run(path, module, x, hx)``."""
        outputs: list[Tensor] = []
        states: list[Any] = []
        for step in self.plan:
            module = self.modules_[step["module"]]
            x = self.x
            if step["source"] is not None:
                x = LINKS[step["link"]](outputs[step["source"]])
            if step["beside"] == "input":
                x = x + self.x
            elif step["beside"] is not None:
                x = x + outputs[step["beside"]]
            hx = None if step["state"] is None else states[step["state"]]
            h, state = run(f"modules_.{step['module']}", module, x, hx, **step["masks"])
            if module.bidirectional:
                h = h[..., : self.I] + h[..., self.I :]
            watch(h)
            outputs.append(h)
            states.append(state)
        losses = [sum(self._term(outputs, states, *term) for term in own) for own in self.terms]
        return sum(losses[1:], losses[0]) if self.scalar else torch.stack(losses)

    def _term(self, outputs, states, run: int, kind: str, t: int, power: int) -> Tensor:
        state = states[run] if isinstance(states[run], Tensor) else states[run][-1]
        value = outputs[run][t] if kind == "h" else state
        factor = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).view_as(value)
        return (factor * value**power).sum()

    def __repr__(self) -> str:
        modules = "; ".join(
            f"{type(m).__module__.split('.')[0]}.{m.mode} x{m.num_layers}"
            f"{' both' if m.bidirectional else ''}"
            for m in self.modules_
        )
        return (
            f"seed {self.seed}: T={self.T} B={self.B}, {modules}, runs {self.plan}, losses "
            f"{self.terms}{' summed' if self.scalar else ''}, {self.options}, "
            f"hooks {self.hooked}"
        )
