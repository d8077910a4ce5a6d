"""Models written for ONNX, run by onnxruntime: any number of steps and rows, and lengths."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime.errors import UnsupportedError
from throughtime.testing import assert_close

for name in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(name, reason=f"{name} is not installed: pip install throughtime[onnx]")
import onnxruntime  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ANY = torch.export.Dim.DYNAMIC
T, B, I, H = 4, 3, 2, 5


class Four(nn.Module):
    """A layer of each kind on the same rows, and their final states."""

    def __init__(self):
        super().__init__()
        both = {"num_layers": 2, "bidirectional": True}
        self.lstm = tt.LSTM(I, H, **both)
        self.gru = tt.GRU(2 * H, H, batch_first=True, through=tt.Truncated(2))
        self.rnn = tt.RNN(2 * H, H, nonlinearity="identity", bias=False)
        self.cell = tt.Recurrent(tt.cells.LSTM(2 * H, H))

    def forward(self, x, lengths=None):
        h, (h_n, c_n) = self.lstm(x, lengths=lengths)
        rows, g_n = self.gru(h.transpose(0, 1), lengths=lengths)
        steps, r_n = self.rnn(h, g_n, lengths=lengths)
        last, s_n = self.cell(h, torch.cat((g_n[0], c_n[0]), -1), lengths=lengths)
        return h, h_n, c_n, rows, g_n, steps, r_n, last, s_n


def written(model, path, *args, shapes=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says of torchvision and the like
        program = torch.onnx.export(
            model.eval(), args, dynamo=True, dynamic_shapes=shapes, verbose=False
        )
    program.save(path)
    return program, onnxruntime.InferenceSession(path)


def ran(session, *args):
    names = [i.name for i in session.get_inputs()]
    found = session.run(None, dict(zip(names, (a.numpy() for a in args), strict=True)))
    return [torch.from_numpy(value) for value in found]


def operators(program):
    return [node.op_type for node in program.model.graph]


@pytest.mark.parametrize("ragged", [False, True], ids=["full rows", "lengths"])
def test_every_layer_is_an_operator_for_any_number_of_steps_and_rows(ragged, tmp_path):
    torch.manual_seed(0)
    model, path = Four(), str(tmp_path / "model.onnx")
    sizes = {0: ANY, 1: ANY}
    given = (torch.tensor([4, 1, 3]),) if ragged else ()
    shapes = (sizes, {0: ANY})[: 1 + ragged]
    program, session = written(model, path, torch.randn(T, B, I), *given, shapes=shapes)
    found = operators(program)
    assert [found.count(name) for name in ("LSTM", "GRU", "RNN", "Loop", "Scan")] == [5, 1, 1, 0, 0]
    for node in program.model.graph:
        if node.op_type in ("LSTM", "GRU", "RNN"):
            sequence_lens = node.inputs[4] if len(node.inputs) > 4 else None
            assert (sequence_lens is not None) == ragged
    for steps, rows in ((9, 6), (2, 1)):
        x = torch.randn(steps, rows, I)
        more = (torch.arange(rows).flip(0) % steps + 1,) if ragged else ()
        for got, want in zip(ran(session, x, *more), model(x, *more), strict=True):
            assert_close(got, want.detach(), rtol=1e-5)


def test_an_unconverted_model_is_written_by_torchs_own_exporter(tmp_path):
    model, x = nn.Sequential(tt.GRU(I, H)), torch.randn(T, B, I)
    want = model(x)[0].detach()
    program, session = written(tt.unconvert(model), str(tmp_path / "model.onnx"), x)
    assert "GRU" in operators(program)
    assert_close(ran(session, x)[0], want, rtol=1e-5)


@pytest.mark.parametrize("what", ["reset", "proj_size"])
def test_what_onnx_has_no_operator_for_is_refused(what):
    layer = tt.LSTM(I, H, proj_size=2 if what == "proj_size" else 0)
    given = {"reset": torch.rand(T, B) > 0.5} if what == "reset" else {}
    with warnings.catch_warnings(), pytest.raises(Exception) as caught:
        warnings.simplefilter("ignore")
        torch.onnx.export(
            layer.eval(), (torch.randn(T, B, I),), kwargs=given, dynamo=True, verbose=False
        )
    assert f"{what}= has no counterpart in ONNX" in str(caught.value)


def test_an_exported_program_is_refused_in_our_words():
    program = torch.export.export(nn.Sequential(tt.GRU(I, H)).eval(), (torch.randn(T, B, I),))
    with pytest.raises(Exception, match=r"dynamo=True\) the model itself") as caught:
        torch.onnx.export(program, verbose=False)
    assert isinstance(caught.value.__cause__, UnsupportedError)
