"""Second derivatives, forward mode and vmap of a layer, against a loop that torch sees all of."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vmap

import throughtime as tt
from oracles.loop import KINDS, B, H, I, T, loop, masks
from throughtime.testing import assert_close

# Forward mode has torch script its own formulas when it is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize("case", ["plain", "ragged", "resets"])


def pair(kind, case, through=None):
    """Give a layer and the loop as functions of (weights, x), and their arguments."""
    layer = getattr(tt, kind)(I, H, through=through or tt.Full())
    weights = {name: p.detach().clone() for name, p in layer.named_parameters()}
    more = masks(case)

    def ours(w, x):
        return functional_call(layer, w, (x,), more)[0]

    def by_hand(w, x):
        return loop(layer, w, x, **more)

    return ours, by_hand, weights, torch.randn(T, B, I)


def loss(output):
    """Give a loss that is not stationary where a row has ended."""
    return (output + 0.3).pow(3).sum()


def same(got, want, rtol=1e-10):
    got_leaves, spec = torch.utils._pytree.tree_flatten(got)
    want_leaves, want_spec = torch.utils._pytree.tree_flatten(want)
    assert spec == want_spec and got_leaves
    for one, other in zip(got_leaves, want_leaves, strict=True):
        assert_close(one, other, rtol=rtol)


@every_case
@every_kind
@pytest.mark.parametrize("through", [tt.Full(), tt.Checkpointed(every=2)], ids=str)
def test_a_gradient_penalty(kind, case, through):
    ours, by_hand, weights, x = pair(kind, case, through)

    def penalty(run):
        w = {name: v.clone().requires_grad_() for name, v in weights.items()}
        inputs = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(loss(run(w, inputs)), inputs, create_graph=True)
        return torch.autograd.grad((slope.norm() - 1).pow(2), [inputs, *w.values()])

    same(penalty(ours), penalty(by_hand))


@every_case
@every_kind
def test_a_hessian_vector_product_back_over_back(kind, case):
    ours, by_hand, weights, x = pair(kind, case)
    along = {name: torch.randn_like(v) for name, v in weights.items()}

    def product(run):
        w = {name: v.clone().requires_grad_() for name, v in weights.items()}
        slopes = torch.autograd.grad(loss(run(w, x)), list(w.values()), create_graph=True)
        inner = sum((s * v).sum() for s, v in zip(slopes, along.values(), strict=True))
        return torch.autograd.grad(inner, list(w.values()))

    same(product(ours), product(by_hand))


@every_case
@every_kind
def test_forward_mode_by_input_and_by_weights(kind, case):
    ours, by_hand, weights, x = pair(kind, case)
    along = {name: torch.randn_like(v) for name, v in weights.items()}, torch.randn_like(x)
    same(jvp(ours, (weights, x), along), jvp(by_hand, (weights, x), along))
    same(jacfwd(ours, argnums=1)(weights, x), jacfwd(by_hand, argnums=1)(weights, x))


@every_case
@every_kind
def test_a_hessian_vector_product_forward_over_back(kind, case):
    ours, by_hand, weights, x = pair(kind, case)
    along = {name: torch.randn_like(v) for name, v in weights.items()}

    def product(run):
        return jvp(grad(lambda w: loss(run(w, x))), (weights,), (along,))

    same(product(ours), product(by_hand))


@every_kind
def test_a_whole_hessian_and_a_jacobian_by_the_weights(kind):
    ours, by_hand, weights, x = pair(kind, "plain")

    def by_weight(run):
        return lambda w: loss(run({**weights, "weight_hh_l0": w}, x))

    w = weights["weight_hh_l0"]
    same(hessian(by_weight(ours))(w), hessian(by_weight(by_hand))(w))
    same(jacrev(ours)(weights, x), jacrev(by_hand)(weights, x))


@every_case
@every_kind
def test_vmap_over_many_batches_and_many_networks(kind, case):
    ours, by_hand, weights, _ = pair(kind, case)
    many = torch.randn(4, T, B, I)
    networks = {name: torch.stack([v, 2 * v, -v, v / 3]) for name, v in weights.items()}
    for run_over in ((None, 0), (0, 0)):
        w = weights if run_over[0] is None else networks
        got = vmap(ours, run_over)(w, many)
        want = [
            by_hand({n: v if run_over[0] is None else v[i] for n, v in w.items()}, many[i])
            for i in range(4)
        ]
        same(got, torch.stack(want))


@every_case
@every_kind
def test_the_gradient_of_each_sample(kind, case):
    ours, by_hand, weights, _ = pair(kind, case)
    many = torch.randn(4, T, B, I)

    def slopes(run):
        return grad(lambda w, x: loss(run(w, x)), argnums=(0, 1))

    got_w, got_x = vmap(slopes(ours), (None, 0))(weights, many)
    for i, x in enumerate(many):
        want_w, want_x = slopes(by_hand)(weights, x)
        same({name: v[i] for name, v in got_w.items()}, want_w)
        same(got_x[i], want_x)


@every_case
@every_kind
def test_functional_call_with_other_weights_and_its_gradient(kind, case):
    ours, by_hand, weights, x = pair(kind, case)
    other = {name: (v * 1.5).requires_grad_() for name, v in weights.items()}
    same(
        torch.autograd.grad(loss(ours(other, x)), list(other.values())),
        torch.autograd.grad(loss(by_hand(other, x)), list(other.values())),
    )


@pytest.mark.parametrize("transform", ["create_graph", "jvp", "vmap"])
def test_a_truncated_layer_says_what_can_be_had(transform):
    ours, _, weights, x = pair("GRU", "plain", tt.Truncated(2))

    def run():
        if transform == "jvp":
            jvp(lambda x: ours(weights, x), (x,), (x,))
        elif transform == "vmap":
            vmap(lambda x: ours(weights, x))(x[None])
        else:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(ours(weights, leaf).sum(), leaf, create_graph=True)

    with pytest.raises(tt.errors.UnsupportedError, match=r"set_through\(model, tt.Full\(\)\)"):
        run()
