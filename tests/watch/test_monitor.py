"""A monitor measures what a trace measures, changes nothing, holds nothing and stops nothing."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import (
    FileError,
    GraphError,
    InputTypeError,
    InputValueError,
    LayerNotFoundError,
)
from throughtime.watch.quantities import QUANTITIES

from .models import B, H, I, Model, T, batches, train


class Trifle:
    """Something that a weak reference may point to."""


def graph(tensor: torch.Tensor) -> weakref.ref:
    """Return what is alive as long as the graph behind a tensor is."""
    assert tensor.grad_fn is not None
    tensor.grad_fn.metadata["held"] = trifle = Trifle()
    return weakref.ref(trifle)


def fresh(make=Model):
    torch.manual_seed(0)
    return make()


@pytest.mark.parametrize(
    "make",
    [
        Model,
        lambda: Model(tt.GRU(I, H, 2, dropout=0.3)),
    ],
    ids=["nn", "tt"],
)
def test_losses_weights_and_random_state_are_the_same_to_the_bit(make, tmp_path):
    plain = train(fresh(make), None, 5)
    model = fresh(make)
    watched = train(model, tt.Monitor(model, every=2, to=tmp_path / "run.jsonl", lag=5), 5)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_the_numbers_are_those_of_a_whole_trace():
    """Where all is followed, each number is what the flow of the summed loss says."""
    model, (x, y) = fresh(), next(batches(1))
    model.eval()
    monitor = tt.Monitor(model, sample=None, lag=4)
    with monitor:
        losses = (model(x) - y).pow(2).mean((1, 2))
    monitor.record(losses)
    with tt.trace(model) as trace:
        loss = (model(x) - y).pow(2).mean((1, 2)).sum()
    flow, (record,) = trace.flow(loss), monitor.history
    for name, layer in flow.items():
        got = {q: record.values[f"throughtime/{name}/{q}"] for q in QUANTITIES}
        profile = layer.lag_profile().double()
        assert got["horizon"] == layer.horizon()
        assert got["norm"] == pytest.approx(float(layer.total_norms[1:].norm()), rel=1e-4)
        assert got["beyond_lag"] == pytest.approx(
            float(profile[4:].sum() / profile.sum()), rel=1e-3
        )
        assert 0 < got["growth"] < 1 and 0 < got["coverage"] <= 1 and 0 <= got["saturated"] <= 1
        assert record.profile[name] == pytest.approx(layer.lag_profile().tolist(), rel=1e-3)
    assert {f.code for f in record.findings} == {f.code for f in tt.examine(flow, lag=4)}


def test_random_numbers_that_a_measurement_draws_are_put_back(monkeypatch):
    plain, model = train(fresh(), None, 2), fresh()
    monkeypatch.setattr("throughtime.watch.monitor.found_in", lambda *a, **k: torch.rand(3)[:0])
    watched = train(model, tt.Monitor(model, every=1), 2)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


@pytest.mark.parametrize("g", [0.5, 1.0, 1.1])
def test_growth_is_the_factor_a_step_of_a_linear_layer(g):
    """In s_t = g·Q s_{t-1} + x_t every step back multiplies the norm by g (eq. 4)."""
    model = tt.RNN(4, 4, nonlinearity="identity", bias=False)
    with torch.no_grad():
        nn.init.orthogonal_(model.weight_hh_l0).mul_(g)
    monitor = tt.Monitor(model, lag=10)
    with monitor:
        loss = model(torch.randn(20, 3, 4))[0][-1].sum()
    monitor.record(loss)
    values = monitor.history[0].values
    assert values["throughtime/l0/growth"] == pytest.approx(g, rel=1e-4)
    share = sum(g**k for k in range(10, 21)) / sum(g**k for k in range(21))
    assert values["throughtime/l0/beyond_lag"] == pytest.approx(share, rel=1e-3)


def test_one_step_of_so_many_is_measured_and_the_others_cost_nothing():
    model = fresh()
    monitor = tt.Monitor(model, every=3)
    train(model, monitor, 7)
    assert [record.step for record in monitor.history] == [0, 3, 6]
    assert monitor.step == 7


def test_a_count_that_skips_numbers_is_measured_where_it_is_due():
    model, monitor = fresh(), tt.Monitor(fresh(), every=10)
    monitor = tt.Monitor(model, every=10)
    for step in (0, 3, 9, 12, 15, 20):
        monitor.step = step
        with monitor:
            loss = model(torch.randn(T, B, I)).sum()
        monitor.record(loss)
    assert [record.step for record in monitor.history] == [0, 12, 20]


@pytest.mark.parametrize("before", [True, False], ids=["outside", "inside"])
def test_gradients_are_accumulated_over_several_records_of_one_step(before):
    plain, model = fresh(), fresh()
    plain.eval()
    model.eval()
    said = []
    monitor = tt.Monitor(model, every=1, to=said.append)
    pieces = list(batches(3))
    for x, y in pieces:
        (plain(x) - y).pow(2).mean().backward()
    if before:
        with monitor:
            losses = [(model(x) - y).pow(2).mean() for x, y in pieces]
        for loss in losses:
            monitor.record(loss)
            loss.backward()
    else:
        with monitor:
            for x, y in pieces:
                loss = (model(x) - y).pow(2).mean()
                monitor.record(loss)
                loss.backward()
    assert len(said) == 1
    assert all(
        torch.equal(a.grad, b.grad)
        for a, b in zip(plain.parameters(), model.parameters(), strict=True)
    )


def test_nothing_of_a_step_is_held_after_record():
    model, monitor = fresh(), tt.Monitor(fresh())
    monitor = tt.Monitor(model, every=1)
    for x, y in batches(2):  # what is made once and kept is made now
        with monitor:
            loss = (model(x) - y).pow(2).mean()
        monitor.record(loss)
        loss.backward()
    gc.collect()
    gc.disable()
    try:
        with monitor:
            h = model(x)
            loss = (h - y).pow(2).mean()
        refs = [weakref.ref(h), weakref.ref(loss), graph(h)]
        monitor.record(loss)
        loss.backward()
        del h, loss
        assert [ref() for ref in refs] == [None] * 3
    finally:
        gc.enable()


def tensors() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


def test_memory_does_not_grow():
    model, x = nn.GRU(2, 3), torch.randn(4, 2, 2)
    monitor = tt.Monitor(model, every=1)

    def steps(count: int) -> int:
        for _ in range(count):
            with monitor:
                loss = model(x)[0].sum()
            monitor.record(loss)
            loss.backward()
        return tensors()

    assert steps(5) == steps(40)


def test_a_step_without_record_and_one_that_raises_are_let_go():
    model = fresh()
    monitor = tt.Monitor(model, every=1)
    with monitor:
        h = model(torch.randn(T, B, I))
    ref = graph(h)
    del h
    with pytest.raises(RuntimeError, match="mine"), monitor:
        model(torch.randn(T, B, I))
        raise RuntimeError("mine")
    gc.collect()
    assert ref() is None
    assert "forward" not in vars(model.rnn)
    with pytest.raises(GraphError, match="without a step"):
        monitor.record(torch.zeros(()))
    with monitor:
        loss = model(torch.randn(T, B, I)).sum()
    monitor.record(loss)
    assert [record.step for record in monitor.history] == [2]


def test_a_training_that_never_records_is_told():
    model = fresh()
    monitor = tt.Monitor(model, every=1)
    with pytest.warns(tt.MonitorWarning, match=r"call record\(loss\) before backward"):
        for x, _ in batches(4):
            with monitor:
                model(x)


def test_evaluation_in_between_and_inside_is_not_measured():
    model = fresh()
    monitor = tt.Monitor(model, every=1)
    with monitor:
        with torch.no_grad():
            model(torch.randn(5, B, I))
        loss = model(torch.randn(T, B, I)).sum()
    with torch.no_grad():
        model.eval()(torch.randn(7, B, I))
    monitor.record(loss)
    assert len(monitor.history[0].profile["rnn.l0"]) == T + 1


def test_several_monitors_of_one_model_and_of_its_parts():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.decoder = nn.GRU(I, H), nn.GRU(H, H)

        def forward(self, x):
            return self.decoder(self.encoder(x)[0])[0]

    model = Two()
    whole, same = tt.Monitor(model), tt.Monitor(model, lag=3)
    with whole, same:
        loss = model(torch.randn(T, B, I)).pow(2).mean()
    whole.record(loss)
    same.record(loss)
    loss.backward()
    assert whole.history.layers == same.history.layers == ["encoder.l0", "decoder.l0"]
    encoder, decoder = tt.Monitor(model.encoder), tt.Monitor(model.decoder)
    with encoder, decoder:
        loss = model(torch.randn(T, B, I)).pow(2).mean()
    encoder.record(loss)
    decoder.record(loss)
    assert encoder.history.layers == decoder.history.layers == ["l0"]
    assert not whole.history[0].values.keys() & encoder.history[0].values.keys()


def test_a_loop_over_cells_and_marks_are_followed():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.GRUCell(I, H), nn.Linear(H, 1)

        def forward(self, x):
            h, said = torch.zeros(B, H), []
            for x_t in x:
                h = self.cell(x_t, h)
                said.append(self.out(tt.mark("h", h)))
            return torch.stack(said)

    model = Loop()
    monitor = tt.Monitor(model)
    with monitor:
        loss = model(torch.randn(12, B, I)).pow(2).mean()
    monitor.record(loss)
    loss.backward()
    assert monitor.history.layers == ["cell", "h"]
    assert monitor.history[0].values["throughtime/cell/horizon"] > 0


def test_both_directions_have_a_name_each():
    model = nn.GRU(I, H, bidirectional=True)
    monitor = tt.Monitor(model)
    with monitor:
        loss = model(torch.randn(T, B, I))[0].pow(2).mean()
    monitor.record(loss)
    assert monitor.history.layers == ["l0", "l0_reverse"]


def test_a_compiled_model_is_measured_by_its_own_names():
    model = fresh()
    compiled = torch.compile(model, backend="eager")
    monitor = tt.Monitor(compiled, every=2)
    for x, y in batches(3):
        with monitor:
            loss = (compiled(x) - y).pow(2).mean()
        monitor.record(loss)
        loss.backward()
    assert monitor.history.layers == ["rnn.l0", "rnn.l1"] and len(monitor.history) == 2


def test_numbers_that_are_not_finite_are_null_and_found():
    model, (x, y) = fresh(), next(batches(1))
    x[5, 1, 0] = torch.nan
    said = []
    monitor = tt.Monitor(model, to=said.append, alarm=print)
    with monitor:
        loss = (model(x) - y).pow(2).mean()
    monitor.record(loss)
    (record,) = said
    assert record["values"]["throughtime/rnn.l0/horizon"] is None
    assert record["findings"][0]["code"] == "input-nonfinite"


def test_what_is_wrong_is_said_in_one_sentence(tmp_path):
    model = fresh()
    with pytest.raises(InputValueError, match=r"^every must be at least 1; got 0\.$"):
        tt.Monitor(model, every=0)
    with pytest.raises(InputTypeError, match=r"^every must be an integer; got 1\.5\.$"):
        tt.Monitor(model, every=1.5)
    with pytest.raises(InputValueError, match=r"^lag must be at least 1; got -1\.$"):
        tt.Monitor(model, lag=-1)
    with pytest.raises(InputTypeError, match=r"^model must be an nn\.Module; got str\.$"):
        tt.Monitor("model")
    with pytest.raises(InputTypeError, match=r"^alarm must be a function; got str\.$"):
        tt.Monitor(model, alarm="me")
    with pytest.raises(InputTypeError, match=r"^sample must be a .*Sample or None; got int\.$"):
        tt.Monitor(model, sample=3)
    with pytest.raises(InputTypeError, match=r"^steps must be modules.*; got 3\.$"):
        tt.Monitor(model, steps=3)
    with pytest.raises(FileError, match=r"^to='' names no file"):
        tt.Monitor(model, to="")
    monitor = tt.Monitor(model)
    with pytest.raises(GraphError, match="without a step"):
        monitor.record(torch.zeros(()))
    with pytest.raises(
        InputTypeError, match=r"^the loss must be a floating-point tensor; got float"
    ):
        with monitor:
            model(torch.randn(T, B, I))
        monitor.record(0.5)
    for loss in (torch.zeros((), requires_grad=True), torch.zeros(())):
        monitor = tt.Monitor(model)
        with monitor:
            model(torch.randn(T, B, I))
        with pytest.raises(GraphError, match="do not depend on any traced layer"):
            monitor.record(loss)
    with (
        pytest.raises(LayerNotFoundError, match="holds nothing recurrent"),
        tt.Monitor(nn.Linear(2, 2)),
    ):
        pass
    with pytest.raises(InputValueError, match="nothing has been measured yet"):
        monitor.figure()


def test_what_fails_later_is_warned_of_once_and_stops_nothing():
    plain = train(fresh(), None, 4)
    model = fresh()
    monitor = tt.Monitor(model, every=1, to=lambda record: {}["no such"], alarm=lambda alarm: 1 / 0)
    monitor._alarms.load_state_dict([("vanishes", "warning", "rnn.l0", "")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched = train(model, monitor, 4)
        with monitor:
            model(torch.randn(T, B, I))
        monitor.record(torch.zeros((), requires_grad=True))  # not of the model
    said = [str(w.message) for w in caught if w.category is tt.MonitorWarning]
    assert len(said) == 3
    assert "the function given as to= failed at step 0: KeyError: 'no such'" in said[0]
    assert "the alarm failed at step 0: ZeroDivisionError" in said[1]
    assert "step 4 was not measured: GraphError" in said[2]
    assert all(w.filename == __file__ or w.filename.endswith("models.py") for w in caught)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_a_monitor_goes_on_from_a_checkpoint_as_if_it_had_never_stopped():
    model = fresh()
    through = tt.Monitor(model, every=2)
    train(model, through, 8)
    model = fresh()
    first = tt.Monitor(model, every=2)
    train(model, first, 5)
    second = tt.Monitor(model, every=2)
    second.load_state_dict(first.state_dict())
    train(model, second, 8, skip=5)
    assert [r.step for r in second.history] == [r.step for r in through.history] == [0, 2, 4, 6]
    with pytest.raises(InputValueError, match="has version 1; got 2"):
        second.load_state_dict({"version": 2})
    with pytest.raises(InputValueError, match="has 'alarms'; this one has not"):
        second.load_state_dict({"version": 1, "step": 3, "next": 4, "history": []})


def test_steps_that_are_counted_anew_are_measured_anew():
    model = fresh()
    monitor = tt.Monitor(model, every=3)
    train(model, monitor, 8)
    monitor.step = 1
    train(model, monitor, 4)
    assert [r.step for r in monitor.history] == [0, 3] and monitor.step == 5


def test_a_loss_function_records_what_it_returns():
    model = fresh()
    monitor = tt.Monitor(model, every=1)
    loss_of = monitor.recording(nn.functional.mse_loss)
    x, y = next(batches(1))
    with torch.no_grad():
        loss_of(model(x), y)  # an evaluation
    with monitor:
        loss = loss_of(model(x), target=y)
    loss.backward()
    assert len(monitor.history) == 1


def test_only_the_first_process_writes(monkeypatch):
    model, said = fresh(), []
    monitor = tt.Monitor(model, to=said.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    train(model, monitor, 1)
    assert len(monitor.history) == 1 and not said
