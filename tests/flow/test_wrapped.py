"""Models as they are wrapped: subclasses, torch.compile, checkpointing, autocast, DDP, FSDP2."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.utils.checkpoint import checkpoint

import throughtime as tt
from throughtime import errors
from throughtime.testing import assert_close

T, B, I, H = 7, 3, 2, 4


class Model(nn.Module):
    def __init__(self, kind: type[nn.Module] = nn.LSTM) -> None:
        super().__init__()
        self.rnn, self.out = kind(I, H), nn.Linear(H, 1)

    def forward(self, x):
        return self.out(self.rnn(x)[0])


def per_step(y):
    return y.pow(2).sum((1, 2))


def flow_of(model, x, run=None):
    with tt.trace(model) as trace:
        losses = per_step((run or model)(x))
    return trace.flow(losses)


def same(flow, expected, name="rnn.l0", rtol=1e-5):
    (layer,) = flow.values()
    other = expected[name]
    assert_close(layer.norms, other.norms, rtol=rtol)
    assert_close(layer.weight_grad("weight_hh"), other.weight_grad("weight_hh"), rtol=rtol)


class Scaled(nn.LSTM):
    def forward(self, input, hx=None):
        output, state = super().forward(2 * input, hx)
        return output + 1, state


class Direct(nn.GRU):
    def forward(self, input, hx=None):
        return nn.GRU.forward(self, input, hx)


def test_a_subclass_is_followed_through_super():
    model = Model(Scaled)
    x = torch.randn(T, B, I)
    flow = flow_of(model, x)
    assert list(flow) == ["rnn.l0"] and type(model.rnn) is Scaled
    per_step(model(x)).sum().backward()
    assert_close(flow["rnn.l0"].weight_grad("weight_hh"), model.rnn.weight_hh_l0.grad, rtol=1e-5)


def test_a_subclass_that_goes_past_super_is_named_as_skipped():
    model = nn.ModuleDict({"a": Direct(I, H), "b": nn.GRU(I, H)})
    x = torch.randn(T, B, I)
    with tt.trace(model) as trace:
        losses = per_step(model["a"](x)[0] + model["b"](x)[0])
    flow = trace.flow(losses)
    assert list(flow) == ["b.l0"]
    assert "a" in flow.skipped and "super().forward" in flow.skipped["a"]


def test_modules_that_look_recurrent_are_named_as_skipped():
    class OwnCell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift = nn.Linear(I + H, H)

        def forward(self, x, hidden):
            return torch.tanh(self.lift(torch.cat((x, hidden), -1)))

    model = nn.ModuleDict({"rnn": nn.GRU(I, H), "cell": OwnCell(), "out": nn.Linear(H, 1)})
    x = torch.randn(T, B, I)
    with tt.trace(model) as trace:
        h = torch.zeros(B, H)
        for x_t in x:
            h = model["cell"](x_t, h)
        losses = per_step(model["rnn"](x)[0] + h)
    flow = trace.flow(losses)
    assert list(flow.skipped) == ["cell"] and "steps=" in flow.skipped["cell"]
    with tt.trace(model, steps=[OwnCell]) as trace:
        losses = per_step(model["rnn"](x)[0])
    assert not trace.flow(losses).skipped


@pytest.mark.parametrize("convert", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_compiled_model_is_traced_as_it_is(convert, whole):
    model, x = Model(), torch.randn(T, B, I)
    if convert:
        tt.convert(model)
    expected = flow_of(model, x)
    if whole:
        compiled = torch.compile(model, backend="eager")
        per_step(compiled(x)).sum().backward()
        same(flow_of(compiled, x), expected)
    else:
        model.compile(backend="eager")
        per_step(model(x)).sum().backward()
        same(flow_of(model, x), expected)
    torch.compiler.reset()


def test_non_reentrant_checkpointing_is_traced():
    model, x = Model(), torch.randn(T, B, I)
    expected = flow_of(model, x)
    same(flow_of(model, x, lambda x: checkpoint(model, x, use_reentrant=False)), expected)
    loss = per_step(checkpoint(model, x, use_reentrant=False)).sum()
    loss.backward()
    assert_close(
        expected["rnn.l0"].weight_grad("weight_hh"), model.rnn.weight_hh_l0.grad, rtol=1e-5
    )


def test_reentrant_checkpointing_is_refused_in_one_sentence():
    model, x = Model(), torch.randn(T, B, I, requires_grad=True)
    with pytest.raises(errors.UnsupportedError, match="use_reentrant=False"), tt.trace(model):
        checkpoint(model, x, use_reentrant=True)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_autocast(kind):
    model, x = Model(kind), torch.randn(T, B, I)
    expected = flow_of(model, x)

    def run(x):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float()

    same(flow_of(model, x, run), expected, rtol=5e-2)


def test_a_cell_loop_under_autocast_says_what_its_own_graph_says():
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(I, H)

        def forward(self, x):
            h, said = torch.zeros(B, H), []
            for x_t in x:
                h = self.cell(x_t, h)
                said.append(h)
            return torch.stack(said)

    model, x = Loop(), torch.randn(T, B, I)
    with tt.trace(model) as trace, torch.autocast("cpu", torch.bfloat16):
        losses = per_step(model(x).float())
    layer = trace.flow(losses)["cell"]
    with tt.trace(model) as trace:
        losses = per_step(model(x))
    assert_close(
        layer.norms[:, 1:], trace.flow(losses)["cell"].norms[:, 1:].to(layer.norms), rtol=0.1
    )


@pytest.fixture
def one_process(tmp_path):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    dist.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


def test_distributed_data_parallel(one_process):
    model, x = Model(), torch.randn(T, B, I)
    expected = flow_of(model, x)
    wrapped = nn.parallel.DistributedDataParallel(model)
    same(flow_of(wrapped, x), expected)
    per_step(wrapped(x)).sum().backward()  # and it still trains


def test_fully_sharded_data_parallel(one_process):
    fully_shard = pytest.importorskip("torch.distributed.fsdp").fully_shard
    model, x = Model(), torch.randn(T, B, I)
    expected = flow_of(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mesh = dist.init_device_mesh("cpu", (1,))
        fully_shard(model.rnn, mesh=mesh)
        fully_shard(model, mesh=mesh)
        found = flow_of(model, x)
        same(found, expected)


def test_inference_mode_is_named():
    model = Model()
    with tt.trace(model) as trace, torch.inference_mode():
        losses = per_step(model(torch.randn(T, B, I)))
    with pytest.raises(errors.GraphError, match="inference_mode"):
        trace.flow(losses)


def test_a_row_that_pauses_between_two_calls_has_no_lag_there():
    """An encoder's packed batch, and a decoder of the same layer that goes on from it."""
    model = nn.LSTM(2, 4, batch_first=True)
    x, y, lengths = torch.randn(2, 5, 2), torch.randn(2, 3, 2), torch.tensor([5, 3])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    with tt.trace(model) as trace:
        out, _ = model(y, model(packed)[1])
    layer = trace.flow(out.pow(2).sum((0, 2)))["l0"]
    for row, length in enumerate(lengths.tolist()):
        with tt.trace(model) as trace:
            out, _ = model(y[row : row + 1], model(x[row : row + 1, :length])[1])
        alone = trace.flow(out.pow(2).sum((0, 2)))["l0"]
        found = layer.row_profiles()[:, row]
        assert_close(found[: length + 4], alone.lag_profile(), rtol=1e-5)
        assert bool(found[length + 4 :].isnan().all())
