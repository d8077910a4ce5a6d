"""The layer-norm LSTM's kernel: that a mistake in it would show, its threads, and who runs it."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt
from throughtime import kernels
from throughtime.cells import LayerNormLSTM
from throughtime.kernels import gradients
from throughtime.kernels.comparison import check_kernel
from throughtime.kernels.cpu import library as native

pytestmark = pytest.mark.skipif(
    not kernels.available().native, reason=kernels.available().reason or "no kernels"
)


def cell(I=4, H=20, dtype=torch.float64):
    torch.manual_seed(0)
    made = LayerNormLSTM(I, H, dtype=dtype)
    with torch.no_grad():
        for weight in made.weights().values():
            if weight.dim() == 1:
                weight.add_(0.3 * torch.randn_like(weight))
    return made


def exchange(*names):
    def change(sweep, back):
        first, second = (getattr(sweep, name) for name in names)
        setattr(sweep, names[0], second)
        setattr(sweep, names[1], first)

    return change


def larger_eps(sweep, back):
    sweep.eps *= 1.01


def no_bias_c(sweep, back):
    sweep.bias_c = None


def kept_exchanged(sweep, back):
    if back:
        sweep.kept[1], sweep.kept[2] = sweep.kept[2], sweep.kept[1]


def narrow_adjoint(sweep, back):
    if sweep.adjoints:
        sweep.adjoint_size = 4 * sweep.H


MUTANTS = {
    "gains": exchange("gain_ih", "gain_hh"),
    "gradients of the gains": exchange("grad_gain_ih", "grad_gain_hh"),
    "gradients for c": exchange("grad_gain_c", "grad_bias_c"),
    "u_hat and w_hat": kept_exchanged,
    "eps": larger_eps,
    "bias of c": no_bias_c,
    "adjoints without alpha": narrow_adjoint,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed(name, monkeypatch):
    check_kernel(cell())
    run = native.run_sweep

    def mutated(sweep, *, back):
        MUTANTS[name](sweep, back)
        run(sweep, back=back)

    monkeypatch.setattr(native, "run_sweep", mutated)
    with pytest.raises(AssertionError, match="relative errors above"):
        check_kernel(cell())


@pytest.fixture
def threads():
    was = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(was)


def both_ways(threads, count):
    threads(count)
    made = cell(9, 24, torch.float32)
    draw = torch.Generator().manual_seed(1)
    x, g = (torch.randn(60, 7, n, generator=draw) for n in (9, 24))
    lengths = torch.tensor([60, 1, 33, 60, 12, 50, 7])
    active = torch.arange(60)[:, None] < lengths
    with torch.no_grad():
        out = kernels.outputs(made, x, None, active)
        assert out.tape is not None
        return out.h, gradients(made, out.tape, g)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_same_threads_give_the_same_bits(threads, count):
    """The sums for the gains are each thread's own, and added in a fixed order."""
    alone, _ = both_ways(threads, 1)
    (h, one), (_, other) = both_ways(threads, count), both_ways(threads, count)
    assert torch.equal(h, alone)
    for name, grad in one.weights.items():
        assert torch.equal(grad, other.weights[name]), name
    assert one.x is not None and other.x is not None
    assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("wanted", ["gain_ih", "gain_hh", "gain_c", "bias_ih", "bias_hh", "bias_c"])
def test_each_gradient_by_itself(wanted):
    """Whichever gradients are wanted, each is what it is among all of them."""
    made = cell()
    x, g = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, 20, dtype=torch.float64)
    with torch.no_grad():
        tape = kernels.outputs(made, x, None).tape
        assert tape is not None
        every = gradients(made, tape, g).weights
        alone = gradients(made, tape, g, wants=frozenset({wanted}), want_x=False).weights
    assert set(alone) == {wanted}
    tt.testing.assert_close(alone[wanted], every[wanted])


def test_a_layer_runs_it():
    layer = tt.Recurrent(LayerNormLSTM(3, 5))
    x = torch.randn(7, 2, 3, requires_grad=True)
    h, s_T = layer(x)
    assert torch.equal(s_T[:, :5], h[-1])
    h.sum().backward()
    last = kernels.last_choice()
    assert last is not None and last.name == "native"
