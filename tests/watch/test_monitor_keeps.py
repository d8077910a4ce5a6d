"""`Monitor(keep=)`: the first step that is not finite is kept, measured or not."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import KeepWarning
from throughtime.watch.keep import read_bundle

from .models import I, Model, batches


def fit(model: nn.Module, monitor: tt.Monitor | None, broken: int) -> list[torch.Tensor]:
    """Train over seven batches, one of which has an inf in its target, and return the losses."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for step, (x, y) in enumerate(batches(7)):
        if step == broken:
            y[4, 2] = torch.inf
        if monitor is None:
            loss = (model(x) - y).pow(2).mean()
        else:
            with monitor:
                loss = (model(x) - y).pow(2).mean()
            monitor.record(loss, batch=(x, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("broken", [4, 5], ids=["a measured step", "another one"])
def test_the_step_that_breaks_is_kept_once_and_the_training_is_unchanged(broken, tmp_path):
    torch.manual_seed(0)
    model = Model()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    monitor = tt.Monitor(model, every=4, keep=tmp_path / "kept", lag=5)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        watched = fit(model, monitor, broken)
        monitor.close()
    kept = [warning for warning in said if warning.category is KeepWarning]
    assert len(kept) == 1 and f"step {broken}" in str(kept[0].message)
    assert monitor.keeper is not None and monitor.keeper.broken is not None
    assert monitor.keeper.broken.what == "loss"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [f"step-{broken}"]
    assert read_bundle(tmp_path / "kept" / f"step-{broken}").step == broken
    model.load_state_dict(start)
    plain = fit(model, None, broken)
    assert all(torch.equal(a, b) or a.isnan() for a, b in zip(plain, watched, strict=True))


def test_a_sound_training_leaves_nothing(tmp_path):
    monitor = tt.Monitor(model := Model(tt.GRU(I, 12)), keep=tmp_path / "kept")
    fit(model, monitor, broken=-1)
    monitor.close()
    assert monitor.keeper is not None and monitor.keeper.broken is None
    assert not (tmp_path / "kept").exists()


def test_keep_must_be_a_path():
    with pytest.raises(tt.errors.InputTypeError, match="folder's path"):
        tt.Monitor(Model(), keep=3)  # pyright: ignore[reportArgumentType]
