"""The callback in a real Lightning run: killed, resumed, accumulated, in mixed precision."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from throughtime.watch import read

from .packages import package

pytestmark = pytest.mark.filterwarnings("ignore")
T, B = 20, 4


def module(pl):
    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.rnn, self.out = (
                nn.GRU(3, 8, batch_first=True, dropout=0.1, num_layers=2),
                nn.Linear(8, 1),
            )

        def training_step(self, batch, batch_idx):
            x, y = batch
            return nn.functional.mse_loss(self.out(self.rnn(x)[0]), y)

        def validation_step(self, batch, batch_idx):
            return self.training_step(batch, batch_idx)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    return Module()


def loader(count: int = 24) -> DataLoader:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, T, 3, generator=draw)
    return DataLoader(TensorDataset(x, x.sum(-1, keepdim=True)), batch_size=B)


def trainer(pl, folder: Path, epochs: int, *callbacks, **options):
    return pl.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), default_root_dir=folder, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, logger=options.pop("logger", False),
        **options,
    )  # fmt: skip


def callback(**options):
    from throughtime.watch.lightning import MonitorCallback

    return MonitorCallback(**options)


def test_training_is_the_same_and_each_step_is_measured(tmp_path):
    pl = package("lightning.pytorch")
    plain, watched = module(pl), module(pl)
    trainer(pl, tmp_path, 2).fit(plain, loader(), loader())
    monitor = callback(every=2, to=tmp_path / "run.jsonl")
    torch.manual_seed(0)
    watched = module(pl)
    trainer(pl, tmp_path, 2, monitor).fit(watched, loader(), loader())
    assert [r.step for r in monitor.history] == [0, 2, 4, 6, 8, 10]
    assert monitor.history.layers == ["rnn.l0", "rnn.l1"]
    assert [r.step for r in read(tmp_path / "run.jsonl")] == [0, 2, 4, 6, 8, 10]
    pairs = zip(plain.parameters(), watched.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_second_fit_goes_on_and_another_model_begins_anew(tmp_path):
    pl = package("lightning.pytorch")
    model, monitor = module(pl), callback(every=3, keep=tmp_path / "kept")
    trainer(pl, tmp_path, 1, monitor).fit(model, loader())
    assert [r.step for r in monitor.history] == [0, 3]
    trainer(pl, tmp_path, 2, monitor).fit(model, loader())
    assert len(monitor.history) >= 4 and monitor.monitor.keeper is not None
    trainer(pl, tmp_path, 1, monitor).fit(module(pl), loader())
    assert [r.step for r in monitor.history] == [0, 3]


def test_accumulated_gradients_are_one_step(tmp_path):
    pl = package("lightning.pytorch")
    monitor = callback(every=1)
    trainer(pl, tmp_path, 1, monitor, accumulate_grad_batches=3).fit(module(pl), loader())
    assert [r.step for r in monitor.history] == [0, 1]


def test_mixed_precision_and_the_trainers_own_logger(tmp_path):
    pl = package("lightning.pytorch")
    package("tensorboard")
    logger = package("lightning.pytorch.loggers").TensorBoardLogger(tmp_path)
    monitor = callback(every=2)
    trainer(pl, tmp_path, 1, monitor, precision="bf16-mixed", logger=logger).fit(
        module(pl), loader()
    )
    assert len(monitor.history) == 3
    accumulators = package("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(logger.log_dir)
    events.Reload()
    assert [s.step for s in events.Scalars("throughtime/rnn.l0/horizon")] == [0, 2, 4]
    assert events.Images("throughtime/rnn.l0/gradient by lag")


def test_a_run_that_is_killed_and_resumed_keeps_its_history_whole(tmp_path):
    """Two epochs of six steps; the process is killed in the second and goes on from the first."""
    pl = package("lightning.pytorch")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "integrations.test_lightning", str(tmp_path)],
        cwd=Path(__file__).resolve().parent.parent,
    )
    marker, until = tmp_path / "second", time.monotonic() + 120
    while not marker.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert marker.exists()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with open(tmp_path / "run.jsonl", "ab") as lines:
        lines.write(b'{"version": 1, "step": 9')  # as if it had been cut in the middle of a line
    monitor = callback(every=1, to=tmp_path / "run.jsonl")
    (checkpoint,) = tmp_path.glob("kept/*.ckpt")
    trainer(pl, tmp_path, 2, monitor).fit(module(pl), loader(), ckpt_path=checkpoint)
    assert [r.step for r in monitor.history] == list(range(12))
    written = read(tmp_path / "run.jsonl")
    assert [r.step for r in written] == list(range(12)) and written.skipped == 1
    for kept, found in zip(monitor.history, written, strict=True):
        assert kept.values == pytest.approx(found.values, nan_ok=True)


def main(folder: Path) -> None:
    """Train as the child that is killed: it waits in the second epoch."""
    pl = package("lightning.pytorch")

    class Wait(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1 and batch_idx == 3:
                (folder / "second").touch()
                time.sleep(60)

    checkpoints = package("lightning.pytorch.callbacks").ModelCheckpoint(folder / "kept")
    monitor = callback(every=1, to=folder / "run.jsonl")
    trainer(pl, folder, 2, monitor, checkpoints, Wait()).fit(module(pl), loader())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
