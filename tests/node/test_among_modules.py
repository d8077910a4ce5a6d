"""A layer among other modules: hooks, parametrizations, autocast, saved tensors, eval mode."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

import throughtime as tt
from oracles.loop import KINDS, B, H, I, T, loop, masks
from throughtime import kernels
from throughtime.testing import assert_close

every_kind = pytest.mark.parametrize("kind", KINDS)
every_case = pytest.mark.parametrize("case", ["plain", "ragged", "resets"])
SCHEDULES = [tt.Full(), tt.Checkpointed(every=2), tt.Truncated(T)]
every_schedule = pytest.mark.parametrize("through", SCHEDULES, ids=str)


def loss(output):
    return (output + 0.3).pow(3).sum()


def both(kind, **options):
    """Give torch's layer and ours with the same weights."""
    theirs = getattr(nn, kind)(I, H, **options)
    ours = getattr(tt, kind)(I, H, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def gradients(model, x):
    output = model(x)[0]
    return torch.autograd.grad(loss(output), [x, *model.parameters()])


def same(got, want, rtol=1e-12):
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=rtol)


@every_schedule
@every_kind
def test_the_gradient_in_eval_mode(kind, through):
    theirs, ours = both(kind, num_layers=2, bidirectional=True, dropout=0.5)
    x = torch.randn(T, B, I, requires_grad=True)
    same(gradients(tt.set_through(ours, through).eval(), x), gradients(theirs.eval(), x))


# --- hooks --------------------------------------------------------------------------------------


@every_kind
def test_hooks_before_and_after_a_module_change_what_goes_in_and_comes_out(kind):
    x, got = torch.randn(T, B, I, requires_grad=True), []
    for module in both(kind):
        module.register_forward_pre_hook(lambda _, args: (2 * args[0],))
        module.register_forward_hook(lambda *call: (call[2][0].sin(), call[2][1]))
        got.append(gradients(module, x))
    same(got[1], got[0])


@every_kind
def test_full_backward_hooks_see_and_change_the_gradients(kind):
    x, found = torch.randn(T, B, I, requires_grad=True), []
    for module in both(kind):
        seen = []

        def before(_, g_outputs, seen=seen):
            seen.append(g_outputs[0])
            return tuple(None if g is None else 3 * g for g in g_outputs)

        def after(_, g_inputs, g_outputs, seen=seen):
            seen.extend((g_inputs[0], g_outputs[0]))
            return (g_inputs[0] / 7,)

        module.register_full_backward_pre_hook(before)
        module.register_full_backward_hook(after)
        slopes = gradients(module, x)
        assert len(seen) == 3
        found.append((*seen, *slopes))
    same(found[1], found[0])


@every_schedule
@every_kind
def test_hooks_on_tensors_change_what_arrives(kind, through):
    x, found = torch.randn(T, B, I, requires_grad=True), []
    for module in both(kind):
        if isinstance(module, getattr(tt, kind)):
            tt.set_through(module, through)
        output, _ = module(x)
        output.register_hook(lambda g: g * torch.arange(1.0, T + 1)[:, None, None])
        module.weight_hh_l0.register_hook(lambda g: g.clamp(-0.1, 0.1))
        loss(output).backward()
        found.append([x.grad, *(p.grad for p in module.parameters())])
        x.grad = None
    same(found[1], found[0])


# --- parametrizations ---------------------------------------------------------------------------


@every_case
@every_kind
def test_weight_norm_on_the_recurrent_weights(kind, case):
    layer, x = getattr(tt, kind)(I, H), torch.randn(T, B, I)
    parametrizations.weight_norm(layer, "weight_hh_l0")
    with torch.no_grad():
        layer.parametrizations.weight_hh_l0.original0.mul_(1.3)
    loss(layer(x, **masks(case))[0]).backward()
    got = {name: p.grad for name, p in layer.named_parameters()}
    layer.zero_grad()
    parts = layer.parametrizations.weight_hh_l0
    g, v = parts.original0, parts.original1
    weights = {name: p for name, p in layer.named_parameters() if "parametrizations" not in name}
    weights["weight_hh_l0"] = g * v / v.norm(dim=1, keepdim=True)
    loss(loop(layer, weights, x, **masks(case))).backward()
    assert {"weight_ih_l0", "parametrizations.weight_hh_l0.original1"} < got.keys()
    for name, parameter in layer.named_parameters():
        assert_close(got[name], parameter.grad, rtol=1e-12, name=name)


