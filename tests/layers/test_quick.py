"""A call in which nothing is special, by prepared sweeps: the same as the way it stands in for."""

from __future__ import annotations

import copy
import ctypes
import importlib
import pickle
import threading

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

import throughtime as tt
from throughtime import kernels
from throughtime.tape import filled

modules = importlib.import_module("throughtime.layers.modules")
stack = importlib.import_module("throughtime.layers.directions")
prepared_sweeps = importlib.import_module("throughtime.kernels.cpu.prepared").PreparedSweeps

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.skipif(
        not kernels.available().native or kernels.chosen.wanted() == "reference",
        reason="prepared sweeps are compiled ones",
    ),
]
T, B, I, H = 9, 4, 3, 5
LAYERS = {"RNN": tt.RNN, "LSTM": tt.LSTM, "GRU": tt.GRU}


@pytest.fixture(params=LAYERS)
def layer(request) -> nn.Module:
    torch.manual_seed(1)
    return LAYERS[request.param](I, H)


@pytest.fixture
def taken(monkeypatch) -> list[str]:
    """Count what the prepared sweeps do: forward and back."""
    seen: list[str] = []

    def counted(name):
        run = getattr(prepared_sweeps, name)

        def call(*args, **named):
            found = run(*args, **named)
            if found is not None:
                seen.append(name)
            return found

        return call

    for name in ("forward", "back"):
        monkeypatch.setattr(prepared_sweeps, name, counted(name))
    return seen


def both(monkeypatch, run):
    """Give what ``run`` gives by prepared sweeps, and without them."""
    quick = run()
    with monkeypatch.context() as patch:
        patch.setattr(modules, "quick", lambda *_: None)
        return quick, run()


def flat(found) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    return [t for part in found if part is not None for t in flat(part)]


def same(monkeypatch, run) -> None:
    """Compare bit for bit: it is the same native code."""
    for got, want in zip(*map(flat, both(monkeypatch, run)), strict=True):
        assert got.shape == want.shape and got.stride() == want.stride()
        assert torch.equal(got, want)


def step(layer, x, g, **named):
    """Give the output, the final state and all gradients of one training step."""
    x = x.detach().requires_grad_()
    output, final = layer(x, **named)
    wanted = [p for p in layer.parameters() if p.requires_grad]
    return output, final, torch.autograd.grad(output, [x, *wanted], g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "lengths", [None, [9, 1, 4, 9], (1, 1, 9, 2), torch.tensor([2, 9, 9, 5]).int()]
)
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_is_the_same_bit_for_bit(monkeypatch, taken, layer, dtype, lengths, bias):
    if not bias:
        layer = type(layer)(I, H, bias=False)
    layer.to(dtype)
    x, g = torch.randn(T, B, I, dtype=dtype), torch.randn(T, B, H, dtype=dtype)
    same(monkeypatch, lambda: step(layer, x, g, lengths=lengths))
    assert taken == ["forward", "back"]


@pytest.mark.parametrize("kind", ["sigmoid", "relu", "identity"])
def test_the_nonlinearity_may_change(monkeypatch, taken, kind):
    layer, x = tt.RNN(I, H), torch.randn(T, B, I)
    layer(x)
    layer.nonlinearity, layer.mode = kind, f"RNN_{kind.upper()}"
    same(monkeypatch, lambda: step(layer, x, torch.randn(T, B, H).fill_(1)))
    assert taken == ["forward", "forward", "back"]


def test_batch_first_and_no_gradient(monkeypatch, taken, layer):
    layer.batch_first = True
    x = torch.randn(B, T, I)
    same(monkeypatch, lambda: step(layer, x, torch.ones(B, T, H)))
    with torch.no_grad():
        same(monkeypatch, lambda: layer(x, lengths=[9, 3, 1, 2]))
    with torch.inference_mode():
        same(monkeypatch, lambda: layer(x))
    assert taken == ["forward", "back", "forward", "forward"]


