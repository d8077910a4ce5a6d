"""Which calls are one run: what continues what, where it was cut, and what begins anew."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.testing import assert_close

T, B, I, H = 12, 3, 2, 4


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def per_step(h: Tensor) -> Tensor:
    return h.pow(2).sum((1, 2))


def in_pieces(rnn: nn.Module, x: Tensor, lengths: list[int], between=lambda state: state) -> Tensor:
    state, said = None, []
    for piece in x.split(lengths):
        h, state = rnn(piece, state)
        state = between(state)
        said.append(h)
    return torch.cat(said)


def detached(state):
    return tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN, tt.LSTM])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("lengths", [[1] * T, [5, 1, 6], [3, 9]])
def test_pieces_of_unequal_length_equal_the_whole(kind, layers, lengths):
    rnn, x = kind(I, H, layers), torch.randn(T, B, I)
    with tt.trace(rnn) as trace:
        whole = trace.flow(per_step(rnn(x)[0]))
    with tt.trace(rnn) as trace:
        losses = per_step(in_pieces(rnn, x, lengths))
    flow = trace.flow(losses)
    assert list(flow) == list(whole)
    for name, layer in flow.items():
        other = whole[name]
        assert type(layer) is tt.LayerFlow and layer.T == T and layer.cuts == ()
        assert_close(layer.norms, other.norms, rtol=1e-9)
        assert_close(layer.jacobian_product(9, 2), other.jacobian_product(9, 2), rtol=1e-9)
        for weight in layer.weight_names:
            assert_close(layer.weight_grad(weight, 8), other.weight_grad(weight, 8), rtol=1e-9)
        torch.testing.assert_close(layer.enters, other.enters)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_cuts_equal_a_sum_of_separate_sequences(kind):
    rnn, x = kind(I, H), torch.randn(T, B, I)
    with tt.trace(rnn) as trace:
        losses = per_step(in_pieces(rnn, x, [4, 4, 4], detached))
    layer = trace.flow(losses)["l0"]
    assert layer.cuts == (5, 9) and layer.T == T
    state, total = None, 0.0
    for piece in x.split(4):
        with tt.trace(rnn) as trace:
            h, last = rnn(piece, state)
        one = trace.flow(per_step(h))["l0"]
        state = detached(last)
        total = total + one.weight_grad("weight_hh")
    assert_close(layer.weight_grad("weight_hh"), total, rtol=1e-9)
    assert not layer.norms[11, :9].any() and bool(layer.norms[11, 9:].all())


def test_streams_cut_unless_they_are_told_not_to():
    rnn, x = tt.LSTM(I, H), torch.randn(T, B, I)
    for detach, cuts in ((True, (5, 9)), (False, ())):
        with tt.trace(rnn) as trace:
            losses = [
                per_step(rnn(piece)[0]) for piece in tt.stream(rnn, x, window=4, detach=detach)
            ]
        layer = trace.flow(torch.cat(losses))["l0"]
        assert layer.T == T and layer.cuts == cuts


def test_two_sequences_that_take_turns_stay_two_runs():
    cell, x = nn.GRUCell(I, H), torch.randn(T, B, I)
    with tt.trace(cell) as trace:
        a, b, losses = torch.zeros(B, H), torch.full((B, H), 0.5), []
        for t in range(T):
            a, b = cell(x[t], a), cell(-x[t], b)
            losses.append((a * b).pow(2).sum())
    flow = trace.flow(torch.stack(losses))
    assert [(name, layer.T) for name, layer in flow.items()] == [("", T), ("@2", T)]


def test_sequences_that_begin_anew_are_runs_of_their_own():
    rnn, x = nn.LSTM(I, H), torch.randn(T, B, I)
    with tt.trace(rnn) as trace:
        losses = torch.cat([per_step(rnn(x)[0]), per_step(rnn(x[:5])[0])])
    assert [(n, layer.T) for n, layer in trace.flow(losses).items()] == [("l0", T), ("l0@2", 5)]


def test_another_batch_begins_anew():
    rnn, x = nn.GRU(I, H), torch.randn(T, B, I)
    with tt.trace(rnn) as trace:
        _, state = rnn(x)
        wide = state.repeat_interleave(2, 1)  # beams
        losses = per_step(rnn(x.repeat_interleave(2, 1)[:5], wide)[0])
    flow = trace.flow(losses)
    assert [(n, layer.B) for n, layer in flow.items()] == [("l0", B), ("l0@2", 2 * B)]
    assert bool((flow["l0"].total_norms > 0).all())


def test_a_second_continuation_is_a_branch():
    rnn, x = nn.GRU(I, H), torch.randn(T, B, I)
    with tt.trace(rnn) as trace:
        _, state = rnn(x[:6])
        losses = per_step(torch.cat([rnn(x[6:], state)[0], rnn(-x[6:], state)[0]]))
    flow = trace.flow(losses)
    assert [layer.T for layer in flow.values()] == [T, 6]
    with tt.trace(rnn) as trace:
        _, state = rnn(x[:6])
        state.retain_grad()
        losses = per_step(torch.cat([rnn(x[6:], state)[0], rnn(-x[6:], state)[0]]))
    losses.sum().backward()
    assert_close(flow["l0"].adjoint()[6], state.grad[0], rtol=1e-9)


def test_a_state_of_zeros_is_no_continuation_of_zeros():
    rnn = nn.RNN(I, H, nonlinearity="relu")
    with torch.no_grad():
        rnn.bias_ih_l0.fill_(-50)
    with tt.trace(rnn) as trace:
        said = [rnn(torch.randn(4, B, I), torch.zeros(1, B, H))[0] for _ in range(2)]
        losses = per_step(torch.cat(said))
    assert len(trace.flow(losses)) == 2


def test_both_directions_in_pieces():
    rnn, x = nn.LSTM(I, H, bidirectional=True), torch.randn(T, B, I)
    with tt.trace(rnn) as trace:
        losses = per_step(in_pieces(rnn, x, [4, 4, 4]))
    flow = trace.flow(losses)
    assert {name: layer.T for name, layer in flow.items()} == {"l0": T, "l0_reverse": T}
    losses.sum().backward()
    for name, layer in flow.items():
        assert_close(
            layer.weight_grad("weight_hh"), getattr(rnn, f"weight_hh_{name}").grad, rtol=1e-9
        )


def test_h_and_c_count_apart_and_would_not_without_aliases():
    """The trap: h_t is computed from c_t, so a plain dE/dc_t counts h_t's part too."""
    cell, x = nn.LSTMCell(I, H), torch.randn(T, B, I)
    with tt.trace(cell) as trace:
        h = c = torch.zeros(B, H)
        for x_t in x:
            h, c = cell(x_t, (h, c))
        loss = h.sum()
    layer = trace.flow(loss[None])[""]
    assert not layer.adjoint()[T, :, H:].any(), "the loss reads h_T alone"
    plain_h = plain_c = torch.zeros(B, H)
    for x_t in x:
        plain_h, plain_c = cell(x_t, (plain_h, plain_c))
    (dc,) = torch.autograd.grad(plain_h.sum(), plain_c)
    assert bool((dc != 0).all()), "of the plain tensors it has part in c_T as well"


