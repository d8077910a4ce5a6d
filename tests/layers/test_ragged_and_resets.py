"""`lengths=` and `reset=` against the same rows and episodes run one by one (eq. 1, 4, 9)."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from oracles.by_hand import as_hx, draw, gradient, layer, state_width, unrolled
from throughtime.testing import assert_close

pytestmark = pytest.mark.usefixtures("each_kernel")

LENGTHS = [2, 7, 1, 5]
KINDS = ["tanh", "relu", "lstm", "gru"]
both_ways = pytest.mark.parametrize("both", [False, True], ids=["forward", "bidirectional"])


def episodes(reset: torch.Tensor, T: int) -> list[tuple[int, int]]:
    """Give the pieces [first, end) that a row's resets cut it into."""
    starts = sorted({0, *reset.nonzero().flatten().tolist()})
    return list(zip(starts, [*starts[1:], T], strict=True))


def resets(T: int, B: int) -> torch.Tensor:
    """Give resets of every sort: none, first step, last step, neighbours, many."""
    reset = torch.zeros(T, B, dtype=torch.bool)
    reset[0, 1] = reset[T - 1, 2] = reset[3, 3] = reset[4, 3] = True
    reset[2, 2] = True
    return reset


@both_ways
@pytest.mark.parametrize("kind", KINDS)
def test_a_ragged_batch_is_its_rows_run_alone(kind, both):
    module = layer(kind, 3, 4, num_layers=2, bidirectional=both)
    x = draw(7, 4, 3).requires_grad_()
    s_0 = draw(4 if both else 2, 4, state_width(module)).requires_grad_()
    output, final = module(x, as_hx(module, s_0), lengths=LENGTHS)
    final = torch.cat(final, -1) if kind == "lstm" else final
    g, g_T = draw(*output.shape, seed=1), draw(*final.shape, seed=2)
    of = [x, s_0, *module.parameters()]
    got = gradient((output * g).sum() + (final * g_T).sum(), of)
    loss = 0
    for b, n in enumerate(LENGTHS):
        alone, last = module(x[:n, b : b + 1], as_hx(module, s_0[:, b : b + 1]))
        last = torch.cat(last, -1) if kind == "lstm" else last
        assert_close(output[:n, b], alone[:, 0], name=f"row {b}")
        assert_close(output[n:, b], torch.zeros_like(output[n:, b]), name=f"padding of row {b}")
        assert_close(final[:, b], last[:, 0], name=f"final state of row {b}")
        loss = loss + (alone[:, 0] * g[:n, b]).sum() + (last[:, 0] * g_T[:, b]).sum()
    for i, (a, b) in enumerate(zip(got, gradient(loss, of), strict=True)):
        assert_close(a, b, name=f"gradient {i}")


@both_ways
@pytest.mark.parametrize("kind", KINDS)
def test_resets_are_the_episodes_run_alone(kind, both):
    T, B = 7, 4
    module = layer(kind, 3, 4, num_layers=2, bidirectional=both)
    x = draw(T, B, 3).requires_grad_()
    reset = resets(T, B)
    output, _ = module(x, reset=reset)
    g = draw(*output.shape, seed=1)
    of = [x, *module.parameters()]
    got = gradient((output * g).sum(), of)
    loss = 0
    for b in range(B):
        for first, end in episodes(reset[:, b], T):
            alone, _ = module(x[first:end, b : b + 1])
            assert_close(output[first:end, b], alone[:, 0], name=f"row {b}, from {first}")
            loss = loss + (alone[:, 0] * g[first:end, b]).sum()
    for i, (a, b) in enumerate(zip(got, gradient(loss, of), strict=True)):
        assert_close(a, b, name=f"gradient {i}")


@both_ways
@pytest.mark.parametrize("kind", KINDS)
def test_resets_and_lengths_together_are_the_unrolled_loops(kind, both):
    T, B = 7, 4
    module = layer(kind, 3, 4, num_layers=2, bidirectional=both)
    x = draw(T, B, 3).requires_grad_()
    s_0 = draw(4 if both else 2, B, state_width(module)).requires_grad_()
    output, final = module(x, as_hx(module, s_0), lengths=LENGTHS, reset=resets(T, B))
    final = torch.cat(final, -1) if kind == "lstm" else final
    active = torch.arange(T)[:, None] < torch.tensor(LENGTHS)
    want, runs = unrolled(module, x, s_0, LENGTHS, resets(T, B) & active)
    want_final = torch.stack([run.states[-1] for run in runs.values()])
    assert_close(output, want, name="output")
    assert_close(final, want_final, name="final state")
    g, g_T = draw(*output.shape, seed=1), draw(*final.shape, seed=2)
    of = [x, s_0, *module.parameters()]
    got = gradient((output * g).sum() + (final * g_T).sum(), of)
    true = gradient((want * g).sum() + (want_final * g_T).sum(), of)
    for i, (a, b) in enumerate(zip(got, true, strict=True)):
        assert_close(a, b, name=f"gradient {i}")


