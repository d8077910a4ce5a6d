"""Truncated is the exact sum restricted to its lags (eq. 5); Checkpointed is exact."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import throughtime as tt
from throughtime import kernels
from throughtime.testing import assert_close

F64 = torch.float64
KINDS = ("RNN", "GRU", "LSTM")


def layer(kind, **options):
    torch.manual_seed(0)
    if kind != "Function":
        return getattr(tt, kind)(3, 4, dtype=F64, **options)
    weights = {"W": torch.randn(4, 4, dtype=F64) / 2, "U": torch.randn(4, 3, dtype=F64)}
    step = tt.cells.Function(
        lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T), 3, 4, weights=weights
    )
    return tt.Recurrent(step)


def gradients(model, x, **arguments):
    """Give the gradients of a loss on every output and on the final state."""
    output, state = model(x, **arguments)
    state = state[0] if isinstance(state, tuple) else state
    loss = (output + 1).pow(2).sum() + state.pow(3).sum()  # not 0 where a row has ended
    return torch.autograd.grad(loss, [x, *model.parameters()])


def ragged(T, B, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        "lengths": torch.randint(1, T + 1, (B,), generator=g),
        "reset": torch.rand(T, B, generator=g) > 0.8,
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from((*KINDS, "Function")),
    T=st.integers(1, 17),
    B=st.integers(1, 3),
    masks=st.booleans(),
    schedule=st.sampled_from(
        [
            tt.Truncated(17),
            tt.Truncated(40, 3),
            tt.Checkpointed(),
            tt.Checkpointed(every=1),
            tt.Checkpointed(every=5),
            tt.Checkpointed(memory="1MiB"),
            tt.Checkpointed(memory=6000),
        ]
    ),
    backend=st.sampled_from(("auto", "reference")),
)
def test_windows_of_all_steps_and_checkpoints_are_exact(kind, T, B, masks, schedule, backend):
    x = torch.randn(T, B, 3, dtype=F64, requires_grad=True)
    arguments = ragged(T, B) if masks else {}
    with kernels.use(backend):
        model = layer(kind)
        want = gradients(model, x, **arguments)
        got = gradients(tt.set_through(model, schedule), x, **arguments)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window, every", [(1, None), (3, None), (4, 1), (5, 2), (1, 1), (6, 6)])
def test_truncation_is_the_exact_sum_over_the_lags_that_it_covers(kind, window, every):
    T = 10
    schedule = tt.Truncated(window, every)
    model = layer(kind, through=schedule)
    x = torch.randn(T, 2, 3, dtype=F64)
    with tt.trace(model) as trace:
        losses = model(x)[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    model(x)[0].pow(2).sum().backward()
    reach = {t: first for first, begin, end in schedule.blocks(T) for t in range(begin, end + 1)}
    assert sorted(reach) == list(range(1, T + 1))
    for name in flow.weight_names:
        want = sum(
            flow.weight_grad(name, loss=t - 1, step=k)
            for t in range(1, T + 1)
            for k in range(reach[t], t + 1)
        )
        assert_close(getattr(model, f"{name}_l0").grad, want, rtol=1e-11, name=name)


def test_each_loss_reaches_back_exactly_the_window_where_every_is_one():
    assert tt.Truncated(3, 1).blocks(5) == [(1, 1, 1), (1, 2, 2), (1, 3, 3), (2, 4, 4), (3, 5, 5)]
    assert tt.Truncated(2).blocks(5) == [(1, 1, 2), (3, 3, 4), (5, 5, 5)]


@pytest.mark.parametrize("schedule", [tt.Full(), tt.Truncated(3), tt.Checkpointed(every=2)])
def test_the_public_recipes_sum_is_not_repeated(schedule):
    """The recipe that calls backward on each detached step gives .288 here; .108 is right."""
    model = tt.RNN(1, 1, nonlinearity="identity", bias=False, through=schedule, dtype=F64)
    with torch.no_grad():
        model.weight_hh_l0.fill_(0.2)
    output, _ = model(torch.zeros(3, 1, 1, dtype=F64), torch.full((1, 1, 1), 0.9, dtype=F64))
    output[-1].sum().backward()
    assert abs(model.weight_hh_l0.grad.item() - 0.108) < 1e-15


def test_second_derivatives_under_checkpoints_and_a_clear_word_under_truncation():
    x = torch.randn(4, 2, 3, dtype=F64, requires_grad=True)
    model = layer("GRU", through=tt.Checkpointed(every=2))
    assert torch.autograd.gradgradcheck(lambda x: model(x)[0], x)
    tt.set_through(model, tt.Truncated(2))
    with pytest.raises(tt.errors.UnsupportedError, match="Truncated"):
        torch.autograd.grad(model(x)[0].sum(), x, create_graph=True)


def layer_with(schedule):
    layer = tt.GRU(2, 3)
    layer.through = schedule
    return layer


def test_a_budget_may_be_written_as_a_number_of_any_kind():
    assert tt.Checkpointed(memory=1e6).bytes() == tt.Checkpointed(memory="1MB").bytes() == 10**6


def test_vmap_of_the_forward_pass_asks_for_no_gradient():
    module, x = tt.LSTM(2, 3, through=tt.Truncated(2)), torch.randn(4, 5, 2, 2)
    with torch.no_grad():
        found = torch.func.vmap(lambda x: module(x)[0])(x)
        for one, x_v in zip(found, x, strict=True):
            assert_close(one, module(x_v)[0], rtol=1e-5)
        with pytest.raises(tt.errors.UnsupportedError, match="set_through"):
            torch.func.jvp(lambda x: module(x)[0], (x[0],), (x[1],))
    with pytest.raises(tt.errors.UnsupportedError, match="set_through"):
        torch.func.vmap(torch.func.grad(lambda x: module(x)[0].sum()))(x)


@pytest.mark.parametrize(
    "make, kind",
    [
        (lambda: tt.Truncated(0), ValueError),
        (lambda: tt.Truncated(2.0), TypeError),
        (lambda: tt.Truncated(3, 0), ValueError),
        (lambda: tt.Truncated(3, 4), ValueError),
        (lambda: tt.Checkpointed(every=0), ValueError),
        (lambda: tt.Checkpointed(every=2, memory=100), ValueError),
        (lambda: tt.Checkpointed(memory=0), ValueError),
        (lambda: tt.Checkpointed(memory=0.5), ValueError),
        (lambda: tt.Checkpointed(memory=math.inf), ValueError),
        (lambda: tt.Checkpointed(memory=math.nan), ValueError),
        (lambda: tt.Checkpointed(memory=True), TypeError),
        (lambda: tt.Checkpointed(memory=[1]), TypeError),
        (lambda: tt.Checkpointed(memory="64 parsecs"), ValueError),
        (lambda: tt.set_through(tt.LSTM(2, 3), "full"), TypeError),
        (lambda: tt.set_through(torch.nn.LSTM(2, 3), tt.Full()), LookupError),
        (lambda: tt.GRU(2, 3, through=20), TypeError),
        (lambda: layer_with("full")(torch.zeros(5, 1, 2)), TypeError),
        (
            lambda: tt.LSTM(9, 9, through=tt.Checkpointed(memory=8))(torch.zeros(5, 1, 9)),
            ValueError,
        ),
    ],
)
def test_bad_schedules_get_one_clear_error(make, kind):
    with pytest.raises(tt.errors.ThroughTimeError) as caught:
        make()
    assert isinstance(caught.value, kind)


def own(step):
    weights = {"W": torch.randn(4, 4, dtype=F64), "U": torch.randn(4, 3, dtype=F64)}
    return tt.Recurrent(tt.cells.Function(step, 3, 4, weights=weights))


def halved(x, s, W, U):
    return torch.tanh(x @ U.T + s @ W.T).half()


def other_rows():
    model = layer("GRU")
    _, h_n = model(torch.zeros(5, 2, 3, dtype=F64))
    return model, (torch.zeros(5, 3, 3, dtype=F64), h_n)


STEPS = torch.zeros(5, 2, 3, dtype=F64)
# What is wrong with a call: the model, its arguments, the error's kind, and what it must say.
CALLS = {
    "a budget below one step": (
        lambda: (layer("LSTM", through=tt.Checkpointed(memory=1400)), (STEPS,), {}),
        ValueError,
        r"memory=1400 cannot hold one step and two states .* take \d+ bytes for B=2; allow",
    ),
    "a reset mask of another shape": (
        lambda: (layer("GRU"), (STEPS,), {"reset": torch.zeros(2, 5, dtype=torch.bool)}),
        ValueError,
        r"reset must be a bool tensor \(T=5, B=2\), time first .* got shape \(2, 5\)",
    ),
    "a step function that changes dtype": (
        lambda: (own(halved), (STEPS,), {}),
        TypeError,
        r"must keep the state's dtype torch\.float64; got torch\.float16",
    ),
    "a state carried over to a batch of another size": (
        lambda: (*other_rows(), {}),
        ValueError,
        r"hx must have shape .* got \(1, 2, 4\): B is 2, not 3",
    ),
}


@pytest.mark.parametrize("through", [tt.Full(), tt.Truncated(2), tt.Checkpointed(every=2)], ids=str)
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("case", CALLS)
def test_a_bad_call_gets_one_clear_error_under_every_schedule(case, backend, through):
    make, kind, message = CALLS[case]
    model, arguments, more = make()
    if "budget" not in case:
        tt.set_through(model, through)
    with kernels.use(backend), pytest.raises(tt.errors.ThroughTimeError, match=message) as caught:
        model(*arguments, **more)
    assert isinstance(caught.value, kind) and caught.value.__context__ is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_below_one_step_is_refused_in_words(window):
    with pytest.raises(tt.errors.InputValueError, match=f"at least 1; got {window}"):
        tt.Truncated(window)
    with pytest.raises(tt.errors.InputValueError, match=f"at least 1; got {window}"):
        tt.Checkpointed(every=window)
    with pytest.raises(tt.errors.InputValueError, match=f"at least 1 step; got {window}"):
        tt.stream(tt.GRU(3, 4), torch.zeros(5, 2, 3), window=window)
