"""The line to paste for a finding, with the layer's own name.

A fix that changes a layer is a call of `throughtime.remedies`; how it is written stands here, and
its row in the table of remedies takes it from here. What changes the data, the numbers or the
training is written out, and so is what a finding without a fix asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from ..flow import LayerView
from .finding import Finding

__all__ = ["CALLS", "expression", "line"]

SUFFIX = re.compile(r"(?:^|\.)l\d+(?:_reverse)?$")

# How a remedy is called, of a module's expression and a lag; where no more has to be known.
CALLS: dict[str, Callable[[str, int], str]] = {
    "chrono": lambda at, lag: f"chrono_({at}, longest={max(3, lag)})",
    "gated-cell": lambda at, lag: f"gated({at}, longest={max(3, lag)})",
    "orthogonal": lambda at, lag: f"orthogonal_({at})",
    "uniform-gates": lambda at, lag: f"uniform_gates_({at})",
    "refine-gates": lambda at, lag: f"refined({at})",
    "identity-relu": lambda at, lag: f"identity_relu_({at})",
    "forget-bias": lambda at, lag: f"forget_bias_({at}, 1.0)",
    "layernorm-cell": lambda at, lag: f"layer_normed({at})",
}
# Of these, those that return another module in the place of the one that they are given.
REPLACES = frozenset({"gated-cell", "refine-gates", "layernorm-cell"})


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
        "    x, lengths, batch_first=True, enforce_sorted=False)\n"
        "# lengths: the steps of each row; batch_first as your layer has it"
    ),
    "dtype": "model, x = model.double(), x.double()  # or float32 instead of half",
}
# A cell in a loop takes no packed rows.
LAST_OF_EACH = (
    "rows = torch.arange(len(lengths))  # lengths: the steps of each row\n"
    "last = output[rows, lengths - 1]  # output: (batch, time, features)"
)
EACH_END = (
    "H = output.shape[-1] // 2  # with batch_first\n"
    "last = torch.cat((output[:, -1, :H], output[:, 0, H:]), -1)"
)
# Names the operation whose derivative is inf or NaN.
WHICH_OPERATION = (
    "with torch.autograd.detect_anomaly():  # names the operation\n"
    "    loss_of(model(x)).backward()  # your forward pass and your loss"
)
ZERO_BIASES = (
    "with torch.no_grad():  # once, before training\n"
    "    for p in {at}.parameters():\n"
    "        if p.dim() == 1:  # a bias\n"
    "            p.zero_()"
)
# By the code of a finding, where no remedy is named.
BY_CODE: dict[str, str] = {
    "input-nonfinite": 'assert torch.isfinite(x).all(), "inf or NaN in the data"',
    "weight-nonfinite": (
        "norm = tt.remedies.clip_gradient_(model.parameters(), most=1.0)\n"
        'if norm < float("inf"):  # not after inf or NaN\n'
        "    optimizer.step()"
    ),
    "loss-gradient-nonfinite": WHICH_OPERATION,
    "derivative-nonfinite": WHICH_OPERATION,
    "reverse-reads-one-step": EACH_END,
    "reads-one-step": "last = output[:, -1]  # with batch_first; else output[-1]",
    "rows-without-gradient": (
        "print(x.shape)  # (time, batch, features); with batch_first=True,\n"
        "# (batch, time, features)"
    ),
    "initial-state-nonfinite": "state = None  # begin from zeros again",
    "state-on-old-graph": (
        "# between two batches\n"
        "one = torch.is_tensor(state)\n"
        "state = state.detach() if one else tuple(s.detach() for s in state)"
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
    if fix == "lengths" and not any(map(_is_layer, layers)):
        return LAST_OF_EACH
    if fix in OF_MODEL:
        return OF_MODEL[fix]
    if finding.code == "reads-one-step" and any(f"{name}_reverse" in flow for name in layers):
        return EACH_END
    if finding.code == "saturated" and _by_bias(finding):
        return "\n".join(ZERO_BIASES.format(at=at) for at in _modules(flow, layers))
    if fix is None or fix not in CALLS:
        return BY_CODE.get(finding.code, "")
    return _of_layers(fix, flow, layers, lag)


def _is_layer(name: str) -> bool:
    """Check whether a name is that of a whole layer, and not of a cell in a loop."""
    return SUFFIX.search(name.partition("@")[0]) is not None


def _of_layers(
    fix: str, flow: Mapping[str, LayerView], layers: tuple[str, ...], lag: int | None
) -> str:
    """Return a line for each module; a marked loop has none, and several layers may share one."""
    modules = _modules(flow, layers)
    if not modules:
        return ""
    lines = [
        f"{at} = " * (fix in REPLACES) + f"tt.remedies.{CALLS[fix](at, lag or max(T - 1, 3))}"
        for at, T in modules.items()
    ]
    asks = lag is None and "longest=" in lines[0]
    said = ["# longest: how many steps back your task needs"] if asks else []
    return "\n".join([*said, *lines])


def _modules(flow: Mapping[str, LayerView], layers: tuple[str, ...]) -> dict[str, int]:
    """Return how the modules of some layers are written, and how many steps they take."""
    return {
        expression(flow[name].name): flow[name].T
        for name in layers
        if name in flow and flow[name].cell is not None
    }


def _by_bias(finding: Finding) -> bool:
    """Check whether the biases hold the units where they are, as `saturated` says."""
    return finding.fix is None and any(
        one.quantity.endswith("whose bias alone does it") and one.value > 0.5
        for one in finding.evidence
    )
