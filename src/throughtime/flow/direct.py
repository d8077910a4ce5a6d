"""Which loss sends which direct gradient into which step: the g of eq. 9, loss by loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import GraphError, InputValueError, ThroughTimeError
from ..node.recording import Recording
from .segments import Segment, merged

# From so many calls on a trace holds a loop, and so many seeds go back through it together.
LOOP = 32
TOGETHER = 4

__all__ = ["Direct", "arrivals", "attribute", "clock", "entering", "graph_grads"]


@dataclass
class Direct:
    """The direct gradients of V losses into the states of one layer.

    Attributes:
        g: their sum (T, B, G), into the first G entries of s_1…s_T.
        owner: (T, B), the one loss that ``g[t-1, b]`` comes from, −1 where there is none; or None
            where several losses enter at the same step, so that the sum cannot be told apart.
    """

    g: Tensor
    owner: Tensor | None

    def of(self, losses: Tensor) -> Tensor:
        """Return g_v for the losses named, (V, T, B, G); needs ``owner``."""
        assert self.owner is not None
        mine = self.owner[None] == losses[:, None, None]
        return torch.where(mine[..., None], self.g[None], 0)

    def one(self, loss: int) -> Tensor:
        """Return g_v of one loss, (T, B, G); needs ``owner``."""
        return self.of(torch.tensor([loss], device=self.g.device))[0]

    def latest_reads(self, V: int, reverse: bool) -> Tensor:
        """Return the last step of the input that each loss reads here, (V, B); 0: none."""
        assert self.owner is not None
        T, B = self.owner.shape
        steps = clock(T, reverse, self.owner.device) * (self.owner >= 0)
        latest = torch.zeros(V, B, dtype=torch.long, device=self.owner.device)
        return latest.scatter_reduce_(0, self.owner.clamp(min=0), steps, "amax")

    def lone_steps(self, V: int) -> Tensor | None:
        """Return for each loss the one step that it enters at, (V,), 0 where it enters nowhere.

        None where a loss enters at several steps, or different losses at one.
        """
        if self.owner is None:
            return None
        of_step = self.owner.amax(1)
        if bool(((self.owner >= 0) & (self.owner != of_step[:, None])).any()):
            return None
        steps = torch.zeros(V, dtype=torch.long, device=self.owner.device)
        owned = (of_step >= 0).nonzero().flatten()
        steps[of_step[owned]] = owned + 1
        return steps if int((steps > 0).sum()) == len(owned) else None


def clock(T: int, reverse: bool, device: torch.device) -> Tensor:
    """Return the input's step that a layer's own steps 1…T fall on, (T, 1)."""
    steps = torch.arange(1, T + 1, device=device)
    return (steps.flip(0) if reverse else steps)[:, None]


def arrivals(
    recording: Recording,
    outputs: Tensor | Sequence[Tensor],
    seeds: Tensor | Sequence[Tensor],
    segments: Sequence[Segment],
    *,
    cut: bool,
    batched: bool = False,
) -> list[Tensor | None]:
    """Return what arrives at each segment's states, laid out by step (…, T, B, G); None: nothing.

    Args:
        recording: the trace's.
        outputs: what is differentiated.
        seeds: its adjoint; with ``batched`` a leading axis V.
        segments: stretches of layers' runs.
        cut: whether to stop at recorded states, which leaves the direct part.
        batched: whether ``seeds`` carry a leading axis V.

    Raises:
        GraphError: the graph was freed by a ``backward()`` before, or weights have changed since.
        RuntimeError: what else torch raises in the user's own readout.
    """
    nodes = [node for segment in segments for node in segment.nodes()]
    found = graph_grads(recording, outputs, nodes, seeds, cut=cut, batched=batched)
    return merged(segments, found)


def graph_grads(
    recording: Recording,
    outputs: Tensor | Sequence[Tensor],
    nodes: Sequence[Any],
    seeds: Tensor | Sequence[Tensor],
    *,
    cut: bool,
    batched: bool = False,
) -> Sequence[Tensor | None]:
    """Return autograd's gradients at ``nodes``, as `arrivals` says.

    Raises:
        GraphError: as there.
        RuntimeError: as there.
    """
    if not nodes:
        return []
    recording.switch.cut, recording.switch.exact = cut, True
    try:
        with recording.hooks.suspended():
            return torch.autograd.grad(
                outputs,
                nodes,
                seeds,
                retain_graph=True,
                allow_unused=True,
                is_grads_batched=batched,
            )
    except RuntimeError as error:
        if "modified by an inplace operation" in str(error):
            raise GraphError(
                "weights or activations were changed in place since the trace (by "
                "optimizer.step(), say), so the gradient can no longer be taken apart. Ask for the "
                "flow before that."
            ) from error
        if "second time" not in str(error):
            raise
        raise GraphError(
            "the graph from the losses to the layers is gone: backward() freed it. Ask for the "
            "flow before calling backward(), or call backward(retain_graph=True)."
        ) from error
    finally:
        recording.switch.cut = recording.switch.exact = False


def entering(recording: Recording, losses: Tensor, runs: Sequence[Segment]) -> list[Tensor]:
    """Return for every run the sum over losses of all that enters it, later layers' included.

    What comes back by way of a later state of the same run does not enter it anew.

    Args:
        recording: the trace's.
        losses: (V,) or a scalar.
        runs: each run as one segment.

    Raises:
        GraphError: the losses do not depend on any run.
    """
    seeds = torch.ones_like(losses)
    plain = [run for run in runs if len(run.gates) == 1]
    found = {
        id(run): g
        for run, g in zip(plain, arrivals(recording, losses, seeds, plain, cut=False), strict=True)
    }
    for run in runs:
        if id(run) not in found:
            with run.closed():
                (found[id(run)],) = arrivals(recording, losses, seeds, [run], cut=False)
    if all(g is None for g in found.values()):
        raise GraphError(
            "the losses do not depend on any traced layer. Compute them from what the model "
            "returned inside the trace, without torch.no_grad() or .detach() in between."
        )
    return [run.nothing() if (g := found[id(run)]) is None else g for run in runs]


def attribute(
    recording: Recording, losses: Tensor, runs: Sequence[Segment], per_row: bool = False
) -> list[Direct]:
    """Find, for every step and row, the one loss whose direct gradient enters there.

    Loss numbers are read off bit by bit: one backward pass with only those losses whose bit j is
    1, one with the others. Where both leave a gradient, several losses enter, and `Direct.owner`
    is None. The passes stop at the recurrent layers, so they cost 2·log₂ V readouts.

    Args:
        recording: the trace's.
        losses: (V,).
        runs: each run as one segment.
        per_row: whether each loss may come from one batch row alone.

    Raises:
        InputValueError: there is a loss a batch row rather than a loss a step.
    """
    V = losses.numel()

    summed = arrivals(recording, losses, torch.ones_like(losses), runs, cut=True)
    directs = [
        Direct(run.nothing() if g is None else g, None) for run, g in zip(runs, summed, strict=True)
    ]
    index = torch.arange(V, device=losses.device)
    entered = [(d.g != 0).any(-1) for d in directs]
    clash = [torch.zeros_like(hit) for hit in entered]
    # Weights other than 1 keep two losses from cancelling each other unseen.
    weights = 0.5 + torch.rand(V, generator=torch.Generator().manual_seed(0), device="cpu").to(
        losses
    )
    bits = [torch.zeros_like(hit, dtype=torch.long) for hit in entered]
    has_bit = [(index >> j) & 1 for j in range((V - 1).bit_length())]
    seeds = [weights * side for bit in has_bit for side in (bit, 1 - bit)]
    hits = _hits(recording, losses, seeds, runs)
    for j, (one, zero) in enumerate(zip(hits[::2], hits[1::2], strict=True)):
        for i in range(len(runs)):
            clash[i] = clash[i] | (one[i] & zero[i])
            bits[i] = bits[i] + (one[i].long() << j)
            entered[i] = entered[i] | one[i] | zero[i]
    for i, direct in enumerate(directs):
        owner = torch.where(entered[i], bits[i], -1)
        direct.owner = _beside_nonfinite(owner, clash[i], direct.g, losses)
    if not per_row:
        _refuse_a_loss_per_row(directs, V)
    return directs


def _hits(
    recording: Recording, losses: Tensor, seeds: list[Tensor], runs: Sequence[Segment]
) -> list[list[Tensor]]:
    """Return for each seed where anything arrives, (T, B) bool for each run.

    In a loop a backward pass takes as long as its many small operations, whatever the number of
    seeds; so a few go together there, and no more, since the readout's gradients do too.

    Raises:
        ThroughTimeError: the graph was freed, or weights have changed since.
    """
    loops = sum(len(run.gates) for run in runs) > LOOP
    found: list[list[Tensor | None]] = []
    for few in (seeds[n : n + TOGETHER] for n in range(0, len(seeds), TOGETHER)):
        if loops and len(few) > 1:
            try:
                many = arrivals(recording, losses, torch.stack(few), runs, cut=True, batched=True)
            except ThroughTimeError:
                raise
            except RuntimeError:  # an operation that cannot be batched
                loops = False
            else:
                found += [[None if g is None else g[n] for g in many] for n in range(len(few))]
                continue
        found += [arrivals(recording, losses, seed, runs, cut=True) for seed in few]
    nothing = [
        torch.zeros(r.tape.T, r.tape.B, dtype=torch.bool, device=losses.device) for r in runs
    ]
    return [
        [none if g is None else (g != 0).any(-1) for none, g in zip(nothing, own, strict=True)]
        for own in found
    ]


def _beside_nonfinite(owner: Tensor, clash: Tensor, g: Tensor, losses: Tensor) -> Tensor | None:
    """Settle who owns the steps where several losses seem to enter; None where they really do.

    At a step where the readout is inf or NaN, even a loss with weight 0 leaves 0·inf = NaN. Where
    the losses stand one a step, such a step belongs to the loss of its own number, if that loss is
    itself no number: the losses before the overflow then keep their own, finite gradients.
    """
    if not bool(clash.any()):
        return owner
    known = (owner >= 0) & ~clash
    if bool(g[clash].isfinite().all(-1).any()) or not bool(known.any()):
        return None
    steps = torch.arange(owner.shape[0], device=owner.device)[:, None].expand_as(owner)
    offset = (owner - steps)[known]
    if bool((offset != offset[0]).any()):
        return None
    settled = torch.where(clash, steps + offset[0], owner)
    own = settled[clash]
    if bool((own < 0).any()) or bool((own >= losses.numel()).any()):
        return None
    return None if bool(losses.detach()[own].isfinite().any()) else settled


def _refuse_a_loss_per_row(directs: list[Direct], V: int) -> None:
    owners = [d.owner for d in directs if d.owner is not None]
    if len(owners) != len(directs) or V < 2:
        return
    rows_match = [
        owner.shape[1] == V
        and bool(((owner < 0) | (owner == torch.arange(V, device=owner.device))).all())
        for owner in owners
        if bool((owner >= 0).any())
    ]
    if rows_match and all(rows_match):
        raise InputValueError(
            f"losses has one entry for each of the {V} batch rows; expected one entry a step or a "
            "loss over all rows. Reduce over the batch first: losses.mean() or "
            "loss_per_step.mean(batch_axis). If a loss a row is what you mean, pass per_row=True."
        )
