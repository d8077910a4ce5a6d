"""A random graph's flow against the same graph unrolled by hand, term by term."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

import throughtime as tt

from .random_graphs import Graph
from .unrolled import Run, Unrolled, by_state, by_step

RTOL = 1e-9
CANCELLED = 4e-15


class Mismatch(AssertionError):  # noqa: N818 - it is a finding, not an error of the test
    """A number of a flow that is not the oracle's."""


class Checked:
    """How many numbers were compared, and how far the worst was off."""

    def __init__(self) -> None:
        self.checks, self.worst = 0, 0.0

    def close(self, graph: Graph, what: str, got: Tensor, want: Tensor, whole: Tensor) -> None:
        """Compare a term relative to its own norm."""
        self.checks += 1
        norm, error = float(want.norm()), float((got - want).norm())
        off = error / norm if norm > 0 else float(error > 0)
        # Where several ways to a state cancel, each of them leaves its rounding.
        if error <= CANCELLED * float(whole.norm()):
            return
        self.worst = max(self.worst, off)
        if not off <= RTOL:
            raise Mismatch(f"{what} off by {off:.2e}: {graph}")


def called(path, module, x, hx, **masks):
    """Run the module itself."""
    return module(x, **masks) if hx is None else module(x, hx, **masks)


def check(seed: int, checked: Checked, graph_of: Callable[[int], Graph] = Graph) -> None:
    """Compare the flow of one random graph with its oracle.

    Raises:
        Mismatch: a number is not the oracle's.
    """
    graph = graph_of(seed)
    by_hand = Unrolled()
    want = graph(by_hand)
    fired: list[int] = []

    def hooked(h: Tensor) -> None:
        if graph.hooked and h.requires_grad:
            h.register_hook(lambda g: fired.append(1) or g.clamp(-1e-3, 1e-3))
            h.retain_grad()

    with tt.trace(graph) as trace:
        losses = graph(called, hooked)
    checked.close(graph, "losses", losses.detach(), want.detach(), want.detach())
    if not losses.requires_grad:
        return
    try:
        flow = trace.flow(losses, **graph.options)
    except tt.errors.GraphError:
        if any(by_state(run, want.sum()).any() for run in by_hand.runs):
            raise
        return
    if fired:
        raise Mismatch(f"a user's hook was called: {graph}")
    runs = {run.name: run for run in by_hand.runs}
    for name, layer in flow.items():
        _check_layer(graph, name, layer, runs[name], want, checked)


def _check_layer(
    graph: Graph, name: str, layer: tt.LayerFlow, run: Run, want: Tensor, checked: Checked
) -> None:
    total = by_state(run, want.sum())
    checked.close(graph, f"{name} adjoint", layer.adjoint(), total, total)
    for weight in layer.weight_names:
        terms = by_step(run, want.sum(), weight)
        checked.close(graph, f"{name} {weight}", layer.weight_grad(weight), terms.sum(0), terms)
    if want.dim() == 0:
        return
    window = graph.options["window"]
    for row, loss in enumerate(layer.loss_index.tolist()):
        own = by_state(run, want[loss])
        norms = own.norm(dim=-1)
        arrives = norms.max().reshape(1)
        for b in range(layer.B):
            stands = int(layer.enters[row, b])
            for k in range(layer.T + 1):
                got = layer.norms[row, k, b]
                left_out = window is not None and k < stands - window
                if bool(got.isnan()) != left_out:
                    raise Mismatch(f"{name} norms[{row}, {k}, {b}] = {float(got)}: {graph}")
                if not left_out:
                    what = f"{name} norms[{row}, {k}, {b}]"
                    checked.close(graph, what, got[None], norms[k, b][None], arrives)
        if row % 2 == 0:
            checked.close(graph, f"{name} adjoint({loss})", layer.adjoint(loss), own, own)
            terms = by_step(run, want[loss], "weight_hh")
            checked.close(
                graph, f"{name} weight_hh({loss})",
                layer.weight_grad("weight_hh", loss=loss), terms.sum(0), terms,
            )  # fmt: skip
            k = 1 + loss % layer.T
            got = layer.weight_grad("weight_hh", loss=loss, step=k)
            checked.close(graph, f"{name} weight_hh({loss}, {k})", got, terms[k - 1], terms)