def test_only_some_gradients(monkeypatch, taken, layer):
    x, g = torch.randn(T, B, I), torch.randn(T, B, H)
    layer.weight_ih_l0.requires_grad_(False)
    layer.bias_hh_l0.requires_grad_(False)
    same(monkeypatch, lambda: step(layer, x, g))
    output = layer(x)[0]
    first = torch.autograd.grad(output, [layer.bias_ih_l0], g, retain_graph=True)
    second = torch.autograd.grad(output, [layer.weight_hh_l0, layer.bias_ih_l0], g)
    assert torch.equal(first[0], second[1])
    assert taken == ["forward", "back", "forward", "back", "back"]


class Sub(torch.Tensor):
    """A tensor of another class."""


def each(change, hx):
    """Give a state whose parts are changed."""
    return change(hx) if isinstance(hx, torch.Tensor) else tuple(map(change, hx))


def state(layer):
    torch.manual_seed(4)
    return each(
        lambda _: torch.randn(1, B, H), (0, 0) if isinstance(layer, tt.LSTM) else torch.zeros(())
    )


def step_with_a_state(layer, x, g, hx, **named):
    """Give the outputs and all gradients of a step whose loss looks at the final state too."""
    parts = [hx] if isinstance(hx, torch.Tensor) else list(hx)
    output, final = layer(x, hx, **named)
    ends = [final] if isinstance(final, torch.Tensor) else list(final)
    leaves = [p for p in parts if p.requires_grad]
    arriving = [g, *(torch.full_like(end, 0.3) for end in ends)]
    found = torch.autograd.grad([output, *ends], [*leaves, *layer.parameters()], arriving)
    return output, final, found


# How a state comes: a leaf, as the last call left it, learnt and expanded, a list, without a graph.
STATES = {
    "leaf": lambda hx: each(lambda part: part.requires_grad_(), hx),
    "without a graph": lambda hx: hx,
    "a list": lambda hx: hx if isinstance(hx, torch.Tensor) else list(hx),
    "expanded": lambda hx: each(lambda p: nn.Parameter(p[:, :1].clone()).expand(1, B, H), hx),
    "a parameter": lambda hx: each(nn.Parameter, hx),
    "columns": lambda hx: each(lambda p: p.mT.contiguous().requires_grad_().mT, hx),
}


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("lengths", [None, [9, 1, 4, 9]])
def test_a_state_is_the_same_bit_for_bit(monkeypatch, taken, layer, kind, lengths):
    x, g = torch.randn(T, B, I), torch.randn(T, B, H)
    hx = STATES[kind](state(layer))
    same(monkeypatch, lambda: step_with_a_state(layer, x, g, hx, lengths=lengths))
    assert taken == ["forward", "back"]
    with torch.no_grad():
        same(monkeypatch, lambda: layer(x, hx, lengths=lengths))
    assert taken[2:] == ["forward"]


