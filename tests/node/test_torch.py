"""The layers under what torch can do to a module: vmap, threads, autocast, odd inputs."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import throughtime as tt
from throughtime.testing import assert_close

KINDS = ("RNN", "GRU", "LSTM")
T, B, I, H = 7, 3, 4, 5


def gradients(model, x, **arguments):
    inputs = [x, *model.parameters()]
    return torch.autograd.grad(model(x, **arguments)[0].pow(2).sum(), inputs)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["is_grads_batched", "vmap"])
def test_many_losses_at_once_give_what_they_give_one_by_one(kind, way):
    model = getattr(tt, kind)(I, H)
    x = torch.randn(T, B, I, requires_grad=True)
    h_0 = torch.randn(1, B, H, requires_grad=True)
    hx = (h_0, h_0 * 2) if kind == "LSTM" else h_0
    output, _ = model(x, hx)
    inputs = [x, h_0, *model.parameters()]
    seeds = torch.randn(4, *output.shape)

    def pull(seed, **options):
        return torch.autograd.grad(output, inputs, seed, retain_graph=True, **options)

    if way == "vmap":
        got = torch.func.vmap(pull)(seeds)
    else:
        got = pull(seeds, is_grads_batched=True)
    want = [torch.stack(parts) for parts in zip(*map(pull, seeds), strict=True)]
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_several_threads_at_once_give_the_same(kind):
    model = getattr(tt, kind)(I, 33)
    inputs = [torch.randn(40, 6, I, requires_grad=True) for _ in range(8)]
    want = [gradients(model, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda x: gradients(model, x), inputs * 3))
    for many, one in zip(got, want * 3, strict=True):
        for a, b in zip(many, one, strict=True):
            assert_close(a, b, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_the_recurrence_keeps_the_weights_precision(kind):
    model = getattr(tt, kind)(I, H).float()
    before = torch.nn.Linear(I, I).float()
    x = torch.randn(T, B, I, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = before(x)
        assert half.dtype == torch.bfloat16
        output, _ = model(half)
        output.sum().backward()
    assert output.dtype == torch.float32
    assert_close(output, model(half.float())[0], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", [0, 1, 2, 4])
def test_gradients_of_only_some_inputs(kind, which):
    model = getattr(tt, kind)(I, H)
    x = torch.randn(T, B, I, requires_grad=True)
    want = gradients(model, x)[which]
    wanted = [x, *model.parameters()][which]
    for tensor in [x, *model.parameters()]:
        tensor.requires_grad_(tensor is wanted)
    (got,) = torch.autograd.grad(model(x)[0].pow(2).sum(), [wanted])
    assert_close(got, want, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_that_do_not_lie_side_by_side(kind):
    model = getattr(tt, kind)(I, H)
    wide = torch.randn(B, I * 2, T * 2)
    x = wide.permute(2, 0, 1)[::2, :, ::2].requires_grad_()
    assert not x.is_contiguous()
    whole = x.detach().contiguous().requires_grad_()
    seed = torch.randn(H, B, T).permute(2, 1, 0)
    for a, b in zip(
        torch.autograd.grad(model(x)[0], [x, *model.parameters()], seed),
        torch.autograd.grad(model(whole)[0], [whole, *model.parameters()], seed.contiguous()),
        strict=True,
    ):
        assert_close(a, b, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives(kind):
    model = getattr(tt, kind)(2, 3)
    x = torch.randn(4, 2, 2, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: model(x)[0], x)
