"""`mask=`: the lengths as torchrl's modules give them to a layer that is no `nn.LSTM`."""

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.testing import assert_close

pytestmark = pytest.mark.usefixtures("float64")

I, H, T, B = 3, 4, 6, 3
STEPS = torch.tensor([6, 2, 4])


def mask_of(steps, batch_first):
    active = torch.arange(T) < steps[:, None]
    return active if batch_first else active.t()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("batch_first", [True, False])
def test_a_mask_is_the_lengths_as_a_packed_sequence_has_them(kind, batch_first):
    """As torchrl calls it where an episode begins inside a row: input, state, mask."""
    theirs = kind(I, H, num_layers=2, batch_first=batch_first)
    x = torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)
    state = torch.randn(2, B, H)
    hx = (state, torch.randn(2, B, H)) if kind is nn.LSTM else state
    packed = nn.utils.rnn.pack_padded_sequence(
        x, STEPS, batch_first=batch_first, enforce_sorted=False
    )
    output, final = theirs(packed, hx)
    output = nn.utils.rnn.pad_packed_sequence(output, batch_first=batch_first, total_length=T)[0]
    weights = list(theirs.parameters())
    h_n = final[0] if kind is nn.LSTM else final
    want = torch.autograd.grad((output.sin().sum() + h_n.cos().sum()), weights)

    ours = tt.convert(theirs)
    got, final = ours(x, hx, mask=mask_of(STEPS, batch_first))
    assert_close(got, output, rtol=1e-12)
    h_n = final[0] if kind is nn.LSTM else final
    grads = torch.autograd.grad((got.sin().sum() + h_n.cos().sum()), weights)
    for a, b in zip(grads, want, strict=True):
        assert_close(a, b, rtol=1e-10)
    with tt.trace(ours) as trace:
        losses = ours(x, hx, mask=mask_of(STEPS, batch_first))[0].sin().sum()
    assert trace.flow(losses)["l0"].norms.shape[-1] == B


def test_a_mask_goes_into_a_compiled_graph():
    layer, x = tt.GRU(I, H, batch_first=True), torch.randn(B, T, I)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    want = layer(x, lengths=STEPS)[0]
    assert_close(compiled(x, mask=mask_of(STEPS, True))[0], want, rtol=1e-12)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"mask": [1]}, tt.errors.InputTypeError, r"bool tensor \(T, B\); got list"),
        ({"mask": torch.ones(T, B)}, tt.errors.DtypeError, "must be bool; got torch.float32"),
        ({"mask": torch.ones(B, T).bool()}, tt.errors.ShapeError, r"got \(3, 6\)"),
        ({"mask": torch.zeros(T, B).bool()}, tt.errors.InputValueError, "lengths must lie in 1"),
        (
            {"mask": torch.ones(T, B).bool(), "lengths": STEPS},
            tt.errors.InputValueError,
            "beside lengths=",
        ),
        ({"mask": mask_of(STEPS, False).flip(0)}, tt.errors.InputValueError, "give reset="),
    ],
)
def test_a_wrong_mask_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        tt.LSTM(I, H)(torch.randn(T, B, I), **given)
