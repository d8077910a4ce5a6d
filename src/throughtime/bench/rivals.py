"""What `throughtime bench` compares with besides torch.nn, where it is installed: JAX, FlashRNN.

Neither is imported before it is measured, and none gets a speed before its gradients agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckError

__all__ = ["RIVALS", "Rival", "absent", "agree", "hold_threads", "rival_note"]

TOLERANCE = 1e-3


class Rival(NamedTuple):
    """A training step of another library.

    Attributes:
        run: one step: forward, backward, every gradient.
        gradients: what the last step gave, by torch.nn's names, and ``input``.
    """

    run: Callable[[], object]
    gradients: Callable[[], dict[str, Tensor]]


def absent(kind: str) -> str:
    """Return why this machine has no such comparison; nothing where it has.

    Args:
        kind: "jax" or "flashrnn", which are the packages' names too.
    """
    if find_spec(kind) is None:
        return f"{kind} is not installed; 'pip install {kind}' brings it"
    try:
        import_module(kind)
    except Exception as error:
        return f"{kind} cannot be imported here: {type(error).__name__}: {error}"
    return ""


def hold_threads(threads: int) -> None:
    """Let JAX have as many threads as torch; it reads this once, when it is first used."""
    os.environ["PJRT_NPROC"] = str(threads)


def rival_note(kind: str) -> str:
    """Describe what a reader has to know of the other side, after it has run."""
    if kind == "flashrnn":
        return (
            f"FlashRNN {version(kind)}. The input product is torch's; for the LSTM "
            "`vanilla_fwbw`, the faster of its two backends in torch, and `vanilla` for the "
            "others, which have no other one."
        )
    pool = _pool()
    counted = f", {pool} threads as counted in the process" if pool else ""
    return (
        f"JAX {version(kind)}: `jax.jit` of the vector-Jacobian product of `lax.scan`, the input "
        "product hoisted, without unrolling, which gains at some shapes and loses at others. It "
        f"has a thread pool of its own{counted}. A turn of either side lasts 30 ms or more, so "
        "that the other's threads have gone to sleep by its end."
    )


def _pool() -> int:
    """Count the threads that XLA computes with; 0 where that cannot be seen."""
    try:
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    except OSError:
        return 0
    return sum("XLAEigen" in name for name in names)


def agree(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Compare gradients term by term, each relative to its own norm.

    Args:
        ours: by torch.nn's names.
        theirs: the same terms.

    Raises:
        CheckError: a term is missing, not finite, or further away than float32 explains.
    """
    for name, gradient in ours.items():
        if name not in theirs or theirs[name].shape != gradient.shape:
            raise CheckError(f"{name}: the other side gives no such gradient")
        away = float((theirs[name] - gradient).norm() / gradient.norm())
        if not away <= TOLERANCE:
            raise CheckError(f"{name}: the gradients are {away:.2g} of their norm apart")


# --- JAX -------------------------------------------------------------------------------------


