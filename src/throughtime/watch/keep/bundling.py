"""From a step that broke to its bundle: taken again on a copy, told, written."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...errors import ThroughTimeError
from ...remedies.base import copied
from ..surroundings import processes, unwrapped
from .breaking import Break
from .bundle import Bundle
from .moment import Moment, resting
from .nested import Nesting, lost, put_together, taken_apart
from .replaying import Cause, Replay
from .settings import settings_now
from .stored import write_bundle

if TYPE_CHECKING:
    from .keeper import Keeper

__all__ = ["broke"]


def broke(
    keeper: Keeper, moment: Moment, what: str, names: tuple[str, ...]
) -> tuple[Break, Path | None, str]:
    """Take a broken step again, write its bundle, and return what is known.

    Args:
        keeper: who watched.
        moment: the step.
        what: "loss", "gradient" or "weight".
        names: of the parameters that are not finite, or whose gradient is not.

    Returns:
        What broke, the bundle's path or None, and the text of the warning.
    """
    bundle = _bundle(keeper, moment)
    cause, unseen = _cause(keeper, moment, bundle)
    facts = dict(bundle.facts)
    loss = None if moment.loss is None else float(moment.loss.sum())
    broken = Break(
        moment.step,
        what,
        loss,
        names,
        bundle.bad_data(),
        moment.loss_node,
        moment.operation,
        cause,
        unseen,
        facts["history"],
        keeper.start,
        facts["optimizer"],
        processes(),
    )
    facts["found"] = broken.to_dict()
    said = str(broken)
    try:
        path = write_bundle(replace(bundle, facts=facts), _free(keeper.folder, moment.step))
    except ThroughTimeError as error:
        return broken, None, f"{said} No bundle was written: {error}"
    return broken, path, f"{said} Take it again: throughtime replay {path} FILE.py:FUNCTION"


def _bundle(keeper: Keeper, moment: Moment) -> Bundle:
    """Return the step as a bundle in memory."""
    nestings = dict(moment.seen)
    if "call" in nestings:
        nestings["call"] = _with_sent(moment)
    rows = [*keeper.history]
    rows.append([moment.step, *(moment.sizes.get(k) for k in ("loss", "gradient", "weight"))])
    optimizer = None if keeper.optimizer is None else keeper.optimizer()
    known: dict[str, Any] = {} if optimizer is None else {"name": type(optimizer).__name__}
    if optimizer is not None:
        known["rates"] = [float(group.get("lr", "nan")) for group in optimizer.param_groups]
    facts: dict[str, Any] = {
        "loss": None if moment.loss is None else moment.loss.reshape(-1).tolist(),
        "history": [list(row) for row in rows],
        "optimizer": known,
        "settings": {**settings_now(), "autocast": moment.autocast},
        "device": next((p.device.type for p in keeper.model.parameters()), "cpu"),
        "resting": resting(unwrapped(keeper.model)),
        "weights_step": moment.step if _exact(moment) else keeper.weights.step,
        "calls": moment.calls,
        "sent": bool(moment.sent),
        "changed": [name for name in moment.seen if moment.changed(name)],
        "lost": {name: lost(nesting.plan) for name, nesting in moment.seen.items()},
    }
    prefix = "" if unwrapped(keeper.model) is keeper.model else _prefix(keeper.model)
    own = not (moment.copied or moment.stepped)
    kept = keeper.weights.kept(moment.buffers, own)
    weights = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
    return Bundle(moment.step, weights, moment.randomness, nestings, facts)


def _exact(moment: Moment) -> bool:
    """Check whether the weights that this step began with are known."""
    return moment.copied or not moment.stepped


def _with_sent(moment: Moment) -> Nesting:
    """Return the model's call with what the loss sent back, as one nesting."""
    call = put_together(*moment.seen["call"])
    sent = [moment.sent.get(i) for i in range(max(moment.sent, default=-1) + 1)]
    loss = torch.zeros(()) if moment.loss is None else moment.loss.sum()
    return taken_apart({**call, "sent": sent, "loss": loss})


def _cause(keeper: Keeper, moment: Moment, bundle: Bundle) -> tuple[Cause | None, str | None]:
    """Take the step again on a copy; return what it shows, or else why it was not taken again."""
    why = _obstacle(keeper, moment)
    if why is not None:
        return None, why
    try:
        model = copied(unwrapped(keeper.model))
        cause = Replay(bundle, model, steps=keeper.steps).cause()
        return replace(cause, flow=None), None  # it holds the copy, and all that ran in it
    except Exception as error:  # whatever the model's own code raises here
        return None, f"{type(error).__name__}: {error}".splitlines()[0]


def _obstacle(keeper: Keeper, moment: Moment) -> str | None:
    """Return why a step cannot be taken again here and now, in a sentence, or None."""
    given = "batch" in moment.seen
    do = (
        "throughtime replay does it, by your own function for the losses."
        if given
        else "give the batch, record(loss, batch=batch), and replay it by your own function."
    )
    if moment.calls != 1:
        times = "not called as a whole" if not moment.calls else f"called {moment.calls} times"
        return f"the model was {times} in this step; {do}"
    if moment.changed("call"):
        return "what the model was called with was written into since; keep every step, every=1."
    if any(hasattr(p, "to_local") for p in keeper.model.parameters()):
        return "the weights are spread over several processes."
    return None


def _prefix(model: nn.Module) -> str:
    """Return the path of that model inside of its wrapper, with its last point."""
    inner = unwrapped(model)
    return next(f"{path}." for path, module in model.named_modules() if module is inner)


def _free(folder: Path, step: int) -> Path:
    """Return a name that no bundle has yet."""
    rank = os.environ.get("RANK", "0")
    own = f"step-{step}" + (f"-rank-{rank}" if rank != "0" else "")
    number = 1
    while (path := folder / (own + (f"-{number}" if number > 1 else ""))).exists():
        number += 1
    return path
