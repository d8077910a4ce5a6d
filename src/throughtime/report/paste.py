"""The line to paste for a finding, with the layer's own name.

A fix that changes a layer has its line in the table of remedies. What changes the data, the numbers
or the training is written here, and so is what a finding without a fix asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from ..diagnosis import Finding
from ..flow import LayerView
from ..remedies import REMEDIES

__all__ = ["expression", "line"]

SUFFIX = re.compile(r"(?:^|\.)l\d+(?:_reverse)?$")


def expression(name: str) -> str:
    """Return how the module of a layer is written.

    Args:
        name: the layer's own name.

    Example:
        >>> expression("encoder.0.rnn.l1_reverse"), expression("l0@2")
        ('model.encoder[0].rnn', 'model')
    """
    path = SUFFIX.sub("", name.partition("@")[0])
    written = "model"
    for part in path.split(".") if path else ():
        if part.isdigit():
            written += f"[{part}]"
        else:
            written += f".{part}" if part.isidentifier() else f"[{part!r}]"
    return written


# These change the data, the numbers or the training.
OF_MODEL: dict[str, str] = {
    "clip": (
        "# at each update, between loss.backward() and optimizer.step()\n"
        "tt.remedies.clip_gradient_(model.parameters(), most=1.0)"
    ),
    "standardise": (
        "mean, std = x_train.mean((0, 1)), x_train.std((0, 1))\n"
        "x = (x - mean) / std.clamp(min=1e-6)"
    ),
    "lengths": (
        "packed = torch.nn.utils.rnn.pack_padded_sequence(\n"
        "    x, lengths, enforce_sorted=False)  # lengths: the steps of each row; batch_first=…"
    ),
    "dtype": "model, x = model.double(), x.double()  # or at least float32 instead of half",
}
# By the code of a finding, where no remedy is named.
BY_CODE: dict[str, str] = {
    "input-nonfinite": 'assert torch.isfinite(x).all(), "inf or NaN in the data"',
    "reverse-reads-one-step": (
        "H = output.shape[-1] // 2  # with batch_first\n"
        "last = torch.cat((output[:, -1, :H], output[:, 0, H:]), -1)"
    ),
    "rows-without-gradient": (
        "print(x.shape)  # (time, batch, features); with batch_first=True the batch comes first"
    ),
    "initial-state-nonfinite": "state = None  # begin from zeros again",
    "state-on-old-graph": (
        "# between two batches\n"
        "state = state.detach() if torch.is_tensor(state) else tuple(s.detach() for s in state)"
    ),
}


def line(
    finding: Finding,
    flow: Mapping[str, LayerView],
    layers: tuple[str, ...],
    lag: int | None = None,
) -> str:
    """Return what to paste; an empty string where that cannot be said in a line.

    Args:
        finding: what is wrong.
        flow: the layers.
        layers: those in which it was found.
        lag: how many steps back the task needs, where that is known.
    """
    fix = finding.fix
    if finding.code == "explodes" and fix == "orthogonal":
        return f"# once, before training\n{_of_layers(fix, flow, layers, lag)}\n{OF_MODEL['clip']}"
    if fix in OF_MODEL:
        return OF_MODEL[fix]
    if fix is None or REMEDIES[fix].call is None:
        return BY_CODE.get(finding.code, "")
    return _of_layers(fix, flow, layers, lag)


def _of_layers(
    fix: str, flow: Mapping[str, LayerView], layers: tuple[str, ...], lag: int | None
) -> str:
    """Return a line for each module; a marked loop has none, and several layers may share one."""
    modules = {
        expression(flow[name].name): flow[name]
        for name in layers
        if name in flow and flow[name].cell is not None
    }
    if not modules:
        return ""
    lines = [
        REMEDIES[fix].line(module, lag or max(layer.T - 1, 3), "tt.remedies.")
        for module, layer in modules.items()
    ]
    asks = lag is None and "longest=" in lines[0]
    said = ["# longest: how many steps back your task needs"] if asks else []
    return "\n".join([*said, *lines])