def _jax_step(layer: str, W: Any, b: Any) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return one step over what lax.scan carries; W is W_h transposed."""
    import jax  # pyright: ignore[reportMissingImports]
    from jax import numpy as jnp  # pyright: ignore[reportMissingImports]

    sigmoid = jax.nn.sigmoid

    def elman(h: Any, drive: Any) -> tuple[Any, Any]:
        h = jnp.tanh(drive + h @ W)
        return h, h

    def gru(h: Any, drive: Any) -> tuple[Any, Any]:
        (rx, zx, nx), (rh, zh, nh) = jnp.split(drive, 3, -1), jnp.split(h @ W + b, 3, -1)
        r, z = sigmoid(rx + rh), sigmoid(zx + zh)
        n = jnp.tanh(nx + r * nh)
        h = n + z * (h - n)
        return h, h

    def lstm(state: Any, drive: Any) -> tuple[Any, Any]:
        h, c = state
        i, f, g, o = jnp.split(drive + h @ W, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * jnp.tanh(g)
        h = sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return {"RNN": elman, "GRU": gru, "LSTM": lstm}[layer]


def jax_scan(layer: str, weights: Mapping[str, Tensor], x: Tensor, g: Tensor) -> Rival:
    """Return the step of a jitted scan over the same weights, input and cotangent."""
    import jax  # pyright: ignore[reportMissingImports]
    from jax import numpy as jnp  # pyright: ignore[reportMissingImports]

    def outputs(weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, x: Any) -> Any:
        drive = x @ weight_ih.T + bias_ih
        if layer != "GRU":
            drive = drive + bias_hh
        h = jnp.zeros((x.shape[1], weight_hh.shape[1]), x.dtype)
        start = (h, h) if layer == "LSTM" else h
        return jax.lax.scan(_jax_step(layer, weight_hh.T, bias_hh), start, drive)[1]

    @jax.jit
    def gradients(g: Any, *arguments: Any) -> Any:
        # Only the gradients come out: the kindest reading, as no output has to be written for us.
        return jax.vjp(outputs, *arguments)[1](g)

    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    arrays = [jnp.asarray(t.detach().numpy()) for t in (g, *(weights[n] for n in names), x)]
    last: list[Any] = []

    def run() -> None:
        last[:] = jax.block_until_ready(gradients(*arrays))

    return Rival(
        run,
        lambda: {
            n: torch.from_numpy(np.array(v)) for n, v in zip((*names, "input"), last, strict=True)
        },
    )


# --- FlashRNN --------------------------------------------------------------------------------


def flashrnn_torch(
    layer: str, weights: Mapping[str, Tensor], x: Tensor, g: Tensor, backend: str | None = None
) -> Rival:
    """Return the step of FlashRNN over the same weights, input and cotangent.

    Args:
        layer: "RNN", "GRU" or "LSTM".
        weights: by torch.nn's names, without the layer's number.
        x: inputs (T, B, I).
        g: what arrives at the outputs, (T, B, H).
        backend: one of FlashRNN's; None: its fastest in torch.
    """
    from flashrnn import FlashRNNConfig, flashrnn  # pyright: ignore[reportMissingImports]

    (T, B, _), H = x.shape, g.shape[2]
    # Its GRU takes the hidden side of n first, and keeps a bias for either side of n alone.
    order = {"RNN": [0], "GRU": [2, 0, 1], "LSTM": [0, 1, 2, 3]}[layer]
    b_x, b_h = (weights[n].detach().view(-1, 1, H) for n in ("bias_ih", "bias_hh"))
    both = b_x + b_h
    R = weights["weight_hh"].detach().view(-1, 1, H, H)[order].clone().requires_grad_()
    b = torch.cat((b_h[2:], both[:2], b_x[2:])) if layer == "GRU" else both
    W, b = weights["weight_ih"].detach().clone().requires_grad_(), b.requires_grad_()
    own = x.detach().clone().requires_grad_()
    config = FlashRNNConfig(
        backend=backend or ("vanilla_fwbw" if layer == "LSTM" else "vanilla"),
        function={"RNN": "elman", "GRU": "gru", "LSTM": "lstm"}[layer],
        dtype=str(x.dtype).removeprefix("torch."), num_heads=1, head_dim=H, batch_size=B,
        input_shape="TBGHD", output_shape="STBHD",
    )  # fmt: skip

    def run() -> None:
        for leaf in (W, R, b, own):
            leaf.grad = None
        drive = (own @ W.T).view(T, B, len(order), 1, H)
        flashrnn(drive, R, b, config=config)[0][0].reshape(T, B, H).backward(g)

    def gradients() -> dict[str, Tensor]:
        leaves = (W.grad, R.grad, b.grad, own.grad)
        dW, dR, db, dx = (leaf for leaf in leaves if leaf is not None)
        back = [order.index(gate) for gate in range(len(order))]
        db_h, db_x = (db[:3][back], db[1:]) if layer == "GRU" else (db, db)
        return {
            "weight_ih": dW, "weight_hh": dR[back].reshape(-1, H), "input": dx,
            "bias_ih": db_x.flatten(), "bias_hh": db_h.flatten(),
        }  # fmt: skip

    return Rival(run, gradients)


RIVALS = {"jax": jax_scan, "flashrnn": flashrnn_torch}
