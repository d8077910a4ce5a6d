"""A compiled or exported layer is one node whatever T is, under every schedule, and is exact."""

import io

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import kernels, torch_state
from throughtime.kernels.plain.engine import REFERENCE
from throughtime.node import compiled as compiling
from throughtime.testing import assert_close

KINDS = ("RNN", "GRU", "LSTM")
SCHEDULES = [
    tt.Full(),
    tt.Truncated(3),
    tt.Truncated(4, 2),
    tt.Checkpointed(),
    tt.Checkpointed(every=3),
    tt.Checkpointed(memory="1MiB"),
    tt.Checkpointed(memory=4000),
]
T, B, I, H = 7, 3, 4, 5
# What torch.compile does to a tensor with a graph that comes into a compiled part.
LOOKS_AT_GRAD = "ignore:The .grad attribute of a Tensor that is not a leaf"


# Of torch 2.8 alone, which the suite runs with in `make test-floor`.
OLD = torch.__version__.startswith("2.8.")


@pytest.fixture(autouse=True)
def open_sizes():
    """Let a size depend on values: what fullgraph=True does by itself after torch 2.8."""
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        yield


def ragged(steps=T):
    return {"lengths": torch.tensor([steps, 2, 5]), "reset": torch.rand(steps, B) > 0.7}


def gradients(model, x, **arguments):
    """Give the gradients of a loss that is not stationary where a row has ended."""
    inputs = [x, *model.parameters()]
    return torch.autograd.grad((model(x, **arguments)[0] + 1).pow(2).sum(), inputs)


def compiled(model, **options):
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, **{"backend": "aot_eager", **options})


def same(got, want):
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=1e-12)


def boxed(graph):
    from functorch.compile import make_boxed_func

    return make_boxed_func(graph)


class Counting:
    """A backend that counts the nodes of the graphs forward and back, and what lies between."""

    def __init__(self):
        # Importing it takes seconds, which no other worker need wait for at collection.
        from torch._dynamo.backends.common import aot_autograd

        self.forward, self.back, self.kept = [], [], []
        self.backend = aot_autograd(fw_compiler=self._forward, bw_compiler=self._back)

    def _forward(self, graph, inputs):
        self.forward.append(len(graph.graph.nodes))
        return boxed(graph.forward)

    def _back(self, graph, inputs):
        self.back.append(len(graph.graph.nodes))
        self.kept.append(sum(i.numel() for i in inputs if isinstance(i, torch.Tensor)))
        return boxed(graph.forward)


# A kind is a name that the operation is given; what lies between operations (layers, directions,
# the order of the axes) never sees it.
@pytest.mark.parametrize(
    "kind, options",
    [
        ("RNN", {"batch_first": True}),
        ("GRU", {}),
        ("LSTM", {"num_layers": 2, "bidirectional": True}),
    ],
    ids=str,
)
def test_compiles_into_one_graph_also_with_lengths_and_resets(kind, options):
    model = getattr(tt, kind)(I, H, **options)
    x = torch.randn(*((B, T) if "batch_first" in options else (T, B)), I, requires_grad=True)
    reference = getattr(nn, kind)(I, H, **options)
    reference.load_state_dict(model.state_dict())
    once, masks = compiled(model), ragged()
    same(gradients(once, x), gradients(reference, x))
    same(gradients(once, x, **masks), gradients(model, x, **masks))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [False, True])
def test_where_torchs_own_module_runs_it_does_so_in_a_compiled_graph_too(kind, masked, monkeypatch):
    model, x = getattr(tt, kind)(I, H), torch.randn(T, B, I).requires_grad_()
    masks = ragged() if masked else {}
    with kernels.use("reference"):
        want = gradients(model, x, **masks)
    monkeypatch.setattr(REFERENCE, "forward", None)  # no single step
    monkeypatch.setattr(REFERENCE, "gradients", None)
    with kernels.use("torch"):
        once = compiled(model)
        for _ in range(2):
            same(gradients(once, x, **masks), want)
            assert kernels.last_choice().name == "torch"


def test_another_engine_compiles_anew_and_another_number_of_steps_does_not(monkeypatch):
    counted, model = Counting(), tt.LSTM(I, H)
    once = compiled(model, backend=counted.backend, dynamic=True)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=False):
        for name in ("auto", "torch", "auto"):
            with kernels.use(name):
                for steps in (T, 2 * T, 3):
                    x = torch.randn(steps, B, I).requires_grad_()
                    same(gradients(once, x), gradients(model, x))
                    assert (kernels.last_choice().name == "torch") == (name == "torch")
    assert len(counted.forward) == len(counted.back) == 2
    # The states of all steps lie between the two graphs, or none of them does.
    assert counted.kept[1] < counted.kept[0]
    monkeypatch.setattr(torch_state, "is_on_gpu", lambda tensor: True)
    for kind in ("LSTM", "tanh", "sigmoid"):
        assert compiling.keeps_no_steps(kind, x) == (kind != "sigmoid")


def exact(schedule):
    """Give the schedule whose gradients are wanted: checkpoints give what Full gives."""
    return tt.Full() if isinstance(schedule, tt.Checkpointed) else schedule


