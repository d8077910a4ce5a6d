"""What torch's own tools make of the layers: traced, drawn as a graph, quantized, exported."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import ShapeError, UnsupportedError
from throughtime.testing import assert_close

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

T, B, I, H = 7, 3, 4, 5
LAYERS = {
    "RNN": lambda: tt.RNN(I, H),
    "LSTM": lambda: tt.LSTM(I, H, num_layers=2),
    "GRU, both ways": lambda: tt.GRU(I, H, bidirectional=True, batch_first=True),
    "Recurrent": lambda: tt.Recurrent(tt.cells.Leaky(I, H)),
    "Function": lambda: tt.Recurrent(own_cell()),
}
ANY = torch.export.Dim.DYNAMIC


def own_cell():
    weights = {"U": torch.randn(H, I) / I, "W": torch.randn(H, H) / H}
    return tt.cells.Function(
        lambda x, s, U, W: torch.tanh(x @ U.T + s @ W.T), I, H, weights=weights
    )


class Model(nn.Module):
    """What people write around a layer: lengths passed on, the output taken apart."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths=None, reset=None):
        given = {"lengths": lengths, "reset": reset}
        h, _ = self.layer(x, **{name: value for name, value in given.items() if value is not None})
        return 2 * h


@pytest.mark.parametrize("kind", LAYERS)
def test_a_traced_layer_refuses_another_number_of_steps(kind):
    layer, x = LAYERS[kind](), torch.randn(T, T, I)  # as long as it is wide: T is one of both
    file = io.BytesIO()
    once = torch.jit.trace(layer, x)
    torch.jit.save(once, file)
    file.seek(0)
    for traced in (once, torch.jit.load(file)):
        rows = torch.randn(T, T, I)
        assert_close(traced(rows)[0], layer(rows)[0], rtol=1e-6)
        for steps in (T + 3, T - 3):
            other = (T, steps) if getattr(layer, "batch_first", False) else (steps, T)
            with pytest.raises(RuntimeError, match=f"traced for T={T} steps"):
                traced(torch.randn(*other, I))


def test_a_traced_layer_refuses_an_input_without_a_batch_where_it_saw_one():
    layer = tt.LSTM(I, H)
    for seen, other in (((T, B, I), (T, I)), ((T, I), (T, 1, I))):
        traced = torch.jit.trace(layer, torch.randn(seen))
        with pytest.raises(RuntimeError, match="traced with a batch, or without one"):
            traced(torch.randn(other))


def test_the_refusal_survives_freezing():
    model = Model(tt.LSTM(I, H)).eval()
    frozen = torch.jit.freeze(torch.jit.trace(model, torch.randn(T, B, I)))
    with pytest.raises(RuntimeError, match=f"traced for T={T} steps"):
        frozen(torch.randn(T + 1, B, I))


def test_the_older_exporter_to_onnx_is_refused():
    pytest.importorskip("onnx", reason="onnx is not installed: pip install throughtime[onnx]")
    with warnings.catch_warnings(), pytest.raises(UnsupportedError, match="dynamo=True"):
        warnings.simplefilter("ignore")
        model = Model(tt.LSTM(I, H)).eval()
        torch.onnx.export(model, (torch.randn(T, B, I),), io.BytesIO(), dynamo=False)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_symbolic_trace_takes_a_layer_as_a_leaf(kind):
    model, x, lengths = Model(LAYERS[kind]()), torch.randn(T, T, I), torch.tensor([3] * T)
    drawn = torch.fx.symbolic_trace(model)
    calls = [node for node in drawn.graph.nodes if node.op == "call_module"]
    assert [node.target for node in calls] == ["layer"]
    assert drawn.layer is model.layer
    assert_close(drawn(x, lengths), model(x, lengths), rtol=0)
    held = torch.fx.symbolic_trace(model, concrete_args={"lengths": None})
    assert_close(held(x[:4], None), model(x[:4]), rtol=0)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_an_unconverted_model_is_quantized(kind):
    if not torch.backends.quantized.supported_engines:
        pytest.skip("this build of torch has no engine for quantized layers")
    torch.manual_seed(0)
    model, x = nn.Sequential(getattr(tt, kind)(I, H)), torch.randn(T, B, I)
    want = model(x)[0].detach()
    small = torch.ao.quantization.quantize_dynamic(tt.unconvert(model), {nn.LSTM, nn.GRU})
    assert "quantized" in type(small[0]).__module__
    assert_close(small(x)[0], want, rtol=0.1)


