"""Segments that overlap, for losses that look ahead: exact in what is promised (eq. 5, 9)."""

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import errors
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H, C = 23, 3, 2, 4, 3  # C: how many steps a loss looks ahead
RTOL = 1e-10


class Net(nn.Module):
    def __init__(self, batch_first=False):
        super().__init__()
        torch.manual_seed(1)
        axes = {"batch_first": batch_first, "dtype": F64}
        self.lstm = tt.LSTM(I, H, num_layers=2, **axes)
        cell = tt.cells.Function(nn.GRUCell(H, H, dtype=F64), H, H)
        self.own = tt.Recurrent(cell, batch_first=batch_first)
        self.gru = nn.GRU(H, H, **axes)

    def forward(self, x):
        return self.gru(self.own(torch.tanh(self.lstm(x)[0]))[0])[0]


def source(steps=T):
    torch.manual_seed(2)
    return torch.randn(steps, B, I, dtype=F64)


def losses(output, ahead=C):
    """Give a loss for each step, of its output and those of the next steps, where there are any."""
    padded = torch.cat((output, output.new_zeros(ahead, *output.shape[1:])))
    weights = torch.arange(1, ahead + 2, dtype=F64).sqrt()
    looked = sum(w * padded[k : k + len(output)] for k, w in enumerate(weights))
    return (output * looked).pow(2).sum((1, 2))


def grads(model, loss):
    return dict(
        zip(
            [name for name, _ in model.named_parameters()],
            torch.autograd.grad(loss, list(model.parameters()), retain_graph=True),
            strict=True,
        )
    )


def same(got, want):
    for name in want:
        assert_close(got[name], want[name], rtol=RTOL, name=name)


def bounds(steps, window):
    """Give the first step of each segment, how many it owns, and how many it has."""
    first, found = 0, []
    while steps - first > window:
        found.append((first, window - C, window))
        first += window - C
    return [*found, (first, steps - first, steps - first)]


@pytest.mark.parametrize("kind", ["tensor", "list", "generator"])
@pytest.mark.parametrize("window", [4, 5, 8, T - 1, T, T + 5])
@pytest.mark.parametrize("steps", [T, 5, 4, 1])
def test_each_step_belongs_to_one_segment(window, steps, kind):
    x = torch.arange(float(steps))[:, None, None]
    given = {"tensor": x, "list": list(x.split(2)), "generator": iter(x.split([1] * steps))}[kind]
    stream = tt.stream(tt.GRU(1, H), given, window=window, overlap=C)
    found = []
    for part in stream:
        found.append((int(part[0, 0, 0]), stream.own, len(part)))
        assert torch.equal(part.flatten(), x.flatten()[found[-1][0] :][: len(part)])
        assert stream.steps == found[-1][0] + stream.own
        stream.model(part)
    assert found == bounds(steps, window) and stream.steps == steps


@pytest.mark.parametrize("window", [4, 8, T])
def test_without_detaching_the_sum_has_the_gradient_of_the_whole(window):
    x, model = source(), Net()
    want = losses(model(x))
    stream = tt.stream(model, x, window=window, overlap=C, detach=False)
    got = torch.cat([losses(model(part))[: stream.own] for part in stream])
    assert_close(got, want, rtol=RTOL)
    same(grads(model, got.sum()), grads(model, want.sum()))


@pytest.mark.parametrize("window", [4, 8, 20])
@pytest.mark.parametrize("resets", [False, True])
def test_a_detached_segment_gives_each_of_its_losses_exactly_back_to_its_first_step(window, resets):
    x, model = source(), Net()
    model.gru = tt.convert(model.gru)
    mask = torch.rand(T, B) > 0.8 if resets else None

    def run(x, states=(None, None, None), reset=None):
        """Run by hand: the output, and the states after its last step."""
        h, one = model.lstm(x, states[0], reset=reset)
        h, two = model.own(torch.tanh(h), states[1], reset=reset)
        h, three = model.gru(h, states[2], reset=reset)
        return h, (one, two, three)

    total, all_losses = None, losses(run(x, reset=mask)[0])
    for (first, own, length), part in zip(
        bounds(T, window),
        stream := tt.stream(model, x, window=window, overlap=C, reset=mask),
        strict=True,
    ):
        found = losses(model(part))[: stream.own]
        assert_close(found, all_losses[first : first + own], rtol=RTOL)
        got = grads(model, found.sum())
        # The unsegmented run, its state detached before the segment's first step.
        with stream.paused():
            before = (None, None, None)
            if first:
                with torch.no_grad():
                    before = run(x[:first], reset=None if mask is None else mask[:first])[1]
            rest = run(x[first:], before, None if mask is None else mask[first:])[0]
        want = grads(model, losses(rest)[:own].sum())
        same(got, want)
        total = got if total is None else {n: total[n] + g for n, g in got.items()}
        assert length == len(part)
    assert not model.lstm._forward_hooks and not model.lstm._forward_pre_hooks


def test_the_state_carried_is_that_before_the_steps_that_come_again():
    x, model = source(), tt.LSTM(I, H, num_layers=2, dtype=F64)
    stream = tt.stream(model, x, window=8, overlap=C)
    for part in stream:
        output, (h, _) = model(part)
        end = stream.steps - stream.own + len(part)
        with stream.paused():
            carried, last = model(x[: stream.steps])[1], model(x[:end])
        assert_close(stream.state[""][1], carried[1], rtol=RTOL)
        assert_close(output, last[0][-len(part) :], rtol=RTOL)
        assert_close(h, last[1][0], rtol=RTOL)
    assert stream.steps == T