class Symmetric(nn.Module):
    """Each gate's W_h is symmetric."""

    def forward(self, raw):
        return torch.cat([(block + block.T) / 2 for block in raw.split(H)])


@every_kind
@every_schedule
def test_a_parametrization_of_ones_own_on_the_recurrent_weights(kind, through):
    layer, x = getattr(tt, kind)(I, H, through=through), torch.randn(T, B, I)
    parametrize.register_parametrization(layer, "weight_hh_l0", Symmetric())
    loss(layer(x)[0]).backward()
    got = layer.parametrizations.weight_hh_l0.original.grad
    raw = layer.parametrizations.weight_hh_l0.original.detach().clone().requires_grad_()
    weights = {name: p.detach() for name, p in layer.named_parameters() if p.dim() == 1}
    weights["weight_ih_l0"] = layer.weight_ih_l0.detach()
    weights["weight_hh_l0"] = torch.cat([(b + b.T) / 2 for b in raw.split(H)])
    loss(loop(layer, weights, x)).backward()
    assert_close(got, raw.grad, rtol=1e-12)


# --- autocast -----------------------------------------------------------------------------------


@every_case
@every_kind
@every_schedule
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_under_autocast_are_those_of_the_weights_precision(backend, through, kind, case):
    layer = getattr(tt, kind)(I, H, through=through).float()
    exact = copy.deepcopy(layer).double()
    half = torch.randn(T, B, I).bfloat16().requires_grad_()
    with kernels.use(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        output, _ = layer(half, **masks(case))
        loss(output).backward()
    weights, x = dict(exact.named_parameters()), half.detach().double().requires_grad_()
    loss(loop(exact, weights, x, **masks(case))).backward()
    for one, other in zip(layer.parameters(), exact.parameters(), strict=True):
        assert one.grad.dtype == torch.float32
        assert_close(one.grad, other.grad, rtol=1e-5)
    assert_close(half.grad, x.grad, rtol=1e-2)  # bfloat16 has 8 bits


# --- saved tensors ------------------------------------------------------------------------------


@every_schedule
@every_kind
def test_saved_tensors_may_be_packed_and_moved(kind, through):
    theirs, ours = both(kind)
    x = torch.randn(T, B, I, requires_grad=True)
    want = gradients(theirs, x)
    tt.set_through(ours, through)
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.detach().clone().numpy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        output, _ = ours(x)
    assert packed
    same(torch.autograd.grad(loss(output), [x, *ours.parameters()]), want)
    with torch.autograd.graph.save_on_cpu():
        output, _ = ours(x)
    same(torch.autograd.grad(loss(output), [x, *ours.parameters()]), want)


@pytest.mark.parametrize("use_reentrant", [False, True])
@every_schedule
@every_kind
def test_activation_checkpointing_around_a_layer(kind, through, use_reentrant):
    theirs, ours = both(kind)
    tt.set_through(ours, through)
    x = torch.randn(T, B, I, requires_grad=True)
    want = gradients(theirs, x)
    output = checkpoint(lambda x: ours(x)[0], x, use_reentrant=use_reentrant)
    # The older of the two knows .backward() alone.
    loss(output).backward()
    same([x.grad, *(p.grad for p in ours.parameters())], want)


@every_schedule
@every_kind
def test_going_back_twice_over_one_graph_gives_the_same_twice(kind, through):
    theirs, ours = both(kind)
    tt.set_through(ours, through)
    x = torch.randn(T, B, I, requires_grad=True)
    value = loss(ours(x)[0])
    inputs = [x, *ours.parameters()]
    first = torch.autograd.grad(value, inputs, retain_graph=True)
    same(first, gradients(theirs, x))
    same(torch.autograd.grad(value, inputs), first, rtol=0)


@pytest.mark.filterwarnings(
    "ignore:`torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
@every_kind
def test_a_traced_layer_is_the_layer(kind):
    layer, x, other = getattr(tt, kind)(I, H), torch.randn(T, B, I), torch.randn(T, B, I)
    layer(x)  # its cell is kept, and a tracer's sizes must not be
    traced = torch.jit.trace(layer, x)
    assert_close(traced(other)[0], layer(other)[0], rtol=1e-12)
    again = torch.jit.trace(getattr(tt, kind)(I, H), x)
    assert again(other)[0].shape == (T, B, H)