# torch says so of every recurrent layer of its own.
@pytest.mark.filterwarnings("ignore:The tensor attributes self.0._flat_weights")
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_an_unconverted_model_goes_through_torch_export(kind):
    model, x = nn.Sequential(getattr(tt, kind)(I, H)), torch.randn(T, B, I)
    want, file = model(x)[0].detach(), io.BytesIO()
    torch.export.save(torch.export.export(tt.unconvert(model).eval(), (x,)), file)
    file.seek(0)
    assert_close(torch.export.load(file).module()(x)[0], want, rtol=1e-6)


# --- torch.export ---------------------------------------------------------------------------------


def exported(model, *args, sizes, strict=False):
    """Export, save and load."""
    file = io.BytesIO()
    program = torch.export.export(model.eval(), args, dynamic_shapes=sizes, strict=strict)
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_strict_export_keeps_steps_and_rows_open_beside_resets(kind):
    model = Model(getattr(tt, kind)(I, H, bidirectional=kind == "GRU"))
    sizes = {"x": {0: ANY, 1: ANY}, "lengths": {0: ANY}, "reset": {0: ANY, 1: ANY}}

    def drawn(steps, rows):
        lengths = torch.arange(rows) % steps + 1
        return torch.randn(steps, rows, I), lengths, torch.rand(steps, rows) > 0.6

    program = exported(model, *drawn(T, B), sizes=sizes, strict=True)
    for steps, rows in ((2, 2), (31, 9), (1, 1)):
        given = drawn(steps, rows)
        assert_close(program(*given), model(*given), rtol=1e-6)
    with pytest.raises(ShapeError, match="at least one time step"):
        program(torch.randn(0, B, I), torch.ones(B, dtype=torch.long), torch.ones(0, B) > 0)


@pytest.mark.filterwarnings("ignore:The tensor attributes self.layer._flat_weights")
@pytest.mark.parametrize("kind", ["LSTM", "Recurrent", "Function"])
def test_what_goes_step_by_step_is_exported_for_any_number_of_rows_and_refuses_other_steps(kind):
    model = Model(LAYERS[kind]())
    if kind == "LSTM":  # the layers of torch.nn fix the number of steps themselves
        model = tt.unconvert(model)
    program = exported(model, torch.randn(T, B, I), sizes={"x": {1: ANY}})
    for rows in (1, 9):
        x = torch.randn(T, rows, I)
        assert_close(program(x), model(x), rtol=1e-6)
    for steps in (T - 2, T + 2):
        with pytest.raises((AssertionError, RuntimeError), match=rf"\b{T}\b"):
            program(torch.randn(steps, B, I))


@pytest.mark.parametrize("kind", ["Recurrent", "Function"])
def test_ones_own_cell_says_that_its_steps_cannot_stay_open(kind):
    with pytest.raises(UnsupportedError, match="axis of steps out of dynamic_shapes"):
        exported(Model(LAYERS[kind]()), torch.randn(T, B, I), sizes={"x": {0: ANY}})


class Packing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = tt.GRU(I, H)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return self.layer(packed)[1]


def test_an_export_of_packed_rows_is_sent_to_lengths():
    with pytest.raises(UnsupportedError, match="padded input with lengths="):
        torch.export.export(Packing(), (torch.randn(T, B, I), torch.tensor([7, 3, 1])))


# --- What is refused in words of this package -------------------------------------------------