@pytest.mark.parametrize("stack", ["two layers", "both directions", "two layers, both directions"])
@pytest.mark.parametrize("kind", LAYERS)
def test_several_layers_and_directions_are_the_same_bit_for_bit(monkeypatch, taken, kind, stack):
    torch.manual_seed(2)
    both_ways, layers = "both" in stack, 2 if "two" in stack else 1
    layer = LAYERS[kind](I, H, layers, bidirectional=both_ways, dropout=0.5 * (layers > 1)).eval()
    D = 2 if both_ways else 1
    runs, x, g = layers * D, torch.randn(T, B, I), torch.randn(T, B, D * H)
    hx = each(lambda _: torch.randn(runs, B, H).requires_grad_(), state(layer))
    same(monkeypatch, lambda: step(layer, x, g))
    same(monkeypatch, lambda: step_with_a_state(layer, x, g, hx))
    assert taken == (["forward"] * runs + ["back"] * runs) * 2
    taken.clear()
    same(monkeypatch, lambda: step(layer, x, g, lengths=[9, 1, 4, 9]))
    assert len(taken) == (0 if both_ways else 2 * runs)
    taken.clear()

    def with_dropout():
        torch.manual_seed(5)
        return step(layer.train(), x, g)

    same(monkeypatch, with_dropout)
    assert not taken or layers == 1


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_reset_is_the_same_bit_for_bit(monkeypatch, taken, kind, layers):
    torch.manual_seed(2)
    layer, hx = LAYERS[kind](I, H, layers), state(LAYERS[kind](I, H))
    hx = each(lambda part: part.repeat(layers, 1, 1).requires_grad_(), hx)
    x, g, reset = torch.randn(T, B, I), torch.randn(T, B, H), torch.rand(T, B) > 0.6
    same(monkeypatch, lambda: step(layer, x, g, reset=reset))
    same(monkeypatch, lambda: step_with_a_state(layer, x, g, hx, reset=reset))
    assert taken == (["forward"] * layers + ["back"] * layers) * 2
    taken.clear()
    with torch.no_grad():
        same(monkeypatch, lambda: layer(x, reset=reset))
        same(monkeypatch, lambda: layer(x, reset=reset.t().contiguous().t()))
    assert taken == ["forward"] * layers  # of the mask whose rows lie apart the general call


def test_a_reset_that_is_replaced_or_changed_before_the_way_back(monkeypatch, taken, layer):
    x, g, reset = torch.randn(T, B, I), torch.randn(T, B, H), torch.rand(T, B) > 0.6

    def copied(t):
        return t.clone() if t.dtype is torch.bool else t

    def run():
        with torch.autograd.graph.saved_tensors_hooks(copied, lambda t: t):
            output = layer(x, reset=reset)[0]
        return torch.autograd.grad(output, list(layer.parameters()), g)

    same(monkeypatch, run)
    assert taken == ["forward"]
    output = layer(x, reset=reset)[0]
    reset[3] = True
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize("wrong", [torch.zeros(T, B), torch.zeros(B, T, dtype=torch.bool), 3])
def test_a_bad_reset_is_told_as_before(layer, wrong):
    with pytest.raises(tt.errors.ThroughTimeError, match="reset must be a bool tensor"):
        layer(torch.randn(T, B, I), reset=wrong)


def test_one_weight_of_several_layers_may_change(monkeypatch, taken):
    layer, x, g = tt.GRU(I, H, 2), torch.randn(T, B, I), torch.randn(T, B, H)
    before = layer(x)[0]
    layer.weight_hh_l1 = nn.Parameter(torch.randn(3 * H, H))
    same(monkeypatch, lambda: step(layer, x, g))
    assert taken == ["forward"] * 4 + ["back"] * 2
    assert not torch.equal(layer(x)[0], before)


def test_a_state_carried_from_call_to_call(monkeypatch, taken, layer):
    x, g = torch.randn(T, B, I), torch.randn(T, B, H)

    def run():
        first, middle = layer(x[:4])
        second, _ = layer(x[4:], middle)
        output = torch.cat((first, second))
        return output, torch.autograd.grad(output, list(layer.parameters()), g)

    same(monkeypatch, run)
    assert taken == ["forward", "forward", "back", "back"]


def test_a_state_alone_requires_grad(monkeypatch, taken, layer):
    layer.requires_grad_(False)
    x, hx = torch.randn(T, B, I), each(lambda part: part.requires_grad_(), state(layer))
    leaves = [hx] if isinstance(hx, torch.Tensor) else hx
    same(monkeypatch, lambda: torch.autograd.grad(layer(x, hx)[0].sum(), leaves))
    assert taken == ["forward", "back"]


