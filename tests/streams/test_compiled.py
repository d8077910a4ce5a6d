"""A stream over a compiled model carries its states, whenever it was compiled."""

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.testing import assert_close

F64 = torch.float64
T, B, I, H = 16, 3, 2, 4


class Net(nn.Module):
    """Layers of both kinds, and a readout."""

    def __init__(self, num_layers=1):
        super().__init__()
        self.lstm = tt.LSTM(I, H, num_layers, dtype=F64)
        self.own = tt.Recurrent(tt.cells.GRU(H, H, dtype=F64))
        self.readout = nn.Linear(H, 2, dtype=F64)

    def forward(self, x):
        return self.readout(self.own(self.lstm(x)[0])[0])


def trained(run, streamed, x, **options):
    """Give the outputs and gradients of a loop over segments of 4 steps."""
    streamed.zero_grad()
    outputs = []
    for part in tt.stream(streamed, x, window=4, **options):
        outputs.append(run(part))
        if options.get("detach", True):
            outputs[-1].pow(2).sum().backward()
    if not options.get("detach", True):
        torch.cat(outputs).pow(2).sum().backward()
    return torch.cat(outputs), [p.grad.clone() for p in streamed.parameters()]


# Every pair of an option, of what is streamed and of where it is first compiled; not every three:
# the stream's hooks are the same objects whenever the graph is made, and an option is a value that
# they hand over. The package cannot see fullgraph, which makes of a break in the graph an error:
# where there is none, False has to give the same.
CASES = [
    ("plain", "the model", "before the loop", True),
    ("plain", "the compiled one", "within it", True),
    ("detach=False", "the model", "within it", True),
    ("detach=False", "the compiled one", "before the loop", True),
    ("reset", "the model", "before the loop", True),
    ("reset", "the compiled one", "within it", True),
    ("plain", "the model", "within it", False),
]


# What torch.compile does to a tensor with a graph that comes into a compiled part.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize(("options", "over", "first", "fullgraph"), CASES)
def test_a_compiled_model_goes_on_from_its_states(options, over, first, fullgraph):
    model, x, graphs = Net(), torch.randn(T, B, I, dtype=F64), []
    more = {
        "plain": {},
        "detach=False": {"detach": False},
        "reset": {"reset": torch.rand(T, B) > 0.8},
    }[options]
    want, want_grads = trained(model, model, x, **more)

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=count, fullgraph=fullgraph)
    if first == "before the loop":
        compiled(x[:4])
    got, grads = trained(compiled, model if over == "the model" else compiled, x, **more)
    assert_close(got, want, rtol=1e-12)
    for one, other in zip(grads, want_grads, strict=True):
        assert_close(one, other, rtol=1e-12)
    # Without a stream, at its beginning, with a state, and that again where T or the graph differs.
    assert len(graphs) <= 5
    # Alone again, and of the steps that there may be a graph for: of others below.
    assert_close(compiled(x[:4]), model(x[:4]), rtol=1e-12)


def test_a_compiled_model_looks_at_other_data_while_the_stream_is_paused():
    model, x = Net(num_layers=2), torch.randn(T, B, I, dtype=F64)
    want, alone = model(x), model(x[:7])
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    stream, got = tt.stream(compiled, x, window=12), []
    for part in stream:
        with stream.paused():
            assert_close(compiled(x[:7]), alone, rtol=1e-12)
        got.append(compiled(part))
    assert_close(torch.cat(got), want, rtol=1e-12)
    assert all("streamed" not in module.__dict__ for module in model.modules())