@pytest.mark.parametrize("kind", ["LSTM", "Recurrent"])
@pytest.mark.parametrize("inside", [False, True], ids=["the layer itself", "within a model"])
def test_a_script_is_refused(kind, inside):
    layer = LAYERS[kind]()
    with pytest.raises(UnsupportedError, match=r"cannot read the Python .* tt\.unconvert\(model\)"):
        torch.jit.script(nn.Sequential(layer) if inside else layer)


def test_an_unconverted_model_is_scripted_and_traced_for_any_number_of_steps():
    for kind in (tt.RNN, tt.LSTM, tt.GRU):
        model = tt.unconvert(nn.Sequential(kind(I, H, num_layers=2, bidirectional=True))).eval()
        traced = torch.jit.trace(model, torch.randn(T, B, I))
        for run in (traced, torch.jit.script(model)):
            for shape in ((T, B), (T + 3, 1), (2, 5)):
                x = torch.randn(*shape, I)
                assert_close(run(x)[0], model(x)[0], rtol=1e-6)


def test_the_older_exporter_is_refused_by_a_layer_alone():
    pytest.importorskip("onnx", reason="onnx is not installed: pip install throughtime[onnx]")
    for kind in LAYERS:
        with warnings.catch_warnings(), pytest.raises(UnsupportedError, match="dynamo=True"):
            warnings.simplefilter("ignore")
            torch.onnx.export(LAYERS[kind](), (torch.randn(T, B, I),), io.BytesIO(), dynamo=False)


def test_a_symbolic_trace_of_the_layer_alone_is_refused():
    for kind in LAYERS:
        with pytest.raises(UnsupportedError, match=r"nn\.Sequential\(layer\)"):
            torch.fx.symbolic_trace(LAYERS[kind]())


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_a_leaf_within_a_trace_too(kind):
    model = Model(LAYERS[kind]())
    with tt.trace(model):
        drawn = torch.fx.symbolic_trace(model)
    assert [node.target for node in drawn.graph.nodes if node.op == "call_module"] == ["layer"]


def test_a_symbolic_trace_within_a_stream_is_refused_and_the_stream_goes_on():
    model, x = nn.Sequential(tt.GRU(I, H)), torch.randn(2 * T, B, I)
    found = []
    for part in tt.stream(model, x, window=T):
        with pytest.raises(UnsupportedError, match="before the loop or after it"):
            torch.fx.symbolic_trace(model)
        found.append(model(part)[0])
    assert_close(torch.cat(found), model(x)[0], rtol=1e-6)


def test_a_truncated_layer_is_traced_only_where_its_schedule_plays_no_part():
    layer, x = tt.LSTM(I, H, through=tt.Truncated(2)), torch.randn(T, B, I)
    with pytest.raises(UnsupportedError, match=r"Trace under torch\.no_grad\(\)"):
        torch.jit.trace(layer, x)
    with torch.no_grad():
        assert_close(torch.jit.trace(layer, x)(x)[0], layer(x)[0], rtol=1e-6)


def test_a_jit_trace_within_a_trace_is_refused():
    model = nn.Sequential(tt.LSTM(I, H))
    with pytest.raises(UnsupportedError, match=r"within tt\.trace"), tt.trace(model):
        torch.jit.trace(model, torch.randn(T, B, I))


@pytest.mark.parametrize("how", ["export", "strict export", "trace"])
@pytest.mark.parametrize("kind", [tt.GRU, nn.GRU])
def test_a_stream_does_not_lend_its_state_to_a_program(kind, how):
    model = nn.Sequential(kind(I, H)).eval()
    # The compiler passes it on in an error of its own, in which torch 2.8 names its kind alone.
    told = "from outside the model" + "|raised exception .*UnsupportedError" * (
        how == "strict export"
    )
    with pytest.raises(Exception, match=told) as caught:
        for part in tt.stream(model, torch.randn(2 * T, B, I), window=T):
            if how == "trace":
                torch.jit.trace(model, part)
            else:
                torch.export.export(model, (part,), strict=how == "strict export")
    if how != "strict export":
        assert caught.type is UnsupportedError
