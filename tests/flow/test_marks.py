"""`mark_steps` of causal models, bad marks, and step modules that are none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from throughtime import errors
from throughtime.testing import assert_close

T, B, F = 8, 3, 6


@pytest.fixture(autouse=True)
def doubles():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(F, 2, 8, batch_first=True, dropout=0.0)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
        return self.layer(x, src_mask=mask, is_causal=True)


class Dilated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv1d(F, F, 2), nn.Conv1d(F, F, 2, dilation=2)

    def forward(self, x):
        y = torch.relu(self.one(nn.functional.pad(x.transpose(1, 2), (1, 0))))
        return self.two(nn.functional.pad(y, (2, 0))).transpose(1, 2)


class Diagonal(nn.Module):
    """A diagonal state-space model, by a cumulative sum in log space."""

    def __init__(self) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(0.5, 0.99, F))

    def forward(self, x):
        lags = torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])
        kernel = torch.where(lags[..., None] >= 0, self.decay ** lags.clamp(min=0)[..., None], 0)
        return torch.einsum("tsf,bsf->btf", kernel, x)


class Model(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.embed, self.body = nn.Linear(2, F), body

    def forward(self, x):
        return self.body(tt.mark_steps("input", self.embed(x), dim=1))


def per_step(y):
    return y.pow(2).sum((0, 2))


@pytest.mark.parametrize("body", [Attention, Dilated, Diagonal])
def test_marked_steps_equal_one_backward_pass_a_loss(body):
    model, x = Model(body()), torch.randn(B, T, 2)
    with tt.trace(model) as trace:
        losses = per_step(model(x))
    layer = trace.flow(losses)["input"]
    embedded = model.embed(x).detach().requires_grad_()
    expected = per_step(model.body(embedded))
    for v in range(T):
        (g,) = torch.autograd.grad(expected[v], embedded, retain_graph=True)
        assert not g[:, v + 1 :].any() and not layer.norms[v, v + 2 :].any()
        assert_close(layer.norms[v, 1:], g.norm(dim=-1).T, rtol=1e-9)
        assert_close(layer.adjoint(v)[1:], g.transpose(0, 1), rtol=1e-9)
    if body is Dilated:  # a kernel of 2 and one of 2 with holes see 3 steps back
        assert not layer.norms[T - 1, 1 : T - 3].any() and layer.horizon(1e-9) == 3
    assert layer.kind == "axis" and layer.first_nonfinite is None


def test_an_axis_has_no_state_between_its_steps():
    model = Model(Dilated())
    with tt.trace(model) as trace:
        losses = per_step(model(torch.randn(B, T, 2)))
    flow = trace.flow(losses)
    layer = flow["input"]
    for asked in (
        lambda: layer.jacobian(3),
        lambda: layer.jacobian_product(5, 2),
        lambda: layer.lyapunov(),
        lambda: layer.bound(4, 2, tight=True),
        lambda: layer.bound(4, 2),
    ):
        with pytest.raises(errors.UnsupportedError):
            asked()
    assert not layer.jacobian_steps


def test_a_recurrent_layer_and_an_axis_stand_in_one_flow():
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.body = nn.GRU(F, F, batch_first=True), Attention()

        def forward(self, x):
            x = tt.mark_steps("input", x, dim=1)
            return self.rnn(x)[0] + self.body(x)

    model = Both()
    x = torch.randn(B, T, F)
    with tt.trace(model) as trace:
        losses = per_step(model(x))
    flow = trace.flow(losses)
    assert list(flow) == ["input", "rnn.l0"]
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(per_step(model.rnn(leaf)[0] + model.body(leaf))[5], leaf)
    assert_close(flow["input"].adjoint(5)[1:], g.transpose(0, 1), rtol=1e-9)


def test_figures_table_report_and_plain_data_of_marks(tmp_path):
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.W = nn.Parameter(0.4 * torch.randn(F, F))

        def forward(self, x):
            x = tt.mark_steps("input", x, dim=1)
            h, said = torch.zeros(B, F), []
            for x_t in x.unbind(1):
                h = tt.mark("h", torch.tanh(x_t + h @ self.W.T))
                said.append(h)
            return torch.stack(said, 1)

    model = Loop()
    with tt.trace(model) as trace:
        losses = per_step(model(torch.randn(B, T, F)))
    flow = trace.flow(losses)
    assert "mark" in repr(flow) and "axis" in repr(flow)
    assert all(row.verdict is not tt.Verdict.NONFINITE for row in tt.diagnose(flow).values())
    assert flow.to_dict()["version"] == 1
    tt.write_report(flow, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size > 10_000
    for kind in ("lag", "map"):
        assert tt.figure(flow, kind, "input").data
    with pytest.raises(errors.UnsupportedError, match="no state"):
        tt.figure(flow, "jacobian", "input")


class Body(nn.Module):
    def __init__(self, run) -> None:
        super().__init__()
        self.run = run
        self.w = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.run(self, x)


def _parts(self, x):
    h = tt.mark("s", self.w * x)
    tt.mark("s", self.w * h, self.w * x)


def _shapes(self, x):
    tt.mark("s", tt.mark("s", self.w * x)[:2] * 2)


def _twice(self, x):
    tt.mark("s", tt.mark("s", self.w * x))


@pytest.mark.parametrize(
    "run, kind, words",
    [
        (_parts, errors.ShapeError, "same parts at each step"),
        (_shapes, errors.ShapeError, "same parts at each step"),
        (_twice, errors.GraphError, "marked twice in one step"),
        (lambda self, x: tt.mark("s", "h"), errors.InputTypeError, "float tensors"),
        (lambda self, x: tt.mark("s", torch.ones(3).long()), errors.InputTypeError, "int64"),
        (lambda self, x: tt.mark("s"), errors.InputTypeError, "needs the state"),
        (lambda self, x: tt.mark(self.w * x), errors.InputTypeError, "name must be a string"),
        (lambda self, x: tt.mark("s", self.w * x, batch_dim=5), errors.InputValueError, "axes"),
        (lambda self, x: tt.mark_steps("s", self.w * x, dim=4), errors.InputValueError, "axes"),
        (
            lambda self, x: tt.mark_steps("s", self.w * x, dim=1, batch_dim=1),
            errors.InputValueError,
            "must differ",
        ),
    ],
)
def test_bad_marks_are_refused_in_one_sentence(run, kind, words):
    model = Body(run)
    with pytest.raises(kind, match=words) as caught, tt.trace(model):
        model(torch.randn(4, 3))
    assert str(caught.value).count("\n") == 0


def test_a_state_marked_in_pieces_is_refused():
    def run(self, x):
        h = c = x
        for _ in range(4):
            c = tt.mark("s", self.w * c + h)
            h = tt.mark("s", torch.tanh(c))
        return h

    model = Body(run)
    with tt.trace(model) as trace:
        loss = model(torch.randn(4, 3)).sum()
    with pytest.raises(errors.GraphError, match=r"marked twice in one step.*h, c"):
        trace.flow(loss)


def test_a_mark_outside_the_traced_model_is_refused_and_without_one_taken():
    model, w = nn.GRU(2, 3), torch.tensor(0.5, requires_grad=True)
    with (
        pytest.raises(errors.GraphError, match="outside the model that is traced, GRU"),
        tt.trace(model),
    ):
        tt.mark("s", w * torch.ones(2, 3))
    with tt.trace() as trace:
        s = torch.ones(2, 3)
        for _ in range(4):
            s = tt.mark("s", w * s)
    assert_close(trace.flow(s.sum())["s"].jacobian_product(4, 1)[0], 0.125 * torch.eye(3))


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(3, 3)

    def forward(self, x, h):
        return torch.tanh(self.lift(x) + h)


class Steps(nn.Module):
    def __init__(self, back: bool) -> None:
        super().__init__()
        self.cell, self.back = Cell(), back

    def forward(self, x):
        h = torch.zeros(2, 3)
        for x_t in x:
            new = self.cell(x_t, h)
            h = new if self.back else torch.zeros(2, 3)
        return new


def test_a_step_module_whose_state_never_comes_back_says_so():
    model = Steps(back=False)
    with tt.trace(model, steps=[Cell]) as trace:
        loss = model(torch.randn(5, 2, 3)).sum()
    with pytest.raises(errors.GraphError, match=r"ran 5 times.*it returned or kept came back"):
        trace.flow(loss)


@pytest.mark.parametrize("steps", [[Cell], ["cell"], Cell, "cell"])
def test_steps_are_named_by_class_path_or_module(steps):
    model = Steps(back=True)
    with tt.trace(model, steps=steps) as trace:
        loss = model(torch.randn(5, 2, 3)).sum()
    assert trace.flow(loss)["cell"].T == 5
    with tt.trace(model, steps=[model.cell]) as trace:
        loss = model(torch.randn(5, 2, 3)).sum()
    layer = trace.flow(loss)["cell"]
    assert layer.weight_names == ("lift.weight", "lift.bias") and layer.kind == "Cell"
    assert type(model.cell.lift.weight) is nn.Parameter


@pytest.mark.parametrize(
    "steps, kind", [(["no.such"], errors.InputValueError), ([nn.Bilinear], errors.InputValueError),
                    ([3], errors.InputTypeError), ([nn.Linear(2, 2)], errors.InputValueError)]
)  # fmt: skip
def test_steps_that_match_nothing_are_refused(steps, kind):
    with pytest.raises(kind, match="steps"), tt.trace(Steps(True), steps=steps):
        pass
