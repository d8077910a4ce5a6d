"""Segments whose state is carried equal the whole (eq. 5, 9); no loop leaves a trace behind."""

from __future__ import annotations

import gc
import io
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import throughtime as tt
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H = 11, 3, 2, 4


class Net(nn.Module):
    """An embedding of the input, recurrent layers of three kinds, and a readout."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = tt.LSTM(I, H, num_layers=2, dtype=F64)
        self.gru = tt.GRU(H, H, dtype=F64)
        self.own = tt.Recurrent(tt.cells.Elman(H, H, dtype=F64))
        self.readout = nn.Linear(H, 2, dtype=F64)

    def forward(self, x):
        h = self.gru(torch.tanh(self.lstm(x)[0]))[0]
        return self.readout(self.own(h)[0])


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def data(steps=T, rows=B):
    torch.manual_seed(2)
    return torch.randn(steps, rows, I, dtype=F64), torch.randn(steps, rows, 2, dtype=F64)


def error(output, y):
    return (output - y).pow(2).sum()


def grads(model):
    return {name: p.grad for name, p in model.named_parameters()}


def same(got, want, rtol=1e-12):
    assert got.keys() == want.keys()
    for name in want:
        assert_close(got[name], want[name], rtol=rtol, name=name)


def untouched(model):
    return all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


def whole(x, y, **arguments):
    """Give the gradients of one call on the whole sequence, by hand where there are resets."""
    model = net()
    if not arguments:
        error(model(x), y).backward()
        return grads(model)
    h = model.gru(torch.tanh(model.lstm(x, **arguments)[0]), **arguments)[0]
    error(model.readout(model.own(h, **arguments)[0]), y).backward()
    return grads(model)


def pieces_of(tensors, lengths):
    return zip(*(t.split(lengths) for t in tensors), strict=True)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    cuts=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 20),
    kind=st.sampled_from(("tensor", "list", "generator")),
    resets=st.booleans(),
)
def test_segments_without_detaching_give_the_gradient_of_the_whole(cuts, window, kind, resets):
    steps = sum(cuts)
    x, y = data(steps)
    mask = torch.rand(steps, B, generator=torch.Generator().manual_seed(3)) > 0.7
    parts = (x, y, mask)
    source = parts if kind == "tensor" else list(pieces_of(parts, cuts))
    source = iter(source) if kind == "generator" else source
    model = net()
    stream = tt.stream(model, source, window=window, detach=False, reset=2 if resets else None)
    outputs = [(model(x_part), y_part) for x_part, y_part, _ in stream]
    lengths = [len(output) for output, _ in outputs]
    assert sum(lengths) == steps and stream.steps == steps
    if window:
        assert all(n == window for n in lengths[:-1]) and lengths[-1] <= window
    elif kind != "tensor":
        assert lengths == cuts
    sum(error(output, y_part) for output, y_part in outputs).backward()
    same(grads(model), whole(x, y, **({"reset": mask} if resets else {})))
    assert untouched(model)


def test_detached_segments_give_the_gradient_of_the_steps_within_each():
    x, y = data()
    model, by_hand = net(), tt.set_through(net(), tt.Truncated(4))
    for x_part, y_part in tt.stream(model, (x, y), window=4):
        error(model(x_part), y_part).backward()
    # In one layer that is Truncated; through several the lower ones are cut at the same steps.
    error(by_hand(x), y).backward()
    same(grads(model), grads(by_hand))


def test_a_user_carries_hx_by_hand():
    x, y = data()
    one, other = tt.LSTM(I, 2, dtype=F64), tt.LSTM(I, 2, dtype=F64)
    other.load_state_dict(one.state_dict())
    hx, total = None, 0
    for x_part, y_part in tt.segments((x, y), 4):
        output, hx = one(x_part, hx)
        total = total + error(output, y_part)
    total.backward()
    error(other(x)[0], y).backward()
    same(grads(one), grads(other))


def test_batch_first_masks_and_targets_are_cut_on_the_second_axis():
    x, y = data()
    mask = torch.rand(T, B) > 0.7
    model = tt.GRU(I, 2, batch_first=True, dtype=F64)
    want, _ = model(x.transpose(0, 1), reset=mask)
    turned = {"x": x.transpose(0, 1), "y": y.transpose(0, 1)}
    stream = tt.stream(model, turned, window=4, reset=mask.t(), batch_first=True)
    got = []
    for part in stream:
        assert part["y"].shape[1] == part["x"].shape[1] <= 4
        got.append(model(part["x"])[0])
    assert_close(torch.cat(got, 1), want, rtol=1e-12)


@pytest.mark.parametrize("convert", [False, True])
def test_layers_of_torch_are_carried_too(convert):
    x, _ = data()
    model = nn.LSTM(I, H, num_layers=2, dtype=F64)
    want, (h, c) = model(x)
    model = tt.convert(model) if convert else model
    stream = tt.stream(model, x, window=3)
    assert_close(torch.cat([model(part)[0] for part in stream]), want, rtol=1e-11)
    assert_close(stream.state[""][0], h, rtol=1e-11)
    assert_close(stream.state[""][1], c, rtol=1e-11)
    assert not stream.state[""][0].requires_grad


def test_sequences_without_a_batch_and_steps_of_length_one():
    x = torch.randn(5, I, dtype=F64)
    model = tt.GRU(I, H, dtype=F64)
    got = [model(part)[0] for part in tt.stream(model, x, window=1)]
    assert_close(torch.cat(got), model(x)[0], rtol=1e-12)


def test_every_call_on_a_segment_begins_from_its_beginning_and_the_last_is_carried():
    x, _ = data()
    model = net()
    want = model(x)
    got = []
    for part in tt.stream(model, x, window=4):
        for _ in range(3):
            output = model(part)
        got.append(output)
    assert_close(torch.cat(got), want, rtol=1e-12)


def test_a_layer_that_runs_twice_in_a_call_has_two_states():
    class Siamese(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = tt.GRU(I, H, dtype=F64)

        def forward(self, x):
            return self.layer(x)[0], self.layer(-x)[0]

    model, (x, _) = Siamese(), data()
    got = []
    stream = tt.stream(model, x, window=4)
    for part in stream:
        got.append(model(part))
    for one, want in zip(zip(*got, strict=True), model(x), strict=True):
        assert_close(torch.cat(one), want, rtol=1e-12)
    assert list(stream.state) == ["layer", "layer@2"]


def test_a_trace_within_the_loop_and_one_around_it():
    x, y = data()
    model = tt.GRU(I, 2, dtype=F64)
    want = model(x)[0]
    for part, target in tt.stream(model, (x, y), window=5):
        with tt.trace(model) as trace:
            output = model(part)[0]
        flow = trace.flow((output - target).pow(2).sum((1, 2)))
    assert_close(output, want[-1:], rtol=1e-12)
    assert flow["l0"].T == 1
    assert_close(flow["l0"].tape.s[0], model(x[:-1])[1][0], rtol=1e-12)
    with tt.trace(model) as trace:
        outputs = [model(part)[0] for part in tt.stream(model, x, window=5, detach=False)]
    flow = trace.flow(torch.cat(outputs).pow(2).sum((1, 2)))
    assert list(flow) == ["l0"] and len(x) == flow["l0"].T and flow["l0"].cuts == ()
    assert flow["l0"].norms[-1, 0].count_nonzero() > 0
    assert untouched(model) and "forward" not in model.__dict__


def test_other_data_are_looked_at_while_the_stream_is_paused():
    x, _ = data()
    model = net()
    want, other = model(x), model(x[:2, :1])
    got = []
    stream = tt.stream(model, x, window=4)
    for part in stream:
        with stream.paused():
            assert untouched(model)
            assert_close(model(x[:2, :1]), other, rtol=1e-12)
        got.append(model(part))
    assert_close(torch.cat(got), want, rtol=1e-12)


# --- saved and restored -------------------------------------------------------------------------


def saved_and_loaded(content):
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    at=st.integers(0, 2),
    kind=st.sampled_from(("tensor", "list", "generator")),
    before_the_model=st.booleans(),
)
def test_a_stream_saved_midway_goes_on_as_if_nothing_had_been(at, kind, before_the_model):
    x, y = data()
    model = net()
    want = model(x)
    source = (x, y) if kind == "tensor" else list(pieces_of((x, y), [2, 7, 1, 1]))
    source = iter(source) if kind == "generator" else source
    got, content = [], None
    stream = tt.stream(model, source, window=3)
    for i, (part, _) in enumerate(stream):
        if i < at or not before_the_model:
            got.append(model(part))
        if i == at:
            content = saved_and_loaded(stream.state_dict())
            break
    assert content is not None
    again = tt.stream(model, source, window=3)
    again.load_state_dict(content)
    got += [model(part) for part, _ in again]
    assert_close(torch.cat(got), want, rtol=1e-12)


def test_a_loop_goes_on_after_a_break_and_begins_anew_after_the_end():
    x, _ = data()
    model = net()
    want = model(x)
    stream, got = tt.stream(model, x, window=4), []
    for part in stream:
        got.append(model(part))
        break
    assert untouched(model)
    got += [model(part) for part in stream]
    assert_close(torch.cat(got), want, rtol=1e-12)
    assert_close(torch.cat([model(part) for part in stream]), want, rtol=1e-12)


# --- whatever ends a loop -----------------------------------------------------------------------


def test_a_break_an_error_in_the_body_and_one_in_the_source_leave_the_model_as_it_was():
    x, _ = data()
    model = net()
    want = model(x)
    kept = tt.stream(model, x, window=4)
    for part in kept:
        model(part)
        break
    assert untouched(model)

    def body():
        for part in tt.stream(model, x, window=4):
            model(part)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        body()
    assert caught.tb is not None and untouched(model)

    def source():
        yield x[:4]
        assert untouched(model), "the source sees the model as it is"
        raise OSError("the line broke")

    stream = tt.stream(model, source(), window=4)
    with pytest.raises(OSError, match="the line broke"):
        for part in stream:
            model(part)
    assert untouched(model)
    assert_close(stream.state["gru"], net().gru(torch.tanh(net().lstm(x[:4])[0]))[1], rtol=1e-12)
    assert_close(model(x), want, rtol=0)


class Kept:
    """What a graph saved."""

    def __init__(self, tensor) -> None:
        self.tensor = tensor


@pytest.mark.parametrize("detach", [True, False])
def test_the_graph_of_a_segment_is_freed_with_it_where_the_state_is_detached(detach):
    x, _ = data(40)
    model, saved, alive = tt.LSTM(I, H, num_layers=2, dtype=F64), weakref.WeakSet(), []

    def keep(tensor):
        kept = Kept(tensor)
        saved.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        for part in tt.stream(model, x, window=4, detach=detach):
            gc.collect()
            alive.append(len(saved))
            model(part)
    assert (max(alive) == 0) == detach


def test_an_endless_generator_is_asked_for_no_more_than_is_needed():
    asked = []

    def endless():
        while True:
            asked.append(len(asked))
            yield torch.zeros(3, B, I, dtype=F64)

    model = net()
    for i, part in enumerate(tt.stream(model, endless(), window=4)):
        model(part)
        assert len(asked) == -(-4 * (i + 1) // 3)
        if i == 5:
            break


# --- bad input ----------------------------------------------------------------------------------

X = torch.zeros(T, B, I, dtype=F64)
MASK = torch.zeros(T, B, dtype=torch.bool)


def run(source, model=None, **options):
    model = model or net()
    try:
        for part in tt.stream(model, source, **{"window": 4, **options}):
            model(part[0] if isinstance(part, tuple) else part)
    finally:
        assert untouched(model)


BAD = {
    "window 0": (lambda: run(X, window=0), ValueError, "window must be at least 1"),
    "window 2.0": (lambda: run(X, window=2.0), TypeError, "window must be an integer"),
    "detach": (lambda: run(X, detach=3), TypeError, "detach must be"),
    "no module": (lambda: tt.stream(lambda x: x, X), TypeError, "model must be"),
    "no layer": (lambda: run(X, nn.Linear(2, 2)), LookupError, "no recurrent layer"),
    "a number": (lambda: run(3), TypeError, "source must be"),
    "numbers": (lambda: run([1, 2]), TypeError, "must be a tensor"),
    "a packed sequence": (
        lambda: run([nn.utils.rnn.pack_sequence([X[:, 0]])]),
        TypeError,
        "PackedSequence",
    ),
    "no step": (lambda: run(X[:0]), ValueError, "T >= 1"),
    "lengths differ": (lambda: run((X, X[1:])), ValueError, "T=10, 11"),
    "no time axis": (lambda: run(X[0, 0, 0]), ValueError, "must be"),
    "pieces differ": (lambda: run([X, (X, X)], window=20), TypeError, "built alike"),
    "pieces of other rows": (lambda: run([X, X[:, :2]], window=20), ValueError, "same shape"),
    "another batch size": (
        lambda: run([X, X[:, :2]], window=None),
        ValueError,
        r"LSTM 'lstm' has B=3 but this segment has B=2",
    ),
    "no batch": (lambda: run([X, X[:, 0]], window=None), ValueError, "no batch axis"),
    "mask too short": (lambda: run(X, reset=MASK[1:]), ValueError, "T=10, 11"),
    "mask of other rows": (lambda: run(X, reset=MASK[:, :2]), ValueError, "mask must be"),
    "mask (1, T)": (
        lambda: run(
            X.transpose(0, 1), tt.GRU(I, H, batch_first=True), batch_first=True, reset=MASK.t()[:1]
        ),
        ValueError,
        r"\(B, T\) as what it is cut with, \(3, 11\); got \(1, 11\)",
    ),
    "mask in pieces": (
        lambda: run([(X, MASK[:, :2])], reset=1),
        ValueError,
        r"\(T, B\) as what it is cut with",
    ),
    "reset=True": (lambda: run(X, reset=True), TypeError, "key or position; got True"),
    "an array": (lambda: run(X.numpy()), TypeError, "got ndarray"),
    "mask of floats": (lambda: run(X, reset=MASK.double()), TypeError, "must be bool"),
    "mask of one axis": (lambda: run(X, reset=MASK[:, 0]), ValueError, "row axis"),
    "mask beside pieces": (lambda: run([X], reset=MASK), ValueError, "mask into every piece"),
    "mask is not there": (lambda: run((X, MASK), reset=5), ValueError, "names no part"),
    "mask of torch's layers": (
        lambda: run(X, nn.GRU(I, H), reset=MASK),
        NotImplementedError,
        "tt.convert",
    ),
    "a reverse direction": (
        lambda: run(X, tt.GRU(I, H, bidirectional=True)),
        NotImplementedError,
        "bidirectional",
    ),
    "a cell in a loop": (
        lambda: run(X, nn.Sequential(nn.LSTMCell(I, H))),
        NotImplementedError,
        "cannot be seen",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_clear_error(case):
    bad, kind, message = BAD[case]
    with pytest.raises(tt.errors.ThroughTimeError, match=message) as caught:
        bad()
    assert isinstance(caught.value, kind)


def test_a_state_that_the_model_passes_itself_is_refused():
    model = tt.GRU(I, H, dtype=F64)
    for part in tt.stream(model, X, window=4):
        with pytest.raises(tt.errors.InputValueError, match="called with hx="):
            model(part, torch.zeros(1, B, H, dtype=F64))


def test_a_model_that_goes_past_the_layers_hooks_is_refused():
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = tt.GRU(I, H, dtype=F64)

        def forward(self, x):
            return self.layer.forward(x)[0]

    with pytest.raises(tt.errors.UnsupportedError, match="called as a module"):
        run(X, Past())


def test_a_generator_is_not_gone_through_twice_nor_one_stream_in_two_loops():
    model = net()
    stream = tt.stream(model, iter([X]), window=None)
    for part in stream:
        model(part)
        with pytest.raises(tt.errors.InputValueError, match="already"):
            next(iter(stream))
        with pytest.raises(tt.errors.InputValueError, match="before the loop"):
            stream.load_state_dict(stream.state_dict())
        model(part)
    with pytest.raises(tt.errors.InputValueError, match="generator"):
        next(iter(stream))


def test_a_state_of_another_model_is_not_loaded():
    model = net()
    stream = tt.stream(model, X, window=4)
    name = "lstm"
    h = torch.zeros(1, 3, H, dtype=X.dtype)
    states = [h, (h,), (h, h[..., 1:]), (h[0], h[0]), (h.float(), h.float()), (h, None)]
    wrong = [{"steps": 4, "state": {name: state}, "rest": []} for state in states]
    for bad in (None, {}, {"steps": 4, "state": {"encoder": X[0]}, "rest": []}, *wrong):
        with pytest.raises(tt.errors.CheckpointError, match="Nothing was loaded"):
            stream.load_state_dict(bad)
    assert stream.steps == 0 and not stream.state
