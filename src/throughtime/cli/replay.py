"""`throughtime replay`: the step that broke a training, taken again from its bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from ..errors import LayerNotFoundError, UnsupportedError
from ..remedies import REMEDIES, Treatment
from ..remedies import treat as tried
from ..watch.keep import Bundle, Cause, Replay, read_bundle
from ..watch.keep.breaking import origin
from ..watch.keep.nested import same_form, taken_apart
from ..watch.keep.settings import versions
from .check import FAILS, show_findings
from .options import Lag, Target
from .target import called, function_of, returned
from .terminal import notes, print_json, results

__all__ = ["replay"]


@dataclass
class Again:
    """What came of taking a step again.

    Attributes:
        bundle: where it came from.
        cause: what it shows.
        same: whether its loss has the bits that it had; None where that is not known.
        said: what a reader has to know of how far it is the same step.
        treatment: the remedies that were tried; None where none fits.
    """

    bundle: Bundle
    cause: Cause
    same: bool | None
    said: list[str] = field(default_factory=list)
    treatment: Treatment | None = None

    @property
    def broken(self) -> bool:
        """Whether it breaks again, or it was its update that broke."""
        worse = any(finding.severity in FAILS for finding in self.cause.findings)
        return not self.cause.finite or worse or self.found.get("what") == "weight"

    @property
    def found(self) -> dict[str, Any]:
        """What the training said of it."""
        return self.bundle.facts.get("found") or {}


def replay(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The folder of the bundle.")],
    target: Target,
    lag: Lag = None,
    remedies: Annotated[
        bool, typer.Option(help="Whether to try the remedies that are against what is found.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Take the step again that broke a training: where it breaks, and what remedies change.

    BUNDLE is what Monitor(keep=...) wrote. FUNCTION takes no argument and returns (model, batch,
    losses), as for check and treat. The model gets the weights of the bundle, which must fit, and
    its modules the modes they had; losses(model, batch) is called with the bundle's batch, that was
    given by record(loss, batch=...), and FUNCTION's own batch only says of which classes it is.
    Where no batch was given, the model is called as it was, and gets back what its loss had sent.

    Exit code 1: the step breaks again; 0: everything is finite now.

    For example: throughtime replay broken/step-1200 train.py:build

    Raises:
        Exit: with code 1.
    """
    kept = read_bundle(bundle)
    model, batch, losses, _ = returned(function_of(target), target, 0)
    again = _again(kept, model, batch, losses, target)
    if remedies:
        again.treatment = _treated(again, model, batch, losses, lag, target)
    if as_json:
        print_json({"bundle": str(bundle), "target": target, **_plain(again)})
    else:
        _show(again)
    if again.broken:
        raise typer.Exit(1)


def _replay(kept: Bundle, model: nn.Module, batch: Any, losses: Any, target: str) -> Replay:
    def of(given: nn.Module, values: Any) -> Any:
        return called(lambda: losses(given, values), f"losses of {target}")

    given = "batch" in kept.nestings
    return Replay(kept, model, of if given else None, like=batch if given else None)


def _again(kept: Bundle, model: nn.Module, batch: Any, losses: Any, target: str) -> Again:
    cause = _replay(kept, model, batch, losses, target).cause()
    before = kept.facts.get("loss")
    now = cause.losses.reshape(-1).tolist()
    same = None
    given = "batch" in kept.nestings  # the loss of a call that is repeated was not computed again
    if given and before is not None and len(before) == len(now):
        same = [float(a).hex() for a in before] == [float(b).hex() for b in now]
    return Again(kept, cause, same, _said(kept, model, batch))


