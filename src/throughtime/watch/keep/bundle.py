"""A bundle: what is needed to take one step of a training again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import BundleError
from ...flow.nonfinite import all_finite
from .nested import Nesting, places
from .randomness import Randomness

__all__ = ["Bundle", "named_tensors"]


@dataclass(frozen=True)
class Bundle:
    """One step of a training, and what broke in it.

    Attributes:
        step: its number.
        weights: parameters and buffers by name, as they were before it.
        randomness: what it drew from.
        nestings: "batch", what the user gave with the loss; "call", what the model was called
            with ("args", "named"), the loss, and what it sent back ("sent"). Either may be absent.
        facts: plain data: "found", "history", "settings", "versions", and whatever else is told.
    """

    step: int
    weights: Mapping[str, Tensor]
    randomness: Randomness
    nestings: Mapping[str, Nesting] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def bad_data(self) -> str | None:
        """Return where the batch itself is not finite, in a sentence; None where it is.

        Example:
            >>> from throughtime.watch.keep.nested import taken_apart
            >>> batch = {"batch": taken_apart([torch.tensor([1.0, torch.nan])])}
            >>> Bundle(1, {}, Randomness.now(), batch).bad_data()
            'The batch itself holds NaN: batch[0] at [1].'
        """
        name = next((name for name in ("batch", "call") if name in self.nestings), None)
        if name is None:
            return None
        nesting, title = self.nestings[name], name if name == "batch" else ""
        for path, number in places(nesting.plan, title):
            tensor = nesting.tensors[number]
            if path.startswith(("['sent']", "['loss']")) or all_finite(tensor):
                continue
            bad = (~tensor.isfinite()).nonzero()
            number = tensor[tuple(bad[0].tolist())]
            kind = "NaN" if bool(number.isnan()) else "inf"
            more = f", the first of {len(bad)} entries" if len(bad) > 1 else ""
            path = path.replace("['args']", "argument ").replace("['named']", "argument ")
            return f"The batch itself holds {kind}: {path} at {bad[0].tolist()}{more}."
        return None

    def load(self, model: nn.Module) -> None:
        """Put the weights into a model, all or none, and its modules into the modes they had.

        Args:
            model: one of the same names and shapes.

        Raises:
            BundleError: it has other names, shapes or dtypes.
        """
        own = named_tensors(model)
        missing, extra = sorted(self.weights.keys() - own.keys()), sorted(own.keys() - self.weights)
        if missing or extra:
            what = f"no {missing[0]!r}" if missing else f"{extra[0]!r} beside what is kept"
            raise BundleError(
                f"the weights of step {self.step} are of another model: this one has {what}. "
                "FUNCTION must build the model that was trained."
            )
        for name, tensor in own.items():
            kept = self.weights[name]
            if kept.shape != tensor.shape or kept.dtype != tensor.dtype:
                raise BundleError(
                    f"the weights of step {self.step} are of another model: {name} is "
                    f"{_form(tensor)} here and {_form(kept)} there."
                )
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(self.weights[name])
        resting = set(self.facts.get("resting", ()))
        for path, module in model.named_modules():
            module.training = path not in resting


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; what is tied has each of its names.

    Args:
        model: any module.
    """
    found = dict(model.named_parameters(remove_duplicate=False))
    return {**found, **dict(model.named_buffers(remove_duplicate=False))}


def _form(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
