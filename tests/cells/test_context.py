"""What a step is given beside its weights: an encoder's memory, a hypernetwork's weights."""

import copy

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import errors, kernels
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H, N = 40, 3, 2, 4, 5  # more steps than leave a graph
RTOL = 1e-9


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=F64)


def by_weights(x, s, W):
    """A hypernetwork's weights: one for all rows."""
    return torch.tanh(x @ W[:I] + s @ W[I:])


def shared(x, s, memory):
    """Attention over a memory (N, H) that all rows share."""
    return torch.tanh(torch.softmax(s @ memory.T, 1) @ memory + nn.functional.pad(x, (0, H - I)))


def attend(x, s, memory, mask):
    """Attention over each row's own memory (B, N, H), of which some places are padding."""
    scores = torch.einsum("bh,bnh->bn", s, memory).masked_fill(~mask, -torch.inf)
    read = torch.einsum("bn,bnh->bh", torch.softmax(scores, 1), memory)
    return torch.tanh(read + nn.functional.pad(x, (0, H - I)))


class Attend(nn.Module):
    """The same, with weights of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(I + H, H, dtype=F64)

    def forward(self, x, s, memory, mask):
        return attend(x, s, memory, mask) * torch.sigmoid(self.inner(torch.cat((x, s), 1)))


MASK = torch.arange(N) < torch.tensor([5, 2, 4])[:, None]


class Case:
    """A step, what computes its context from a source, and the loss of a run."""

    def __init__(self, name, rows=B):
        torch.manual_seed(1)
        self.rows, self.step = rows, {"hyper": by_weights, "shared": shared}.get(name, attend)
        shape = {"hyper": (I + H, H), "shared": (N, H)}.get(name, (rows, N, H))
        self.encoder = nn.Linear(H, shape[-1], dtype=F64)
        self.source = draw(*shape[:-1], H, seed=2).requires_grad_()
        if name == "module":
            self.step = Attend()
        self.extra = {"mask": MASK[:rows]} if self.step not in (by_weights, shared) else {}
        self.key = "W" if name == "hyper" else "memory"
        self.weights = [*self.encoder.parameters(), self.source]
        self.weights += list(self.step.parameters()) if name == "module" else []
        self.x, self.s_0 = draw(T, rows, I, seed=3), draw(rows, H, seed=4)

    def context(self):
        return {self.key: self.encoder(self.source) / 2, **self.extra}

    def unrolled(self, context, reset=None, lengths=None):
        """Give the outputs by a loop written by hand."""
        s, outputs = self.s_0, []
        for t, x_t in enumerate(self.x):
            s = s if reset is None else torch.where(reset[t, :, None], 0, s)
            new = self.step(x_t, s, **context)
            takes = None if lengths is None else (t < lengths)[:, None]
            s = new if takes is None else torch.where(takes, new, s)
            outputs.append(s if takes is None else torch.where(takes, s, 0))
        return torch.stack(outputs), s

    def loss(self, output, final):
        return (output * draw(*output.shape, seed=5)).sum() + final.pow(2).sum()

    def grads(self, loss):
        return torch.autograd.grad(loss, self.weights, retain_graph=True)


NAMES = ["hyper", "shared", "memory", "module"]


def compare(case, got, want):
    for a, b in zip(case.grads(got), case.grads(want), strict=True):
        assert b.norm() > 0
        assert_close(a, b, rtol=RTOL)


EXACT = [tt.Full(), tt.Checkpointed(7), tt.Checkpointed(memory="4 kB"), tt.Truncated(T)]


@pytest.mark.parametrize("through", EXACT, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("how", ["plain", "lengths", "reset"])
def test_the_gradient_goes_on_to_what_computed_the_context(name, through, how):
    case = Case(name)
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H), through=through)
    options = {}
    if how == "lengths":
        options["lengths"] = torch.tensor([T, 5, 33])
    if how == "reset":
        options["reset"] = torch.rand(T, B) < 0.1
    output, final = layer(case.x, case.s_0, context=case.context(), **options)
    want = case.unrolled(case.context(), **options)
    assert_close(output, want[0], rtol=1e-12)
    compare(case, case.loss(output, final), case.loss(*want))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 4])
def test_few_steps_too(name, steps):
    case = Case(name)
    case.x = case.x[:steps]
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    got = layer(case.x, case.s_0, context=case.context())
    compare(case, case.loss(*got), case.loss(*case.unrolled(case.context())))


@pytest.mark.parametrize("through", [tt.Truncated(9), tt.Truncated(6, 3)], ids=str)
@pytest.mark.parametrize("name", ["hyper", "memory"])
def test_a_truncated_gradient_is_that_of_each_loss_within_its_reach(name, through):
    case = Case(name)
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H), through=through)
    context = case.context()
    output, _ = layer(case.x, case.s_0, context=context)
    (got,) = torch.autograd.grad((output * draw(*output.shape, seed=5)).sum(), context[case.key])

    # What each block of `every` losses sends back `window` steps, by a loop.
    every = through.every or through.window
    reach = 0 if through.every is None else through.window - every
    weight = context[case.key].detach().requires_grad_()
    states = case.unrolled(case.context())[0].detach()
    want = torch.zeros_like(weight)
    for first in range(0, T, every):
        begin = max(0, first - reach)
        s, loss = (states[begin - 1] if begin else case.s_0), 0.0
        for t in range(begin, min(first + every, T)):
            s = case.step(case.x[t], s, **{**context, case.key: weight})
            if t >= first:
                loss = loss + (s * draw(T, B, H, seed=5)[t]).sum()
        want += torch.autograd.grad(loss, weight)[0]
    assert_close(got, want, rtol=RTOL)


@pytest.mark.parametrize("name", ["hyper", "shared", "memory"])
def test_a_function_built_anew_in_each_call_takes_them_in_weights(name):
    case = Case(name)

    def run():
        context = case.context()
        step = (
            case.step if "mask" not in context else lambda x, s, memory: attend(x, s, memory, MASK)
        )
        cell = tt.cells.Function(step, I, H, weights={case.key: context[case.key]})
        assert not list(cell.parameters()) and list(cell.weights()) == [case.key]
        return tt.Recurrent(cell)(case.x, case.s_0)

    want = case.loss(*case.unrolled(case.context()))
    for _ in range(2):
        compare(case, case.loss(*run()), want)


def test_a_memory_of_one_row_and_one_for_all_rows_go_back_by_blocks_others_step_by_step():
    def engine(case):
        layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
        case.grads(case.loss(*layer(case.x, case.s_0, context=case.context())))
        return kernels.last_choice(), layer.cell.apart

    assert engine(Case("shared"))[0].name == "blocks"
    assert engine(Case("hyper"))[0].name == "blocks"
    assert engine(Case("memory", rows=1))[0].name == "blocks"
    choice, apart = engine(Case("memory"))
    assert choice.name == "reference" and "cannot take 6 rows instead of 3" in choice.reason
    assert "cannot take 6 rows" in apart


def test_one_tensor_in_two_places_in_two_layers_and_in_several_calls():
    case = Case("shared")

    def twice(x, s, memory, other):
        return shared(x, s, memory) + shared(x, s, other) / 2

    first = tt.Recurrent(tt.cells.Function(twice, I, H))
    second = tt.Recurrent(tt.cells.Function(lambda x, s, memory: shared(x[:, :I], s, memory), H, H))
    memory = case.context()["memory"]
    total, want = 0.0, 0.0
    for k in range(2):
        h, s = first(case.x + k, case.s_0, context={"memory": memory, "other": memory})
        out, last = second(h, context={"memory": memory})
        total = total + case.loss(out, last) + s.sum()
        a, b = case.s_0, torch.zeros(B, H, dtype=F64)
        outs = []
        for x_t in case.x + k:
            a = twice(x_t, a, memory, memory)
            b = shared(a[:, :I], b, memory)
            outs.append(b)
        want = want + case.loss(torch.stack(outs), b) + a.sum()
    compare(case, total, want)


def test_a_leaf_that_requires_grad_gets_its_own_gradient_and_is_trained():
    W = draw(I + H, H).requires_grad_()
    layer = tt.Recurrent(tt.cells.Function(by_weights, I, H, weights={"W": W}))
    assert [id(p) for p in layer.parameters()] == [id(W)]
    layer(draw(T, B, I))[0].sum().backward()
    assert W.grad is not None and W.grad.norm() > 0
    torch.optim.SGD(layer.parameters(), lr=0.1).step()
    plain = tt.Recurrent(tt.cells.Function(by_weights, I, H, weights={"W": draw(I + H, H)}))
    assert isinstance(plain.cell.W, nn.Parameter)
    assert list(copy.deepcopy(layer).state_dict()) == list(plain.state_dict()) == ["cell.W"]


def test_what_is_given_is_not_kept():
    """No parameter, no entry of the state, no graph that outlives its call."""
    case = Case("module")
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    before = list(layer.state_dict())
    layer(case.x, context=case.context())
    assert list(layer.state_dict()) == before and not layer.cell.given
    copy.deepcopy(layer)


def test_without_a_graph_nothing_is_computed_for_it():
    case = Case("memory")
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    context = {name: tensor.detach() for name, tensor in case.context().items()}
    x = case.x.requires_grad_()
    output, final = layer(x, case.s_0, context=context)
    (got,) = torch.autograd.grad(case.loss(output, final), x)
    (want,) = torch.autograd.grad(case.loss(*case.unrolled(context)), x)
    assert_close(got, want, rtol=RTOL)
    with torch.no_grad():
        assert_close(layer(x, case.s_0, context=context)[0], output, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_in_the_flow_each_term_is_autograds(name):
    case = Case(name)
    case.x = case.x[:6]
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    context = case.context()
    with tt.trace(layer) as trace:
        output, _ = layer(case.x, case.s_0, context=context)
        losses = output.pow(2).sum((1, 2))
    flow = trace.flow(losses)["l0"]
    assert case.key in flow.weight_names and "mask" not in flow.weight_names

    # By hand: each step its own copy of the context.
    copies = [context[case.key].detach().clone().requires_grad_() for _ in case.x]
    s, states = case.s_0.clone().requires_grad_(), []
    states.append(s)
    for x_t, memory in zip(case.x, copies, strict=True):
        states.append(case.step(x_t, states[-1], **{**context, case.key: memory}))
    for v in range(6):
        loss = states[v + 1].pow(2).sum()
        terms = torch.autograd.grad(loss, copies, retain_graph=True, allow_unused=True)
        grads = torch.autograd.grad(loss, states, retain_graph=True, allow_unused=True)
        for k, (term, g) in enumerate(zip(terms, grads[1:], strict=True)):
            found = flow.weight_grad(case.key, v, k + 1)
            if k > v:
                assert term is None and not found.any() and not flow.norms[v, k + 1].any()
                continue
            assert_close(found, term, rtol=RTOL)
            assert_close(flow.norms[v, k + 1], g.norm(dim=1), rtol=RTOL)
    (whole,) = torch.autograd.grad(losses.sum(), context[case.key], retain_graph=True)
    assert_close(flow.weight_grad(case.key), whole, rtol=RTOL)
    compare(case, losses.sum(), case.unrolled(case.context())[0].pow(2).sum())


@pytest.mark.parametrize("name", ["hyper", "module"])
def test_what_a_truncation_leaves_out_is_known_of_the_context_too(name):
    case = Case(name)
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    context = case.context()

    def weights(through):
        tt.set_through(layer, through)
        output = layer(case.x, case.s_0, context=context)[0]
        return torch.autograd.grad(output.pow(2).sum(), context[case.key])[0]

    with tt.trace(layer) as trace:
        losses = layer(case.x, case.s_0, context=context)[0].pow(2).sum((1, 2))
    share = trace.flow(losses)["l0"].dropped(tt.Truncated(4))[case.key]
    whole = weights(tt.Full())
    assert share > 0
    want = (whole - weights(tt.Truncated(4))).norm() / whole.norm()
    assert share == pytest.approx(float(want), rel=1e-8)


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = tt.LSTM(I, H, batch_first=True, dtype=F64)
        self.decoder = tt.Recurrent(tt.cells.Function(Attend(), I, H))

    def forward(self, source, x):
        memory, _ = self.encoder(source)
        return self.decoder(x, context={"memory": memory, "mask": MASK})[0]


def test_an_encoder_is_trained_through_the_decoder():
    model, source, x = Translator(), draw(B, N, I), draw(T, B, I)
    loss = model(source, x).pow(2).sum()
    got = torch.autograd.grad(loss, list(model.parameters()))
    memory, _ = model.encoder(source)
    s, want = torch.zeros(B, H, dtype=F64), 0.0
    for x_t in x:
        s = model.decoder.cell.step_function(x_t, s, memory, MASK)
        want = want + s.pow(2).sum()
    for a, b in zip(got, torch.autograd.grad(want, list(model.parameters())), strict=True):
        assert_close(a, b, rtol=RTOL)


def test_a_trace_of_both_hands_the_gradient_on_through_the_context():
    model, source, x = Translator(), draw(B, N, I), draw(8, B, I)
    with tt.trace(model) as trace:
        losses = model(source, x).pow(2).sum((1, 2))
    flow = trace.flow(losses)
    assert list(flow) == ["encoder.l0", "decoder.l0"]
    memory, _ = model.encoder(source)
    memory.retain_grad()
    losses = model.decoder(x, context={"memory": memory, "mask": MASK})[0].pow(2).sum((1, 2))
    for v in (0, 5, 7):
        grads = torch.autograd.grad(
            losses[v], [memory, *model.encoder.parameters()], retain_graph=True
        )
        names = [name for name, _ in model.encoder.named_parameters()]
        for name, g in zip(names, grads[1:], strict=True):
            own = flow["encoder.l0"].weight_grad(name.removesuffix("_l0"), loss=v)
            assert_close(own, g, rtol=RTOL)
    with tt.trace(model.decoder) as trace:
        losses = model(source, x).pow(2).sum((1, 2))
    assert list(trace.flow(losses)) == ["l0"]


def test_a_rows_share_is_had_of_the_weights_where_the_context_is_for_all_rows():
    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.W = nn.Parameter(draw(H, H) / 3)

        def forward(self, x, s, memory):
            return shared(x, s @ self.W, memory)

    layer, x = tt.Recurrent(tt.cells.Function(Step(), I, H)), draw(T, B, I)
    memory = draw(N, H).requires_grad_()
    with tt.per_sample_grads(layer):
        layer(x, context={"memory": memory})[0].pow(2).sum().backward()
    W = layer.cell.step_function.W
    for b in range(B):
        loss = layer(x[:, b : b + 1], context={"memory": memory})[0].pow(2).sum()
        assert_close(W.grad_sample[b], torch.autograd.grad(loss, W)[0], rtol=RTOL)
    assert_close(W.grad_sample.sum(0), W.grad, rtol=RTOL)
    (want,) = torch.autograd.grad(layer(x, context={"memory": memory})[0].pow(2).sum(), memory)
    assert_close(memory.grad, want, rtol=RTOL)


@pytest.mark.parametrize("rows", [B, N])
def test_a_rows_share_takes_the_rows_own_memory_along(rows):
    """Also where a tensor that all rows share is as long as there are rows."""
    case = Case("module", rows=B)
    common = draw(rows, H, seed=8)

    class Step(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Attend()

        def forward(self, x, s, memory, mask, common):
            return self.inner(x, s + common.mean(0) + common[1] * common[0], memory, mask)

    layer = tt.Recurrent(tt.cells.Function(Step(), I, H))
    context = {**case.context(), "common": common}
    with tt.per_sample_grads(layer) as weights:
        case.loss(*layer(case.x, case.s_0, context=context)).backward(
            inputs=list(layer.parameters())
        )
    for b in range(B):
        one = slice(b, b + 1)
        own = {n: t if n == "common" else t[one] for n, t in context.items()}
        output, final = layer(case.x[:, one], case.s_0[one], context=own)
        loss = (output * draw(T, B, H, seed=5)[:, one]).sum() + final.pow(2).sum()
        grads = torch.autograd.grad(loss, list(weights.values()), retain_graph=True)
        for weight, grad in zip(weights.values(), grads, strict=True):
            assert_close(weight.grad_sample[b], grad, rtol=RTOL)


@pytest.mark.parametrize("size", [1, 2])
def test_some_rows_of_a_flow_take_their_own_memory_along(size):
    """Jacobians of rows, in any order, and a report on a batch of which it takes a sample."""
    rows, steps = 20, 12

    def step(x, s, memory):
        return torch.tanh(x + (memory @ s[:, :, None]).squeeze(2) + memory.sum((1, 2))[:, None])

    layer = tt.Recurrent(tt.cells.Function(step, size, size))
    memory = draw(rows, size, size).requires_grad_()
    with tt.trace(layer) as trace:
        losses = layer(draw(steps, rows, size), context={"memory": memory})[0].pow(2).sum((1, 2))
    flow = trace.flow(losses)
    whole = flow["l0"].jacobian_product(5, 2)
    for chosen in ([3], [7, 0, 19], list(reversed(range(rows)))):
        assert_close(flow["l0"].jacobian_product(5, 2, rows=chosen), whole[chosen], rtol=RTOL)
    assert torch.isfinite(flow["l0"].lyapunov(rows=[1, 2])).all()
    tt.diagnose(flow)


def test_batched_and_second_derivatives_and_transforms():
    case = Case("hyper")
    case.x = case.x[:6]
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H), through=tt.Checkpointed(2))
    W = case.context()["W"]

    def ours(W):
        return layer(case.x, case.s_0, context={"W": W})[0].pow(2).sum((1, 2))

    def theirs(W):
        return case.unrolled({"W": W})[0].pow(2).sum((1, 2))

    rows = torch.eye(6, dtype=F64)
    got = torch.autograd.grad(ours(W), W, rows, is_grads_batched=True)[0]
    want = torch.autograd.grad(theirs(W), W, rows, is_grads_batched=True)[0]
    assert_close(got, want, rtol=RTOL)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        assert_close(jacobian(ours)(W.detach()), want, rtol=RTOL)

    def second(run):
        (g,) = torch.autograd.grad(run(W).sum(), W, create_graph=True)
        return torch.autograd.grad(g.pow(2).sum(), W)[0]

    assert_close(second(ours), second(theirs), rtol=RTOL)


def test_a_function_that_is_built_within_a_transform_keeps_the_tensor():
    x = draw(6, B, I)

    def loss(W):
        return tt.Recurrent(tt.cells.Function(by_weights, I, H, weights={"W": W}))(x)[0].sum()

    W = draw(I + H, H).requires_grad_()
    assert_close(torch.func.grad(loss)(W.detach()), torch.autograd.grad(loss(W), W)[0], rtol=RTOL)


def test_a_step_whose_weights_are_computed_takes_context_too():
    case = Case("module")
    nn.utils.parametrizations.weight_norm(case.step.inner, "weight")
    case.weights = [case.source, *case.encoder.parameters(), *case.step.parameters()]
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    got = case.loss(*layer(case.x, case.s_0, context=case.context()))
    compare(case, got, case.loss(*case.unrolled(case.context())))


@pytest.mark.parametrize("name", ["shared", "memory"])
def test_vmap_over_contexts(name):
    case = Case(name)
    case.x = case.x[:5]
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    many = draw(4, *case.context()["memory"].shape)

    def run(memory):
        return layer(case.x, case.s_0, context={**case.extra, "memory": memory})[0]

    assert_close(torch.func.vmap(run)(many), torch.stack([run(one) for one in many]), rtol=1e-12)


@pytest.mark.parametrize("steps", [4, T])
def test_under_autocast_the_weights_precision_is_kept(steps):
    """An encoder under autocast puts out half precision."""
    encoder = nn.Linear(H, H)
    layer = tt.Recurrent(tt.cells.Function(Attend().float(), I, H))
    x, source = draw(steps, B, I).float(), draw(B, N, H).float()
    with torch.autocast("cpu", torch.bfloat16):
        memory = encoder(source)
        output = layer(x, context={"memory": memory, "mask": MASK})[0]
    assert memory.dtype == torch.bfloat16 and output.dtype == torch.float32
    output.sum().backward()
    assert encoder.weight.grad.norm() > 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_beside_a_compiled_graph():
    torch._dynamo.reset()
    case = Case("module")
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))

    @torch.compile(backend="aot_eager")
    def run(x, s_0, source):
        memory = torch.nn.functional.linear(source, case.encoder.weight, case.encoder.bias) / 2
        return layer(x * 1, s_0, context={"memory": memory, "mask": MASK})

    got = case.loss(*run(case.x, case.s_0, case.source))
    compare(case, got, case.loss(*case.unrolled(case.context())))


def test_a_change_in_place_before_the_backward_pass_is_noticed():
    case = Case("hyper")
    layer = tt.Recurrent(tt.cells.Function(case.step, I, H))
    context = case.context()
    loss = layer(case.x, context=context)[0].sum()
    with torch.no_grad():
        context["W"].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        case.grads(loss)


@pytest.mark.parametrize(
    ("make", "context", "error", "words"),
    [
        (
            lambda: tt.cells.GRU(I, H, dtype=F64),
            {"m": draw(2)},
            errors.UnsupportedError,
            "takes no context",
        ),
        (lambda: tt.cells.Function(shared, I, H), [], errors.InputTypeError, "must be a dict"),
        (lambda: tt.cells.Function(shared, I, H), {"m": 1}, errors.InputTypeError, "got int"),
        (
            lambda: tt.cells.Function(by_weights, I, H, weights={"W": draw(I + H, H)}),
            {"W": draw(I + H, H)},
            errors.InputValueError,
            "which no weight may have",
        ),
        (lambda: tt.cells.Function(shared, I, H), {"1": draw(2)}, errors.InputValueError, "'1'"),
    ],
)
def test_what_cannot_be_given_is_refused(make, context, error, words):
    with pytest.raises(error, match=words):
        tt.Recurrent(make())(draw(T, B, I), context=context)


def test_a_captured_tensor_is_told_where_it_belongs():
    memory = draw(N, H).requires_grad_() * 2
    layer = tt.Recurrent(tt.cells.Function(lambda x, s: shared(x, s, memory), I, H))
    with pytest.raises(errors.GraphError, match=r"as layer\(x, context=\{name: tensor\}\)"):
        layer(draw(T, B, I))