def with_and_without_masks(kind, schedule):
    """Give a layer, an input, and what is wanted of it plain and with lengths and resets."""
    model = getattr(tt, kind)(I, H)
    x, masks = torch.randn(T, B, I, requires_grad=True), ragged()
    # What Truncated gives is tested against the terms of a flow.
    tt.set_through(model, exact(schedule))
    wanted = [(more, gradients(model, x, **more)) for more in ({}, masks)]
    return tt.set_through(model, schedule), x, wanted


# What a schedule does is told to the operation in numbers, and the kind by its name: each schedule
# goes with one kind, each kind with two schedules or more.
WITH = [(KINDS[i % 3], schedule) for i, schedule in enumerate(SCHEDULES)]


@pytest.mark.parametrize("kind, schedule", WITH, ids=str)
def test_every_schedule_is_followed_in_a_compiled_graph_that_does_not_grow_with_the_steps(
    kind, schedule
):
    counted = Counting()
    model, x, wanted = with_and_without_masks(kind, schedule)
    once = compiled(model, backend=counted.backend, dynamic=False)
    masks, want = wanted[1]
    same(gradients(once, x, **masks), want)
    gradients(once, torch.randn(60, B, I, requires_grad=True), **ragged(60))
    assert len(set(counted.forward)) == len(set(counted.back)) == 1 < len(counted.forward)


# What is kept has another shape for each of these four.
@pytest.mark.parametrize("kind, schedule", WITH[::2], ids=str)
def test_one_graph_serves_every_number_of_steps(kind, schedule):
    counted = Counting()
    model, x, wanted = with_and_without_masks(kind, schedule)
    reference = tt.set_through(getattr(tt, kind)(I, H), exact(schedule))
    reference.load_state_dict(model.state_dict())
    once = compiled(model, backend=counted.backend, dynamic=True)
    same(gradients(once, x), wanted[0][1])
    for steps in (9, 20):
        x_of = torch.randn(steps, B, I, requires_grad=True)
        same(gradients(once, x_of), gradients(reference, x_of))
    assert len(counted.forward) == len(counted.back) == 1
    if kind == "LSTM":
        masks, want = wanted[1]
        same(gradients(once, x, **masks), want)


def test_checkpoints_keep_less_between_the_two_compiled_graphs():
    counted = Counting()
    model, x = tt.LSTM(I, H), torch.randn(100, B, I, requires_grad=True)
    for schedule in (tt.Full(), tt.Checkpointed()):
        tt.set_through(model, schedule)
        gradients(compiled(model, backend=counted.backend), x)
    full, kept = counted.kept
    # Full: states and gates, 6 H a step; Checkpointed: nine states of 2 H.
    assert full - kept == 101 * B * 2 * H + 100 * B * 4 * H - 9 * B * 2 * H


# Each schedule goes with the LSTM, and each other kind with one of them: see above.
@pytest.mark.parametrize(
    "kind, schedule",
    [*(("LSTM", SCHEDULES[i]) for i in (0, 2, 4, 6)), ("RNN", SCHEDULES[4]), ("GRU", SCHEDULES[2])],
    ids=str,
)
def test_the_operations_keep_to_their_contract(kind, schedule):
    model = getattr(tt, kind)(I, H)
    nonlinearity = getattr(model, "nonlinearity", kind)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = [getattr(model, f"{name}_l0") for name in names]
    s_0 = torch.zeros(B, 2 * H if kind == "LSTM" else H)
    x = torch.randn(T, B, I, requires_grad=True)
    told = schedule.told()
    arguments = (nonlinearity, ",".join(names), *told, x, s_0, weights, None, None)
    torch.library.opcheck(torch.ops.throughtime.layer.default, arguments)


# --- one layer over any cell --------------------------------------------------------------------


def own_step(x, s, W, U):
    return torch.tanh(x @ U.T + s @ W.T)


def own_cell():
    weights = {"W": torch.randn(H, H) / 3, "U": torch.randn(H, I)}
    return tt.cells.Function(own_step, I, H, weights=weights)


@pytest.mark.parametrize("cell", [tt.cells.Elman, tt.cells.LSTM, tt.cells.GRU])
def test_a_recurrent_over_a_cell_of_the_three_is_one_node(cell):
    counted = Counting()
    model, x = tt.Recurrent(cell(I, H)), torch.randn(T, B, I, requires_grad=True)
    same(gradients(compiled(model, backend=counted.backend), x), gradients(model, x))
    assert len(counted.forward) == 1


@pytest.mark.filterwarnings(LOOKS_AT_GRAD)
def test_the_steps_of_ones_own_cell_run_beside_the_graph():
    model, x = tt.Recurrent(own_cell()), torch.randn(T, B, I, requires_grad=True)
    want = gradients(model, x)
    torch._dynamo.reset()
    same(gradients(torch.compile(model, backend="aot_eager"), x), want)
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"use tt\.RNN, tt\.LSTM or tt\.GRU"):
        compiled(model)(x)


# --- torch.export -------------------------------------------------------------------------------


