"""What a type checker makes of a user's file: layers, conversion and streams are what they are."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import throughtime as tt

RIGHT = """
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from typing_extensions import assert_type

import throughtime as tt
from throughtime.flow import FlowSummary, from_dict
from throughtime.tape import Tape


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = tt.LSTM(3, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        h, (h_n, c_n) = self.layer(x, lengths=lengths)
        assert_type(c_n, Tensor)
        return h + h_n


x = torch.zeros(7, 2, 3)
assert_type(tt.LSTM(3, 5)(x), tuple[Tensor, tuple[Tensor, Tensor]])
assert_type(tt.GRU(3, 5)(x, torch.zeros(1, 2, 5)), tuple[Tensor, Tensor])
assert_type(tt.RNN(3, 5)(x, reset=x[..., 0] > 0), tuple[Tensor, Tensor])
assert_type(tt.Recurrent(tt.cells.LSTM(3, 5))(x), tuple[Tensor, Tensor])
assert_type(tt.GRU(3, 5)(pack_sequence([x[:, 0]])), tuple[PackedSequence, Tensor])

assert_type(tt.convert(Net()), Net)
assert_type(tt.unconvert(Net()), Net)
assert_type(tt.set_through(Net(), tt.Full()), Net)
assert_type(tt.convert(nn.GRU(3, 5)), tt.GRU)
assert_type(tt.unconvert(tt.LSTM(3, 5)), nn.LSTM)

net = Net()
for part in tt.stream(net, x, window=2):
    assert_type(part, Tensor)
for inputs, targets in tt.stream(net, (x, x), window=2):
    assert_type(inputs, Tensor)
for named in tt.stream(net, {"x": x}, window=2):
    assert_type(named, dict[str, Tensor])
for piece in tt.stream(net, [(x, 1), (x, 2)]):
    assert_type(piece, tuple[Tensor, int])
stream: tt.Stream[Tensor] = tt.stream(net, x)

for cut in tt.segments(x, 2):
    assert_type(cut, Tensor)
for both in tt.segments((x, x), 2):
    assert_type(both, tuple[Tensor, Tensor])
for some in tt.segments([{"x": x}, {"x": x}]):
    assert_type(some, dict[str, Tensor])
assert_type(stream.state, dict[str, Tensor | tuple[Tensor, ...]])
assert_type(stream.own, int)

with tt.trace(net) as trace:
    loss = net(x, torch.tensor([7, 2])).sum()
flow = trace.flow(loss)
assert_type(flow, tt.Flow)
assert_type(flow.skipped, dict[str, str])
read: FlowSummary = from_dict(flow.to_dict())
assert_type(read.layers["layer.l0"].lag_profile, Tensor)
for name, layer in flow.items():
    assert_type(name, str)
    assert_type(layer, tt.LayerFlow)
layer = flow["layer.l0"]
assert_type(layer.norms, Tensor)
assert_type(layer.total_norms, Tensor)
assert_type(layer.adjoint(loss=0), Tensor)
assert_type(layer.weight_grad("weight_hh", step=3), Tensor)
assert_type(layer.jacobian(3), Tensor)
assert_type(layer.jacobian_product(5, 2), Tensor)
assert_type(layer.bound(5, 2, tight=True), Tensor)
assert_type(layer.lyapunov(2), Tensor)
assert_type(layer.lag_profile(), Tensor)
assert_type(layer.horizon(), int)
assert_type(layer.cuts, tuple[int, ...])
assert_type(layer.first_nonfinite, tt.NonFinite | None)

diagnosis = tt.diagnose(flow)["layer.l0"]
assert_type(diagnosis, tt.Diagnosis)
assert_type(diagnosis.verdict, tt.Verdict)
assert_type(diagnosis.evidence, tuple[tt.Evidence, ...])
assert_type(diagnosis.evidence[0].value, float)
assert_type(diagnosis.evidence[0].threshold, float | None)
for finding in tt.examine(flow, lag=3):
    assert_type(finding, tt.Finding)
    assert_type(finding.code, str)
    assert_type(finding.severity, Literal["error", "warning", "note"])
    assert_type(finding.layer, str | None)
    assert_type(finding.fix, str | None)
treatment = tt.treat(net, lambda m: m(x, torch.tensor([7, 2])).sum(), lag=3)
assert_type(treatment.best, str | None)
assert_type(treatment.code(), str)
assert_type(treatment.apply(net), nn.Module)

h, c = tt.mark("core", x[0], x[1])
assert_type(h, Tensor)
assert_type(tt.mark("core", h), Tensor)
assert_type(tt.mark_steps("input", x, dim=1), Tensor)


def leaky(x: Tensor, s: Tensor, W: Tensor) -> Tensor:
    return 0.9 * s + torch.tanh(x @ W.T)


cell = tt.cells.Function(leaky, 3, 5, weights={"W": torch.zeros(5, 3)})
assert_type(cell.weights(), dict[str, Tensor])
own = tt.Recurrent(cell, through=tt.Truncated(4))
assert_type(own(x, context={"memory": x}), tuple[Tensor, Tensor])
assert_type(tt.convert(own), tt.Recurrent)


class Decay(tt.cells.AbstractCell):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.input_size = self.hidden_size = self.state_size = self.preact_size = size

    def drive(self, x: Tensor) -> Tensor:
        return x

    def step(self, a_t: Tensor, s_prev: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return a_t + 0.5 * s_prev, ()

    def vjp(self, saved: tuple[Tensor, ...], delta: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * delta, delta

    def param_grads(self, tape: Tape, adjoints: Tensor) -> dict[str, Tensor]:
        return {}

    def input_grad(self, adjoints: Tensor) -> Tensor:
        return adjoints


assert_type(tt.Recurrent(Decay(3), batch_first=True)(x), tuple[Tensor, Tensor])
tt.testing.check_cell(Decay(3))
run = tt.rtrl(cell, x, lambda t, h: h.sum() if t == 7 else None)
for step in run:
    assert_type(step.t, int)
    assert_type(step.h, Tensor)
    assert_type(step.loss, Tensor | None)
    assert_type(step.grads, dict[str, Tensor])
assert_type(run.total, dict[str, Tensor])

assert_type(tt.Truncated(4).window, int)
assert_type(tt.Truncated(4).every, int | None)
assert_type(tt.Checkpointed(memory="1GB").every, int | None)
assert_type(tt.set_through(own, tt.Checkpointed()), tt.Recurrent)
monitor = tt.Monitor(net, every=10)
with monitor:
    loss = net(x, torch.tensor([7, 2])).sum()
monitor.record(loss)
"""
# Each line is an error of its own.
WRONG = """
import torch, throughtime as tt
x = torch.zeros(7, 2, 3)
tt.LSTM(3, 5)(x)[1].shape
tt.GRU(3, 5)(x, (x, x))
tt.LSTM(3, 5)(x, length=[7, 2])
tt.convert(tt.GRU(3, 5)).no_such_name.more
next(iter(tt.stream(tt.GRU(3, 5), x, window=2))).keys()
next(tt.segments(x, 2)).keys()
tt.mark("core", x).index(x)
tt.Recurrent(tt.GRU(3, 5))
tt.Truncated("4")
tt.set_through(tt.GRU(3, 5), 4)
tt.no_such_name(x)
"""
# All of torch takes mypy half a minute. What is skipped is Any, which no assert_type above is.
MYPY = """
[mypy]
follow_imports = silent
native_parser = True
[mypy-torch.*,numpy.*,sympy.*,rich.*,typer.*,plotly.*,jinja2.*,triton.*]
follow_imports = skip
[mypy-torch,torch._C,torch._tensor,torch.nn,torch.nn.modules]
follow_imports = silent
[mypy-torch.nn.modules.module,torch.nn.modules.rnn,torch.nn.modules.container]
follow_imports = silent
[mypy-torch.nn.modules.linear,torch.nn.parameter,torch.nn.utils,torch.nn.utils.rnn]
follow_imports = silent
"""
WRONG_LINES = [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "right.py").write_text(RIGHT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    (tmp_path / "mypy.ini").write_text(MYPY, encoding="utf-8")
    return tmp_path


def checked(folder: Path, *command: str) -> str:
    run = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    return run.stdout


def test_the_package_says_that_it_is_typed():
    assert (Path(tt.__file__).parent / "py.typed").is_file()


def test_pyright_knows_what_a_user_gets(user: Path):
    if find_spec("pyright") is None:
        pytest.skip("no pyright here: pip install 'throughtime[dev]'")
    found = json.loads(
        checked(user, "pyright", "--outputjson", "--pythonpath", sys.executable, ".")
    )
    assert found["summary"]["filesAnalyzed"] == 2
    errors = [
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1, one["message"])
        for one in found["generalDiagnostics"]
        if one["severity"] == "error"
    ]
    right = [error for error in errors if error[0] == "right.py"]
    assert not right, right
    assert sorted({line for _, line, _ in errors}) == WRONG_LINES


@pytest.mark.slow
def test_mypy_knows_what_a_user_gets(user: Path):
    if find_spec("mypy") is None:
        pytest.skip("no mypy here: pip install mypy")
    told = checked(
        user, "mypy", "--config-file", "mypy.ini", "--no-error-summary", "--show-error-codes",
        "--python-executable", sys.executable, "right.py", "wrong.py",
    )  # fmt: skip
    where = {line.split(":", 2)[0] + ":" + line.split(":", 2)[1] for line in told.splitlines()}
    assert {at for at in where if at.startswith("right.py")} == set(), told
    # mypy takes what `nn.Module.__getattr__` may return for whatever is asked of it.
    assert {f"wrong.py:{line}" for line in WRONG_LINES if line != 7} <= where, told