def test_batch_first_and_without_a_batch():
    model, x = Net(batch_first=True), source().transpose(0, 1)
    stream = tt.stream(model, x, window=8, overlap=C)
    got = torch.cat([model(part)[:, : stream.own] for part in stream], 1)
    assert_close(got, model(x), rtol=RTOL)
    lone, x = tt.GRU(I, H, dtype=F64), source()[:, 0]
    stream = tt.stream(lone, x, window=8, overlap=C)
    got = torch.cat([lone(part)[0][: stream.own] for part in stream])
    assert_close(got, lone(x)[0], rtol=RTOL)


class Decoder(nn.Module):
    """A layer that is called by name, and with context."""

    def __init__(self):
        super().__init__()
        self.rnn = tt.Recurrent(tt.cells.Function(lambda x, s, W: torch.tanh(x + s @ W), H, H))
        self.W = nn.Parameter(torch.randn(H, H, dtype=F64))

    def forward(self, x):
        return self.rnn(input=x, context={"W": self.W * 2})[0]


@pytest.mark.parametrize("resets", [False, True])
def test_what_else_a_layer_is_called_with_goes_to_both_parts(resets):
    torch.manual_seed(3)
    model, x = Decoder(), torch.randn(T, B, H, dtype=F64)
    mask = torch.rand(T, B) > 0.8 if resets else None
    want = losses(model.rnn(x, context={"W": model.W * 2}, reset=mask)[0])
    stream = tt.stream(model, x, window=8, overlap=C, detach=False, reset=mask)
    got = torch.cat([losses(model(part))[: stream.own] for part in stream])
    assert_close(got, want, rtol=RTOL)
    same(grads(model, got.sum()), grads(model, want.sum()))


def test_a_layer_called_twice_and_the_users_hooks():
    x, seen = source(), []
    model = tt.GRU(H, H, dtype=F64)
    before = nn.Linear(I, H, dtype=F64)
    both = nn.Sequential(before, model)
    both.forward = lambda x: model(model(before(x))[0])[0]
    model.register_forward_hook(lambda *a: seen.append(len(a[2][0])))
    want = both(x)
    seen.clear()
    stream = tt.stream(both, x, window=9, overlap=C)
    got = torch.cat([both(part)[: stream.own] for part in stream])
    assert_close(got, want, rtol=RTOL)
    assert seen == [n for _, _, n in bounds(T, 9) for _ in range(2)], "a user's hook sees all steps"


@pytest.mark.parametrize("kind", ["tensor", "generator"])
@pytest.mark.parametrize("when", ["before the model", "after it"])
def test_a_stream_goes_on_where_it_was_saved(kind, when):
    x, model = source(), tt.GRU(I, H, dtype=F64)
    want = losses(model(x)[0])

    def stream(given):
        return tt.stream(model, given, window=8, overlap=C)

    pieces = iter(x.split(3))
    one, got = stream(x if kind == "tensor" else pieces), []
    for part in one:
        if len(got) == 1 and when == "before the model":
            saved = one.state_dict()
            break
        got.append(losses(model(part)[0])[: one.own])
        if len(got) == 2:
            saved = one.state_dict()
            break
    other = stream(x if kind == "tensor" else pieces)
    other.load_state_dict(saved)
    got += [losses(model(part)[0])[: other.own] for part in other]
    assert_close(torch.cat(got), want, rtol=RTOL)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_too():
    x, model = source(), tt.LSTM(I, H, num_layers=2, dtype=F64)
    want = losses(model(x)[0])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    stream = tt.stream(model, x, window=8, overlap=C, detach=False)
    got = torch.cat([losses(compiled(part)[0])[: stream.own] for part in stream])
    assert_close(got, want, rtol=RTOL)
    want_grads = grads(model, want.sum())
    got.sum().backward()
    same({name: p.grad for name, p in model.named_parameters()}, want_grads)


class Halved(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = tt.GRU(I, H, dtype=F64)

    def forward(self, x, **more):
        return self.rnn(x[::2], **more) if not more else self.rnn(x, **more)


def test_a_layer_that_does_not_take_every_step_is_refused():
    model = Halved()
    with pytest.raises(errors.UnsupportedError, match=r"of 8 steps .* GRU 'rnn' got 4 steps"):
        for part in tt.stream(model, source(), window=8, overlap=C):
            model(part)
    with pytest.raises(errors.UnsupportedError, match="GRU 'rnn' got lengths="):
        for part in tt.stream(model, source(), window=8, overlap=C):
            model(part, lengths=[8, 2, 3])
    assert not model.rnn._forward_hooks
    packed = nn.utils.rnn.pack_sequence([source()[:8, 0]])
    with pytest.raises(errors.UnsupportedError, match="got PackedSequence"):
        for _ in tt.stream(model.rnn, source(), window=8, overlap=C):
            model.rnn(packed)


@pytest.mark.parametrize(
    ("overlap", "window", "error"),
    [
        (-1, 8, errors.InputValueError),
        (8, 8, errors.InputValueError),
        (2, None, errors.InputValueError),
        (1.0, 8, errors.InputTypeError),
        (True, 8, errors.InputTypeError),
    ],
)
def test_an_overlap_that_cannot_be_is_refused(overlap, window, error):
    with pytest.raises(error, match="overlap"):
        tt.stream(tt.GRU(I, H), source(), window=window, overlap=overlap)