def test_what_is_written_into_a_state_afterwards_leaves_the_flow_alone():
    cell, x = nn.GRUCell(I, H), torch.randn(T, B, I)
    with tt.trace(cell) as trace:
        h, losses = torch.zeros(B, H), []
        for x_t in x:
            h = cell(x_t, h)
            losses.append((1 * h).pow(2).sum())
            h[1] = 0  # an episode ends
    layer = trace.flow(torch.stack(losses))[""]
    assert layer.T == T and not layer.norms[T - 1, : T - 1, 1].any()
    assert bool(layer.norms[T - 1, :, 0].all())


def test_unbatched_cells():
    cell, x = nn.LSTMCell(I, H), torch.randn(T, I)
    with tt.trace(cell) as trace:
        state, losses = None, []
        for x_t in x:
            state = cell(x_t, state)
            losses.append(state[0].pow(2).sum())
    layer = trace.flow(torch.stack(losses))[""]
    assert (layer.T, layer.B, layer.S) == (T, 1, 2 * H)


def test_weights_that_change_inside_a_loop_keep_their_steps_apart():
    cell, x = nn.RNNCell(I, H), torch.randn(4, B, I)
    with tt.trace(cell) as trace:
        h, losses = torch.zeros(B, H), []
        for t, x_t in enumerate(x):
            h = cell(x_t, h.detach())
            losses.append(h.pow(2).sum())
            if t == 1:
                losses[-1].backward()
                with torch.no_grad():
                    cell.weight_hh.mul_(0.5)
    with pytest.raises(tt.errors.GraphError):
        trace.flow(torch.stack(losses))


def test_a_run_of_its_own_is_not_cut_at_its_beginning():
    rnn, x = nn.GRU(I, H), torch.randn(T, B, I)
    with tt.trace(rnn) as trace:
        losses = torch.cat([per_step(in_pieces(rnn, x, [6, 6], detached)) for _ in range(2)])
    flow = trace.flow(losses)
    assert [layer.cuts for layer in flow.values()] == [(7,), (7,)]