def _said(kept: Bundle, model: nn.Module, batch: Any) -> list[str]:
    """Return what a reader has to know of how far this is the same step."""
    facts, said, here = kept.facts, [], versions()
    other = [f"{n} {v} (here {here[n]})" for n, v in facts["versions"].items() if here.get(n) != v]
    if other:
        said.append(f"It was written with {', '.join(other)}, so that the last bits may differ.")
    device = facts.get("device", "cpu")
    own = next((p.device.type for p in model.parameters()), "cpu")
    if own != device:
        said.append(
            f"It was trained on {device}, and FUNCTION's model is on {own}, so that the last bits "
            "differ."
        )
    first = facts.get("weights_step", kept.step)
    if first != kept.step:
        said.append(
            f"The weights are those before step {first}: those before step {kept.step} had not "
            "been copied when its update broke them. Copy at every step: every=1."
        )
    name = "batch" if "batch" in kept.nestings else "call"
    if name in facts.get("changed", ()):
        said.append("The batch was written into after it was seen. Copy at every step: every=1.")
    for lost in facts.get("lost", {}).get(name, ()):
        said.append(f"A {lost} in the batch could not be kept; FUNCTION's own stands there.")
    if name == "call":
        sent = "what the loss had sent back" if facts.get("sent") else "the sum of what it returns"
        said.append(
            f"No batch was given with the loss, so the model's own call is repeated, with {sent}; "
            "the losses of FUNCTION are not used."
        )
    elif not same_form(kept.nestings["batch"].plan, taken_apart(batch).plan):
        said.append("FUNCTION returns a batch of another form than the bundle holds.")
    return said


def _treated(
    again: Again, model: nn.Module, batch: Any, losses: Any, lag: int | None, target: str
) -> Treatment | None:
    """Try the remedies that are against what is found; None where there is none."""
    bad = [finding for finding in again.cause.findings if finding.severity in FAILS]
    codes, fixes = {finding.code for finding in bad}, {finding.fix for finding in bad}
    names = [n for n, r in REMEDIES.items() if codes.intersection(r.against) or n in fixes]
    if not names or again.cause.flow is None:
        return None
    once = _replay(again.bundle, model, batch, losses, target)
    try:
        return tried(model, once.run, lag=lag, only=names)
    except (LayerNotFoundError, UnsupportedError) as error:
        again.said.append(f"No remedy was tried: {error}")
        return None


def _plain(again: Again) -> dict[str, Any]:
    cause, operation = again.cause, again.cause.operation
    return {
        "step": again.bundle.step,
        "found": again.found,
        "notes": again.said,
        "losses": cause.losses.reshape(-1)[:1000],
        "same_loss": again.same,
        "finite": cause.finite,
        "data": again.bundle.bad_data(),
        "operation": None if operation is None else operation._asdict(),
        "first": {name: bad.to_dict() for name, bad in cause.first.items()},
        "gradients": dict(cause.gradients),
        "findings": [finding.to_dict() for finding in cause.findings],
        "treatment": None if again.treatment is None else again.treatment.to_dict(),
    }


def _show(again: Again) -> None:
    console, cause = results(), again.cause
    if again.found:
        console.print(f"In the training: {again.found['said']}\n", markup=False)
    for note in again.said:
        notes().print(f"note: {note}", markup=False)
    console.print(_outcome(again), markup=False)
    data = again.bundle.bad_data()
    for sentence in (
        *([] if data is None else [data]),
        *origin(cause, findings=not cause.findings),
    ):
        console.print(f"  {sentence}", markup=False)
    if cause.unseen is not None:
        console.print(f"  Not followed through time: {cause.unseen}", markup=False)
    if cause.flow is not None:
        console.print()
        show_findings(list(cause.findings), cause.flow)
    if again.treatment is not None:
        console.print()
        console.print(repr(again.treatment), markup=False, soft_wrap=True)


def _outcome(again: Again) -> str:
    """Return what came of it in one sentence."""
    losses = again.cause.losses.reshape(-1).tolist()
    several = "" if len(losses) == 1 else f", the first of {len(losses)},"
    loss = f"{losses[0]:.6g}{several}"
    bits = {None: "", True: ", bit by bit as it was", False: ", which is not what it was"}
    state = "everything is finite" if again.cause.finite else "it breaks again"
    return f"Taken again: {state}; the loss is {loss}{bits[again.same]}."