@pytest.mark.parametrize("wrong", ["a tuple of one", "rows", "float32", "a number", "two axes"])
def test_a_bad_state_is_told_as_before(layer, wrong):
    hx = state(layer)
    bad = {
        "a tuple of one": (hx if isinstance(hx, torch.Tensor) else hx[0],),
        "rows": each(lambda part: part[:, :2], hx),
        "float32": each(torch.Tensor.float, hx),
        "a number": 3,
        "two axes": each(lambda part: part[0], hx),
    }[wrong]
    with pytest.raises(tt.errors.ThroughTimeError, match=r"hx|h_0"):
        layer(torch.randn(T, B, I), bad)


# Whatever is unusual in what comes in takes the way there was, forward and back.
UNUSUAL = {
    "a negated state": lambda layer, x: layer(x, each(torch._neg_view, state(layer))),
    "a state of a subclass": lambda layer, x: layer(
        x, each(lambda part: part.as_subclass(Sub), state(layer))
    ),
    "no batch": lambda layer, x: layer(x[:, 0]),
    "a reset beside lengths": lambda layer, x: layer(
        x, reset=torch.rand(T, B) > 0.5, lengths=[9, 2, 3, 1]
    ),
    "rows apart": lambda layer, x: layer(x.repeat(1, 1, 2)[..., ::2]),
    "a negated view": lambda layer, x: layer(torch._neg_view(x)),
    "a subclass": lambda layer, x: layer(x.as_subclass(Sub)),
    "another schedule": lambda layer, x: tt.set_through(layer, tt.Truncated(3))(x),
    "lengths of numpy": lambda layer, x: layer(x, lengths=torch.tensor([9, 2, 3, 1]).numpy()),
    "functional_call": lambda layer, x: torch.func.functional_call(
        layer, {n: p * 2 for n, p in layer.named_parameters()}, (x,)
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_calls(monkeypatch, taken, layer, name):
    x = torch.randn(T, B, I)

    def run():
        torch.manual_seed(3)
        layer.through = tt.Full()
        layer.zero_grad()
        output, final = UNUSUAL[name](layer, x)
        torch.Tensor(output).square().sum().backward()
        return output.as_subclass(torch.Tensor), final, [p.grad for p in layer.parameters()]

    quick, plain = both(monkeypatch, run)
    for got, want in zip(flat(quick), flat(plain), strict=True):
        assert torch.equal(got.as_subclass(torch.Tensor), want.as_subclass(torch.Tensor))
    # Two parts side by side are a copy, which is no view any more.
    joined = name == "a negated state" and isinstance(layer, tt.LSTM)
    assert taken == (["forward", "back"] if joined else [])


# Whatever is unusual on the way back, after a forward sweep that was prepared.
def in_place(layer, x, g):
    output = layer(x)[0]
    output.mul_(2)
    return torch.autograd.grad(output, list(layer.parameters()), g)


def with_the_final_state(layer, x, g):
    output, final = layer(x, lengths=[9, 2, 7, 1])
    parts = [final] if isinstance(final, torch.Tensor) else list(final)
    return torch.autograd.grad(
        [output, *parts], list(layer.parameters()), [g, *map(torch.ones_like, parts)]
    )


def only_the_final_state(layer, x, g):
    final = layer(x)[1]
    part = final if isinstance(final, torch.Tensor) else final[1]
    return torch.autograd.grad(part.sum(), list(layer.parameters()))


def twice(layer, x, g):
    output = layer(x, lengths=[9, 2, 7, 1])[0]
    (first,) = torch.autograd.grad(output, layer.weight_hh_l0, g, create_graph=True)
    return first, torch.autograd.grad(first.square().sum(), list(layer.parameters()))


def many_at_once(layer, x, g):
    output = layer(x, lengths=[9, 2, 7, 1])[0]
    lead = torch.stack((g, 2 * g, -g))
    return torch.autograd.grad(output, list(layer.parameters()), lead, is_grads_batched=True)


def summed(layer, x, g):
    return torch.autograd.grad(layer(x, lengths=[9, 2, 7, 1])[0].sum(), list(layer.parameters()))


def of_copies(layer, x, g):
    def copied(t):
        if isinstance(t, nn.Parameter) or t is x:
            return t
        copy = t.clone()
        t.data.fill_(torch.nan)  # whoever reads on there shows
        return copy

    with torch.autograd.graph.saved_tensors_hooks(copied, lambda t: t):
        output = layer(x, lengths=[9, 2, 7, 1])[0]
    return torch.autograd.grad(output, list(layer.parameters()), g)


def of_one_copy(layer, x, g):
    output = layer(x, lengths=[9, 2, 7, 1])[0]

    def copied(t):
        copy = t.clone()
        t.data.fill_(torch.nan)
        return copy

    output.grad_fn._raw_saved_tensors[-1].register_hooks(copied, lambda t: t)
    return torch.autograd.grad(output, list(layer.parameters()), g)


def by_row(layer, x, g):
    with tt.per_sample_grads(layer) as found:
        layer(x, lengths=[9, 2, 7, 1])[0].mul(g).sum().backward()
    return [found[name] for name in sorted(found)]


def by_the_reference(layer, x, g):
    output = layer(x, lengths=[9, 2, 7, 1])[0]
    with kernels.use("reference"):
        return torch.autograd.grad(output, list(layer.parameters()), g)


WAYS = [in_place, with_the_final_state, only_the_final_state, twice, many_at_once, summed]
WAYS += [of_copies, of_one_copy, by_row, by_the_reference]


@pytest.mark.parametrize("way", WAYS)
def test_unusual_ways_back(monkeypatch, taken, layer, way):
    layer.double()
    x, g = torch.randn(T, B, I).double(), torch.randn(T, B, H).double()
    found = both(monkeypatch, lambda: way(layer, x, g))
    for got, want in zip(*map(flat, found), strict=True):
        assert torch.linalg.norm(got - want) <= 1e-12 * torch.linalg.norm(want)
    # An LSTM's output is not its tape's states, and may be written into.
    ordinary = (summed, with_the_final_state, only_the_final_state)
    plain = way in ordinary or (way is in_place and isinstance(layer, tt.LSTM))
    assert taken == (["forward", "back"] if plain else ["forward"])


def test_steps_not_taken_are_filled_in_as_the_general_way_leaves_them(monkeypatch, layer):
    native = importlib.import_module("throughtime.kernels.cpu.library")
    empty = native.empty
    monkeypatch.setattr(native, "empty", lambda *of: empty(*of).fill_(torch.nan))
    x, lengths = torch.randn(T, B, I), torch.tensor([9, 2, 7, 1])
    active = torch.arange(T)[:, None] < lengths
    cell = stack.cell_of(layer, "l0")
    prepared = kernels.prepare(cell)
    assert prepared is not None and prepared.takes(x)
    found = prepared.forward(x, None, (ctypes.c_int32 * B)(*lengths.tolist()), keep=True)
    tape = kernels.outputs(cell, x, None, active).tape
    assert tape is not None
    assert any(part.isnan().any() for part in found.kept)
    for got, want in zip(filled(found.kept, active), (tape.s, *tape.saved), strict=True):
        assert torch.equal(got, want)
    assert not found.h.isnan().any()


def test_weights_that_moved_are_found_where_they_are(monkeypatch, taken):
    layer = tt.RNN(H, H, dtype=torch.float32)
    x, g = torch.randn(2, T, B, H, dtype=torch.float32)
    layer(x)
    layer.weight_hh_l0.data = torch.randn(H, H, dtype=torch.float32)
    same(monkeypatch, lambda: step(layer, x, g))
    layer.weight_hh_l0.data = layer.weight_hh_l0.data.t()  # the same address and shape
    same(monkeypatch, lambda: step(layer, x, g))
    layer.weight_hh_l0 = nn.Parameter(torch.randn(H, H, dtype=torch.float32))
    same(monkeypatch, lambda: step(layer, x, g))
    assert taken == ["forward", *["forward", "back"] * 2]
    layer.weight_hh_l0 = nn.Parameter(layer.weight_hh_l0.data)  # another one in the same memory
    step(layer, x, g)
    layer.double()
    same(monkeypatch, lambda: step(layer, x.double(), g.double()))
    with pytest.raises(tt.errors.DtypeError):
        layer(x)
    del layer.bias_hh_l0
    layer.bias_hh_l0 = nn.Parameter(torch.randn(H).double())
    same(monkeypatch, lambda: step(layer, x.double(), g.double()))


def test_weights_of_another_dtype_at_the_same_address(taken):
    layer, x = tt.RNN(I, H, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    layer(x)
    for weight in layer.parameters():
        halves = weight.data.view(torch.float32).flatten()
        weight.data = halves[: weight.numel()].view(weight.shape)
    with pytest.raises(tt.errors.DtypeError):
        layer(x)
    assert taken == ["forward"]


def test_a_copy_has_its_own(monkeypatch, layer):
    x, g = torch.randn(T, B, I), torch.randn(T, B, H)
    layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        nn.init.normal_(other.weight_hh_l0)
        assert not torch.equal(other(x)[0], layer(x)[0])
        same(monkeypatch, lambda other=other: step(other, x, g))


def test_weights_changed_before_the_way_back_are_noticed(layer):
    output = layer(torch.randn(T, B, I))[0]
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@pytest.mark.parametrize(
    "lengths", [[9, 0, 1, 1], [10, 1, 1, 1], [9, 1], [9, 1.5, 1, 1], torch.ones(4), [True] * 4, 7]
)
def test_bad_lengths_are_told_as_before(layer, lengths):
    with pytest.raises(tt.errors.ThroughTimeError, match="lengths"):
        layer(torch.randn(T, B, I), lengths=lengths)


@pytest.mark.parametrize("hx", [False, True])
def test_negated_views_are_read_as_what_they_stand_for(layer, hx):
    x, g = torch.randn(T, B, I), torch.randn(T, B, H)
    with torch.no_grad():
        named = {"hx": layer(x)[1]} if hx else {}
    want = flat(step(layer, -x, -g, **named))
    got = flat(step(layer, torch._neg_view(x), torch._neg_view(g), **named))
    for a, b in zip(got, want, strict=True):
        assert torch.linalg.norm(a - b) <= 1e-5 * torch.linalg.norm(b)


def test_an_emptied_storage_is_told_by_torch(layer):
    x = torch.randn(T, B, I)
    x.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError):
        layer(x)


def test_threads_share_a_layer(layer):
    x, g = torch.randn(T, B, I), torch.randn(T, B, H)
    want, differing = flat(step(layer, x, g)), []

    def run():
        for _ in range(50):
            got = flat(step(layer, x, g))
            differing.extend(not torch.equal(a, b) for a, b in zip(got, want, strict=True))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(differing) == 4 * 50 * len(want) and not any(differing)


def test_what_ran_is_remembered(layer):
    layer(torch.randn(T, B, I))
    chosen = kernels.last_choice()
    assert chosen is not None and chosen.name == "native"
    with kernels.use("reference"):
        layer(torch.randn(T, B, I))
        chosen = kernels.last_choice()
        assert chosen is not None and chosen.name == "reference"


@pytest.mark.parametrize("hx", [False, True])
def test_tensors_without_memory_do_not_reach_native_code(layer, hx):
    x = torch.randn(T, B, I)
    with torch.no_grad():
        named = {"hx": layer(x)[1]} if hx else {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        output, _ = layer(x, **named)
        assert isinstance(output, FakeTensor) and output.shape == (T, B, H)
    output = layer(x)[0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        (grad,) = torch.autograd.grad(output, layer.weight_hh_l0, torch.ones(T, B, H))
        assert isinstance(grad, FakeTensor)
    with FlopCounterMode(display=False):  # a mode that only looks on
        layer(x)
    chosen = kernels.last_choice()
    assert chosen is not None and chosen.name == "native"
