"""What torch's own tools make of the layers: traced, drawn as a graph, quantized, exported."""

from __future__ import annotations

import io
import warnings

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import UnsupportedError
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
}


class Model(nn.Module):
    """What people write around a layer: lengths passed on, the output taken apart."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x, lengths=None):
        h, _ = self.layer(x, lengths=lengths)
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
