"""`tt.RNN`, `tt.LSTM` and `tt.GRU` beside ``torch.nn``'s: every option, output and gradient."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence

import throughtime as tt
from oracles.by_hand import F64, draw
from throughtime.testing import assert_close

KINDS = {
    "RNN": (nn.RNN, tt.RNN, {}),
    "relu": (nn.RNN, tt.RNN, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, tt.LSTM, {}),
    "projected": (nn.LSTM, tt.LSTM, {"proj_size": 2}),
    "GRU": (nn.GRU, tt.GRU, {}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def pair(kind: str, **options) -> tuple[nn.Module, nn.Module]:
    """Give PyTorch's module and this package's over the same numbers."""
    theirs_class, ours_class, more = KINDS[kind]
    options = {"dtype": F64, **options, **more}
    theirs = theirs_class(3, 4, **options)
    ours = ours_class(3, 4, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def flat(result) -> list[torch.Tensor]:
    """Give the tensors of a module's result, a packed output's data among them."""
    output, final = result
    output = output.data if isinstance(output, PackedSequence) else output
    return [output, *(final if isinstance(final, tuple) else (final,))]


def compare(theirs, ours, call, inputs=(), rtol=1e-10, seed=3):
    """Compare results and gradients of ``call(module)`` for the parameters and ``inputs``."""
    found = []
    for module in (theirs, ours):
        torch.manual_seed(seed)
        results = flat(call(module))
        loss = sum((r * draw(*r.shape, seed=i, dtype=r.dtype)).sum() for i, r in enumerate(results))
        wanted = [*inputs, *(p for p in module.parameters() if p.requires_grad)]
        found.append((results, torch.autograd.grad(loss, wanted, retain_graph=True)))
    (want, want_grads), (got, got_grads) = found
    for i, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == b.dtype
        assert_close(a, b, rtol=rtol, name=f"result {i}")
    for i, (a, b) in enumerate(zip(got_grads, want_grads, strict=True)):
        assert_close(a, b, rtol=rtol, name=f"gradient {i}")
    return got


@pytest.mark.parametrize(
    ("layers", "both", "batch_first", "bias"),
    list(itertools.product((1, 2), (False, True), (False, True), (False, True))),
)
@every_kind
def test_results_and_gradients_are_torchs_for_every_option(kind, layers, both, batch_first, bias):
    theirs, ours = pair(
        kind, num_layers=layers, bidirectional=both, batch_first=batch_first, bias=bias
    )
    x = draw(6, 2, 3).requires_grad_()
    compare(theirs, ours, lambda m: m(x), [x])


@pytest.mark.parametrize("batch", ["batched", "unbatched"])
@every_kind
def test_a_given_initial_state_gets_torchs_gradient(kind, batch):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    rows = (2,) if batch == "batched" else ()
    x = draw(6, *rows, 3).requires_grad_()
    widths = {"projected": (2, 4), "LSTM": (4, 4)}.get(kind, (4,))
    states = [draw(4, *rows, w, seed=w + i).requires_grad_() for i, w in enumerate(widths)]
    hx = tuple(states) if len(states) == 2 else states[0]
    compare(theirs, ours, lambda m: m(x, hx), [x, *states])


@every_kind
def test_dropout_draws_torchs_masks_from_the_same_seed(kind):
    theirs, ours = pair(kind, num_layers=3, dropout=0.4, bidirectional=True)
    x = draw(6, 2, 3).requires_grad_()
    dropped = compare(theirs, ours, lambda m: m(x), [x])[0]
    again = compare(theirs, ours, lambda m: m(x), [x], seed=4)[0]
    assert not torch.equal(dropped, again)


@every_kind
def test_eval_mode_switches_dropout_off_and_keeps_the_gradient(kind):
    theirs, ours = pair(kind, num_layers=2, dropout=0.9)
    theirs.eval(), ours.eval()
    x = draw(6, 2, 3).requires_grad_()
    compare(theirs, ours, lambda m: m(x), [x])


@pytest.mark.parametrize("order", ["sorted", "unsorted"])
@pytest.mark.parametrize("given", ["hx", "no hx"])
@every_kind
def test_packed_sequences_come_back_packed_as_torch_packs_them(kind, order, given):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True)
    lengths = [5, 3, 3, 1] if order == "sorted" else [3, 5, 1, 3]
    sequences = [draw(n, 3, seed=i).requires_grad_() for i, n in enumerate(lengths)]
    packed = pack_sequence(sequences, enforce_sorted=order == "sorted")
    widths = {"projected": (2, 4), "LSTM": (4, 4)}.get(kind, (4,))
    states = [draw(4, 4, w, seed=7 + i).requires_grad_() for i, w in enumerate(widths)]
    states = states if given == "hx" else []
    hx = None if not states else tuple(states) if len(states) == 2 else states[0]
    compare(theirs, ours, lambda m: m(packed, hx), [*sequences, *states])
    output, _ = ours(packed)
    assert isinstance(output, PackedSequence)
    for name in ("batch_sizes", "sorted_indices", "unsorted_indices"):
        ours_part, torchs = getattr(output, name), getattr(packed, name)
        assert ours_part is torchs or torch.equal(ours_part, torchs)


@pytest.mark.parametrize("batch_first", [False, True])
@every_kind
def test_lengths_do_what_packing_does(kind, batch_first):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, batch_first=batch_first)
    x = draw(4, 6, 3).requires_grad_()
    x_in = x if batch_first else x.transpose(0, 1)
    lengths = torch.tensor([2, 6, 1, 4])

    def call(module):
        if module is ours:
            return ours(x_in, lengths=lengths)
        packed = pack_padded_sequence(x_in, lengths, batch_first, enforce_sorted=False)
        output, final = theirs(packed)
        padded, _ = nn.utils.rnn.pad_packed_sequence(output, batch_first)
        return padded, final

    compare(theirs, ours, call, [x])


@pytest.mark.parametrize("frozen", ["weight_hh_l0", "bias", "l0", ""])
@every_kind
def test_frozen_parameters_get_no_gradient_and_the_others_torchs(kind, frozen):
    theirs, ours = pair(kind, num_layers=2)
    for module in (theirs, ours):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(frozen not in name)
    x = draw(6, 2, 3).requires_grad_()
    compare(theirs, ours, lambda m: m(x), [x])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@every_kind
def test_float32_gives_torchs_numbers_to_float32_rounding(kind):
    theirs, ours = pair(kind, num_layers=2, bidirectional=True, dtype=torch.float32)
    x = draw(6, 2, 3, dtype=torch.float32).requires_grad_()
    compare(theirs, ours, lambda m: m(x), [x], rtol=1e-5)


@every_kind
def test_without_grad_mode_the_numbers_are_the_same_and_no_graph_is_kept(kind):
    theirs, ours = pair(kind, num_layers=2)
    x = draw(6, 2, 3)
    with torch.no_grad():
        for a, b in zip(flat(ours(x)), flat(theirs(x)), strict=True):
            assert_close(a, b)
            assert a.grad_fn is None and not a.requires_grad
    with torch.inference_mode():
        assert_close(ours(x)[0], theirs(x)[0])


@every_kind
def test_inputs_that_are_not_contiguous_give_the_same(kind):
    theirs, ours = pair(kind, num_layers=2)
    wide = draw(2, 3, 12).requires_grad_()
    x = wide[..., ::2].permute(2, 0, 1)
    assert not x.is_contiguous()
    compare(theirs, ours, lambda m: m(x), [wide])


@every_kind
def test_the_gradient_of_the_final_state_alone_and_of_the_output_alone(kind):
    theirs, ours = pair(kind)
    x = draw(6, 2, 3).requires_grad_()
    for part in range(len(flat(ours(x)))):
        got, want = (
            torch.autograd.grad(flat(m(x))[part].pow(2).sum(), x)[0] for m in (ours, theirs)
        )
        assert_close(got, want, name=f"from result {part}")


@every_kind
def test_backward_twice_accumulates_and_a_freed_graph_raises_as_torchs_does(kind):
    theirs, ours = pair(kind)
    x = draw(6, 2, 3)
    for module in (theirs, ours):
        loss = module(x)[0].sum()
        loss.backward(retain_graph=True)
        once = [p.grad.clone() for p in module.parameters()]
        loss.backward()
        for parameter, first in zip(module.parameters(), once, strict=True):
            assert_close(parameter.grad, 2 * first)
        with pytest.raises(RuntimeError, match="second time"):
            loss.backward()


@pytest.mark.parametrize("changed", ["weight_hh_l0", "weight_ih_l0", "x"])
def test_changing_what_backward_needs_raises_instead_of_giving_wrong_gradients(changed):
    _, ours = pair("LSTM")
    x = draw(6, 2, 3)
    loss = ours(x)[0].sum()
    with torch.no_grad():
        (x if changed == "x" else getattr(ours, changed)).add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("kind", ["sigmoid", "identity"])
def test_the_added_nonlinearities_have_the_state_dict_of_an_nn_rnn(kind):
    ours = tt.RNN(3, 4, nonlinearity=kind)
    theirs = nn.RNN(3, 4)
    theirs.load_state_dict(ours.state_dict())
    assert list(theirs.state_dict()) == list(ours.state_dict())


@every_kind
def test_writing_into_the_results_in_place_is_allowed_and_h_n_can_be_viewed(kind):
    _, ours = pair(kind, num_layers=2, bidirectional=True)
    x = draw(6, 2, 3)
    wanted = list(ours.parameters())
    grads = []
    for scale in (lambda r: r * 2, lambda r: r.mul_(2)):
        results = [scale(r) for r in flat(ours(x))]
        assert all(r.view(-1).numel() for r in results)
        grads.append(torch.autograd.grad(sum(r.pow(2).sum() for r in results), wanted))
    for got, want in zip(*grads, strict=True):
        assert_close(got, want, rtol=0)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_dropout_on_a_packed_batch_draws_what_torch_draws(kind):
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(3, 4, num_layers=2, dropout=0.5, bidirectional=True, dtype=F64)
    ours = getattr(tt, kind)(3, 4, num_layers=2, dropout=0.5, bidirectional=True, dtype=F64)
    ours.load_state_dict(theirs.state_dict())
    rows = [torch.randn(n, 3, dtype=F64) for n in (2, 6, 4)]
    packed = nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    torch.manual_seed(1)
    want = theirs(packed)[0].data
    torch.manual_seed(1)
    assert_close(ours(packed)[0].data, want, rtol=1e-12)


def halved(layer):
    """Take half of the hidden units away, in the parameters that the layer has."""
    H = layer.hidden_size // 2
    layer.weight_ih_l0.data = layer.weight_ih_l0.data[:H]
    layer.weight_hh_l0.data = layer.weight_hh_l0.data[:H, :H]
    layer.bias_ih_l0.data, layer.bias_hh_l0.data = (
        layer.bias_ih_l0.data[:H],
        layer.bias_hh_l0.data[:H],
    )
    layer.hidden_size = H


def unbiased(layer):
    layer.bias = False
    del layer.bias_ih_l0, layer.bias_hh_l0


def renewed(layer):
    layer.weight_hh_l0 = nn.Parameter(layer.weight_hh_l0.detach() * 2)


def moved(layer):
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.T


@pytest.mark.parametrize("change", [halved, unbiased, renewed, moved])
def test_what_happens_to_the_weights_between_two_calls_counts(change):
    torch.manual_seed(0)
    layer, x = tt.RNN(3, 4).double(), torch.randn(5, 2, 3, dtype=torch.float64)
    layer(x)[0].sum().backward()
    layer.zero_grad()
    change(layer)
    found, _ = layer(x)
    found.sum().backward()
    h, expected = torch.zeros(2, layer.hidden_size, dtype=torch.float64), []
    weights = {n: w.detach().clone().requires_grad_() for n, w in layer.named_parameters()}
    for x_t in x:
        a = x_t @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T
        if layer.bias:
            a = a + weights["bias_ih_l0"] + weights["bias_hh_l0"]
        h = torch.tanh(a)
        expected.append(h)
    torch.stack(expected).sum().backward()
    assert_close(found, torch.stack(expected), rtol=1e-12, name="output")
    for name, weight in layer.named_parameters():
        assert_close(weight.grad, weights[name].grad, rtol=1e-12, name=name)


@pytest.mark.parametrize("through", [tt.Full(), tt.Truncated(2), tt.Checkpointed(2)], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
@every_kind
def test_outputs_may_be_written_into_like_any_tensor(kind, rows, through):
    _, ours = pair(kind)
    tt.set_through(ours, through)
    x = draw(5, rows, 3)
    found = []
    for write in (False, True):
        results = flat(ours(x))
        expected = (
            [2 * r + 1 for r in results] if not write else [r.mul_(2).add_(1) for r in results]
        )
        loss = sum(r.sin().sum() for r in expected)
        found.append([*expected, *torch.autograd.grad(loss, list(ours.parameters()))])
    for got, want in zip(found[1], found[0], strict=True):
        assert_close(got, want, rtol=1e-12)
    no_grad = flat(torch.no_grad()(ours)(x))
    pointers = [r.untyped_storage().data_ptr() for r in no_grad]
    assert len(set(pointers)) == len(pointers)  # none shares memory with another
