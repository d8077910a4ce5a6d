"""What every client is held to: terms that sum to autograd's gradient, a verdict, a report."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt

__all__ = ["TERMS", "client", "judged", "left_alone", "terms_sum_up"]

# In float32, of terms that add up over some thirty steps.
TERMS = 2e-4


def client(*names: str) -> ModuleType:
    """Return the last of some modules, or skip: a client warns of much that is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        why = "the client's package is not installed; `make clients` installs it"
        return [pytest.importorskip(name, reason=f"{name}: {why}") for name in names][-1]


def terms_sum_up(
    flow: tt.Flow, model: nn.Module, losses: Tensor, names: Sequence[str], by_step: bool = True
) -> None:
    """Compare weight_grad of some runs with what backward() leaves in ``.grad``.

    Args:
        flow: of the losses.
        model: whose parameters are compared.
        losses: the graph must be there still.
        names: runs of the flow; several of one layer are summed.
        by_step: whether the terms of the steps are summed too.
    """
    found: dict[str, Tensor] = {}
    for name in names:
        layer = flow[name]
        for weight in layer.weight_names:
            path = ".".join(part for part in (_module(name), _parameter(name, weight)) if part)
            total = layer.weight_grad(weight)
            found[path] = found.get(path, 0) + total
            if by_step:
                terms = [layer.weight_grad(weight, step=k) for k in range(1, layer.T + 1)]
                close(torch.stack(terms).sum(0), total, f"{path}, by step")
    wanted = [model.get_parameter(path) for path in found]
    grads = torch.autograd.grad(losses.sum(), wanted, retain_graph=True, materialize_grads=True)
    assert found
    for (path, total), grad in zip(found.items(), grads, strict=True):
        close(total, grad, path)


def close(found: Tensor, expected: Tensor, what: str) -> None:
    """Compare relative to the largest entry."""
    scale = float(expected.abs().max())
    error = float((found.reshape(expected.shape) - expected).abs().max())
    assert error <= TERMS * scale or scale == 0 == error, f"{what}: off by {error:.2e} of {scale}"


def left_alone(model: nn.Module, *paths: str) -> None:
    """Check that convert changes nothing in a model, and names what it left alone."""
    kinds = [type(part) for part in model.modules()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tt.convert(model)
    said = " ".join(str(w.message) for w in caught if w.category is tt.ConvertWarning)
    assert all(f"'{path}'" in said for path in paths), said
    assert [type(part) for part in model.modules()] == kinds


def judged(flow: tt.Flow, path: Path) -> dict[str, str]:
    """Return each run's verdict, after the table, the diagnosis and the report were made."""
    print(f"\n{flow!r}")
    diagnosis = tt.diagnose(flow)
    for name, found in diagnosis.items():
        print(f"{name}: {found.verdict.name}")
    written = tt.write_report(flow, path / "report.html", diagnosis=diagnosis)
    assert written.stat().st_size > 10_000
    return {name: found.verdict.name for name, found in diagnosis.items()}


def _module(name: str) -> str:
    """Return the path of a run's module: "policy.lstm.l0@2" is "policy.lstm"."""
    path, _, last = name.partition("@")[0].rpartition(".")
    return path if _suffix(last) else name.partition("@")[0]


def _parameter(name: str, weight: str) -> str:
    """Return a weight's name in its module: W_ih of "l0" is "weight_ih_l0"."""
    last = name.partition("@")[0].rpartition(".")[2]
    return f"{weight}_{last}" if _suffix(last) else weight


def _suffix(last: str) -> bool:
    return last[:1] == "l" and last.removesuffix("_reverse")[1:].isdigit()