def test_a_reset_at_the_first_step_drops_the_initial_state():
    module = layer("gru", 3, 4)
    x, s_0 = draw(5, 2, 3), draw(1, 2, 4).requires_grad_()
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[0, 0] = True
    output, _ = module(x, s_0, reset=reset)
    assert_close(output[:, 0], module(x)[0][:, 0])
    grad = gradient(output.sum(), s_0)
    assert_close(grad[:, 0], torch.zeros_like(grad[:, 0]))
    assert grad[:, 1].norm() > 0


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_in_the_padding_reaches_nothing(kind, poison):
    module = layer(kind, 3, 4, num_layers=2, bidirectional=True)
    clean = draw(7, 4, 3)
    dirty = clean.clone()
    for b, n in enumerate(LENGTHS):
        dirty[n:, b] = poison
    found = []
    for x in (clean, dirty):
        x.requires_grad_()
        output, _ = module(x, lengths=LENGTHS)
        found.append([output, *gradient(output.pow(2).sum(), [x, *module.parameters()])])
    for a, b in zip(*found, strict=True):
        assert_close(a, b, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_the_batch_are_independent(kind):
    module = layer(kind, 3, 4, bidirectional=True)
    x = draw(5, 3, 3).requires_grad_()
    grad = gradient(module(x)[0][:, 1].pow(2).sum(), x)
    assert grad[:, 1].norm() > 0
    for b in (0, 2):
        assert_close(grad[:, b], torch.zeros_like(grad[:, b]), name=f"row {b}")
    alone = module(x[:, 1:2])[0]
    assert_close(module(x)[0][:, 1:2], alone, rtol=1e-14)


@pytest.mark.parametrize("lengths", [[3, 1], (3, 1), torch.tensor([3, 1], dtype=torch.int32)])
def test_lengths_may_be_a_list_a_tuple_or_any_integer_tensor(lengths):
    module = layer("lstm", 3, 4)
    x = draw(3, 2, 3)
    assert_close(module(x, lengths=lengths)[0], module(x, lengths=torch.tensor([3, 1]))[0], rtol=0)


def test_full_lengths_and_no_resets_change_nothing():
    module = layer("gru", 3, 4, bidirectional=True)
    x = draw(5, 2, 3)
    plain = module(x)[0]
    nothing = torch.zeros(5, 2, dtype=torch.bool)
    assert_close(module(x, lengths=[5, 5], reset=nothing)[0], plain, rtol=0)


@pytest.mark.parametrize("through", [tt.Full(), tt.Truncated(3), tt.Checkpointed(2)], ids=str)
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "Recurrent"])
def test_a_mask_that_is_changed_before_the_way_back_is_noticed(kind, through):
    layer = tt.Recurrent(tt.cells.MinGRU(3, 4)) if kind == "Recurrent" else getattr(tt, kind)(3, 4)
    tt.set_through(layer, through)
    reset = torch.zeros(6, 2, dtype=torch.bool)
    reset[3] = True
    output, _ = layer(torch.randn(6, 2, 3), reset=reset)
    reset.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_trace_keeps_the_masks_as_they_were():
    layer, x = tt.LSTM(3, 4), torch.randn(6, 2, 3)
    found = []
    for change in (False, True):
        reset = torch.zeros(6, 2, dtype=torch.bool)
        reset[3] = True
        with tt.trace(layer) as trace:
            losses = layer(x, reset=reset)[0].sin().sum((1, 2))
        if change:
            reset.zero_()
        found.append(trace.flow(losses)["l0"].norms)
    assert_close(found[1], found[0], rtol=0)


def test_lengths_that_are_changed_before_the_way_back_count_as_they_were():
    layer, x = tt.LSTM(3, 4), torch.randn(6, 2, 3)
    found = []
    for change in (False, True):
        lengths = torch.tensor([6, 2], dtype=torch.int32)
        output, _ = layer(x, lengths=lengths)
        if change:
            lengths.fill_(1)
        found.append(torch.autograd.grad(output.sin().sum(), layer.weight_hh_l0)[0])
    assert_close(found[1], found[0], rtol=0)


def test_a_mask_that_is_written_into_between_two_sweeps_is_read_again():
    cell, x, s_0 = tt.cells.Elman(3, 4), torch.randn(6, 2, 3), torch.zeros(2, 4)
    active = torch.ones(6, 2, dtype=torch.bool)
    tt.kernels.forward(cell, x, s_0, active)
    active[2:] = False
    with tt.kernels.use("reference"):
        expected = tt.kernels.forward(cell, x, s_0, active).s
    assert_close(tt.kernels.forward(cell, x, s_0, active).s, expected, rtol=1e-6)