class Tagger(nn.Module):
    """A model as people have them: dropout between layers, a readout, rows of several lengths."""

    def __init__(self, kind):
        super().__init__()
        self.layers = getattr(tt, kind)(I, H, num_layers=2, bidirectional=True, dropout=0.4)
        self.readout = nn.Linear(2 * H, 2)

    def forward(self, x, lengths=None, reset=None):
        return self.readout(self.layers(x, lengths=lengths, reset=reset)[0])


def nodes(program):
    return [n for n in program.graph.nodes if n.target is torch.ops.throughtime.layer.default]


@pytest.mark.parametrize("strict", [False, True])
def test_a_model_in_eval_mode_is_exported(strict):
    if strict and OLD:
        pytest.skip("torch 2.8's strict exporter reads no object that is an attribute of a class")
    model = Tagger("LSTM").eval()  # the other kinds: below, and in layers/test_exported.py
    sizes = {}
    for steps in (T, 50):
        x = torch.randn(steps, B, I)
        program = torch.export.export(model, (x,), strict=strict)
        assert_close(program.module()(x), model(x), rtol=1e-12)
        sizes[steps] = len(program.graph.nodes)
        assert len(nodes(program)) == 4
    assert sizes[T] == sizes[50]


# The operation is told a kind and a schedule apart: each of both once.
@pytest.mark.parametrize(
    "kind, schedule",
    [("LSTM", tt.Full()), ("RNN", tt.Checkpointed()), ("GRU", tt.Truncated(2))],
    ids=str,
)
def test_an_exported_model_takes_any_number_of_steps_and_rows(schedule, kind):
    model = tt.set_through(Tagger(kind), schedule).eval()
    sizes = {0: torch.export.Dim("T", max=10**6), 1: torch.export.Dim("B", max=1000)}
    program = torch.export.export(model, (torch.randn(T, B, I),), dynamic_shapes=(sizes,))
    assert len(nodes(program)) == 4
    for steps, rows in ((2, 2), (31, 9)):
        x = torch.randn(steps, rows, I)
        assert_close(program.module()(x), model(x), rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_lengths_and_resets_are_inputs_of_an_exported_model_which_is_saved_and_loaded(kind):
    model, x, masks = Tagger(kind).eval(), torch.randn(T, B, I), ragged()
    program = torch.export.export(model, (x,), masks)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for more in (masks, {"lengths": torch.tensor([3, 7, 1]), "reset": torch.rand(T, B) > 0.4}):
        assert_close(loaded(x, **more), model(x, **more), rtol=1e-12)


def test_a_layer_over_ones_own_cell_is_exported_step_by_step():
    model, x = tt.Recurrent(own_cell()).eval(), torch.randn(T, B, I)
    program = torch.export.export(model, (x,))
    assert_close(program.module()(x)[0], model(x)[0], rtol=1e-12)


def transforms(model):
    """Give what `torch.func` makes of a layer, as functions of x and a direction."""
    f = torch.func

    def h(x):
        return model(x)[0]

    def loss(x):
        return (h(x) + 1).pow(3).sum()

    return {
        "jvp": lambda x, v: f.jvp(h, (x,), (v,))[1],
        "grad": lambda x, v: f.grad(loss)(x),
        "vmap": lambda x, v: f.vmap(h)(torch.stack((x, v))),
        "vmap of grad": lambda x, v: f.vmap(f.grad(loss))(torch.stack((x, v))),
    }


LAYERS = {
    **{kind: lambda kind=kind: getattr(tt, kind)(I, H) for kind in KINDS},
    "Recurrent GRU": lambda: tt.Recurrent(tt.cells.GRU(I, H)),
    "Recurrent Leaky": lambda: tt.Recurrent(tt.cells.Leaky(I, H)),
}


def of_torch_alone(graph, inputs):
    """Run a graph as it stands, in which nothing of the package may be left."""
    parts = [part.graph for part in graph.modules() if isinstance(part, torch.fx.GraphModule)]
    called = [str(n.target) for g in parts for n in g.nodes if n.op == "call_function"]
    assert called and not [name for name in called if "throughtime" in name]
    return graph.forward


TRANSFORMS = ("jvp", "grad", "vmap", "vmap of grad")


# Within a transform the steps of every cell are written out in torch's own operations, so that the
# transform never meets the kind: all four with one of the three cells and with one of the others.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "layer, transform",
    [
        *(("RNN", transform) for transform in TRANSFORMS),
        *(("Recurrent Leaky", transform) for transform in TRANSFORMS),
        ("LSTM", "vmap of grad"), ("GRU", "jvp"), ("Recurrent GRU", "grad"),
    ],
)  # fmt: skip
def test_torch_func_within_a_compiled_function_is_what_it_is_without(layer, transform):
    call = transforms(LAYERS[layer]())[transform]
    x, v = torch.randn(2, B, I), torch.randn(2, B, I)  # the graph grows with T
    # What comes behind the first graph is torch's own, of which one layer is enough.
    backend = "aot_eager" if layer == "RNN" else of_torch_alone
    found = compiled(call, backend=backend)(x, v)
    assert found.detach().abs().max() > 0
    assert_close(found, call(x, v), rtol=1e-12)
