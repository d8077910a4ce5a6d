"""Ignite's handler, Accelerate's loop, and DistributedDataParallel."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import throughtime as tt
from watch.models import H, I, Model, batches

from .packages import package

pytestmark = pytest.mark.filterwarnings("ignore")


def fresh() -> Model:
    torch.manual_seed(0)
    return Model()


def test_ignite_measures_what_its_trainer_runs(tmp_path):
    engines = package("ignite.engine")
    from throughtime.watch.ignite import MonitorHandler

    def trained(handler: bool):
        model = fresh()
        optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.05), nn.functional.mse_loss
        watch = MonitorHandler(model, every=2) if handler else None
        if watch is not None:
            loss = watch.recording(loss)
        trainer = engines.create_supervised_trainer(model, optimizer, loss)
        evaluator = engines.create_supervised_evaluator(model)
        if watch is not None:
            watch.attach(trainer)
        seen: list[float] = []
        trainer.add_event_handler(
            engines.Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.output)
        )
        trainer.add_event_handler(
            engines.Events.ITERATION_COMPLETED, lambda: evaluator.run(list(batches(1)))
        )
        trainer.run(list(batches(5)))
        return seen, watch

    plain, _ = trained(False)
    watched, handler = trained(True)
    assert plain == watched
    assert [r.step for r in handler.monitor.history] == [0, 2, 4]
    other = MonitorHandler(fresh())
    other.load_state_dict(handler.state_dict())
    assert len(other.monitor.history) == 3


def test_accelerate_accumulates_and_is_measured(tmp_path):
    accelerate = package("accelerate")
    package("accelerate.state").AcceleratorState._reset_state(True)  # another test had one
    package("accelerate.state").GradientState._reset_state()
    accelerator = accelerate.Accelerator(
        cpu=True, gradient_accumulation_steps=2, mixed_precision="bf16"
    )
    model = Model(nn.GRU(I, H, 2, dropout=0.3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    xs, ys = zip(*batches(6), strict=True)
    data = DataLoader(TensorDataset(torch.stack(xs), torch.stack(ys)), batch_size=None)
    model, optimizer, data = accelerator.prepare(model, optimizer, data)
    said: list[dict] = []
    monitor = tt.Monitor(model, every=2, to=[said.append, accelerator])
    for x, y in data:
        with accelerator.accumulate(model):
            with monitor:
                loss = nn.functional.mse_loss(model(x), y)
            monitor.record(loss)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
    assert [record["step"] for record in said] == [0, 2, 4]
    assert monitor.history.layers == ["rnn.l0", "rnn.l1"]


def test_a_distributed_model_trains_the_same_and_has_its_own_names(tmp_path):
    distributed = torch.distributed
    if not distributed.is_available():
        pytest.skip("this torch was built without torch.distributed")
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    try:
        found = []
        for watched in (False, True):
            model = nn.parallel.DistributedDataParallel(fresh())
            monitor = tt.Monitor(model, every=2)
            for x, y in batches(3):
                if watched:
                    with monitor:
                        loss = nn.functional.mse_loss(model(x), y)
                    monitor.record(loss)
                else:
                    loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
            found.append([p.grad for p in model.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        assert monitor.history.layers == ["rnn.l0", "rnn.l1"]
    finally:
        distributed.destroy_process_group()
