"""Bad input to a trace, a flow, a cell: one error of the package's own, that says what came."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import throughtime as tt
from oracles.by_hand import draw, layer
from oracles.models import per_step
from oracles.refused import refused
from throughtime import errors

Graph, Shape, Type = errors.GraphError, errors.ShapeError, errors.InputTypeError
Value, Missing = errors.InputValueError, errors.LayerNotFoundError

T, B, I, H = 5, 3, 2, 4


def traced():
    """Give a trace, the output of its layer, and the layer."""
    module = layer("gru", I, H)
    with tt.trace(module) as trace:
        output, _ = module(draw(T, B, I))
    return trace, output, module


LOSSES = {
    "two axes": (lambda o: o.pow(2).sum(2), Shape, ValueError, r"shape \(5, 3\)"),
    "three axes": (lambda o: o, Shape, ValueError, r"shape \(5, 3, 4\)"),
    "none at all": (lambda o: per_step(o)[:0], Shape, ValueError, r"shape \(0,\)"),
    "a float": (lambda o: 1.0, Type, TypeError, r"got float"),
    "a list": (lambda o: list(per_step(o)), Type, TypeError, r"got list"),
    "integers": (lambda o: torch.arange(5), Type, TypeError, r"torch.int64"),
    "complex": (lambda o: per_step(o) + 0j, Type, TypeError, r"complex128"),
    "detached": (lambda o: per_step(o).detach(), Graph, RuntimeError, r"require no grad"),
    "unrelated": (
        lambda o: draw(5).requires_grad_() * 2,
        Graph,
        RuntimeError,
        r"do not depend on any traced layer",
    ),
    "a loss a row": (
        lambda o: o.pow(2).sum((0, 2)),
        Value,
        ValueError,
        r"each of the 3 batch rows",
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_cannot_be_split_are_refused(name):
    make, *expected = LOSSES[name]
    trace, output, module = traced()
    refused(lambda: trace.flow(make(output)), *expected)
    assert all(p.grad is None for p in module.parameters())
    assert list(trace.flow(per_step(output))) == ["l0"], "and good ones are served afterwards"


def test_a_loss_a_row_is_refused_where_there_are_as_many_rows_as_steps_too():
    module = layer("gru", I, H)
    with tt.trace(module) as trace:
        output, _ = module(draw(T, T, I))
    refused(lambda: trace.flow(output[-1].pow(2).sum(1)), Value, ValueError, "5 batch rows")
    assert trace.flow(per_step(output))["l0"].norms.shape == (T, T + 1, T)


def test_a_single_row_with_a_single_loss_is_served():
    module = layer("gru", I, H)
    with tt.trace(module) as trace:
        output, _ = module(draw(T, 1, I))
    assert trace.flow(output[-1].pow(2).sum(1))["l0"].norms.shape == (1, T + 1, 1)


@pytest.mark.parametrize("name", ["window", "every"])
@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3", True])
def test_a_window_or_every_below_one_or_no_integer_is_refused(name, wrong):
    trace, output, _ = traced()
    with pytest.raises(errors.ThroughTimeError, match=f"{name} must be an integer") as caught:
        trace.flow(per_step(output), **{name: wrong})
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("model", [nn.Linear(2, 3), nn.Conv1d(2, 3, 1), nn.Sequential()])
def test_a_model_without_recurrent_layers_is_refused(model):
    name = type(model).__name__

    def empty() -> None:
        with tt.trace(model):
            pass

    refused(empty, Missing, LookupError, name)


@pytest.mark.parametrize("wrong", [None, "lstm", nn.LSTM])
def test_what_is_no_module_is_refused(wrong):
    refused(lambda: tt.trace(wrong).__enter__(), Type, TypeError, type(wrong).__name__)


def test_a_trace_in_which_nothing_ran_says_so():
    module = layer("gru", I, H)
    with tt.trace(module) as trace:
        pass
    refused(
        lambda: trace.flow(draw(3).requires_grad_()), Graph, RuntimeError, "no recurrent layer ran"
    )
    with tt.trace(module) as trace, torch.no_grad():
        losses = per_step(module(draw(T, B, I))[0])
    refused(lambda: trace.flow(losses), Graph, RuntimeError, "no_grad")


def test_losses_from_outside_the_trace_are_refused():
    trace, _, module = traced()
    outside = per_step(module(draw(T, B, I))[0])
    refused(lambda: trace.flow(outside), Graph, RuntimeError, "inside the trace")


QUESTIONS = {
    "no such layer": (lambda f: f["l7"], Missing, LookupError, r"'l7'.*it has l0"),
    "no such weight": (
        lambda f: f["l0"].weight_grad("weight"),
        Value,
        ValueError,
        r"'weight'.*weight_ih, weight_hh",
    ),
    "loss T": (lambda f: f["l0"].adjoint(T), Value, ValueError, r"0…4; got 5"),
    "loss -1": (lambda f: f["l0"].weight_grad("weight_hh", -1), Value, ValueError, r"got -1"),
    "step 0": (lambda f: f["l0"].jacobian(0), Value, ValueError, r"1…T=5; got 0"),
    "step T+1": (
        lambda f: f["l0"].weight_grad("bias_hh", step=T + 1),
        Value,
        ValueError,
        r"got 6",
    ),
    "a step that is no integer": (lambda f: f["l0"].jacobian(1.0), Type, TypeError, r"got 1\.0"),
    "a loss that is a bool": (lambda f: f["l0"].adjoint(True), Type, TypeError, r"got True"),
    "since after to": (lambda f: f["l0"].bound(1, 3), Value, ValueError, r"to=1, since=3"),
    "a product beyond T": (
        lambda f: f["l0"].jacobian_product(T + 1, 0),
        Value,
        ValueError,
        r"got 6",
    ),
    "no exponents": (lambda f: f["l0"].lyapunov(0), Value, ValueError, r"n=0"),
    "too many exponents": (lambda f: f["l0"].lyapunov(H + 1), Value, ValueError, r"n=5"),
    "since T": (lambda f: f["l0"].lyapunov(since=T), Value, ValueError, r"since=5"),
    "fraction 0": (lambda f: f["l0"].horizon(0), Value, ValueError, r"got 0"),
    "a plain bound of a gated cell": (
        lambda f: f["l0"].bound(3, 1),
        errors.UnsupportedError,
        NotImplementedError,
        r"GRU.*tight=True",
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_that_has_no_answer_is_refused_with_what_there_is(name):
    ask, *expected = QUESTIONS[name]
    trace, output, _ = traced()
    flow = trace.flow(per_step(output))
    refused(lambda: ask(flow), *expected)


W = draw(H, H)
UNDECLARED = draw(H, H).requires_grad_()
STEPS = {
    "another width": (lambda x, s: s[:, :-1], Shape, ValueError, r"\(3, 4\).*got \(3, 3\)"),
    "another rank": (lambda x, s: s.sum(), Shape, ValueError, r"got \(\)"),
    "another dtype": (lambda x, s: s.float(), errors.DtypeError, TypeError, r"torch.float32"),
    "a tuple": (lambda x, s: (s, s), Type, TypeError, r"got tuple"),
    "nothing": (lambda x, s: None, Type, TypeError, r"got NoneType"),
    "an undeclared weight": (
        lambda x, s: s @ UNDECLARED,
        Graph,
        RuntimeError,
        r"weights=\{name: tensor\}",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_function_that_returns_something_else_is_refused(name):
    step, *expected = STEPS[name]
    module = tt.Recurrent(tt.cells.Function(step, I, H))
    refused(lambda: module(draw(T, B, I)), *expected)
    with tt.trace(module) as trace:
        refused(lambda: module(draw(T, B, I)), *expected)
    assert not trace.recording.calls


MAKERS = {
    "input_size 0": (lambda: tt.cells.GRU(0, 3), Value, "input_size must be at .* 0"),
    "hidden_size 0": (lambda: tt.cells.Elman(3, 0), Value, "hidden_size must be at least 1; got 0"),
    "a cell's size that is a float": (lambda: tt.cells.GRU(2.5, 3), Type, r"got 2\.5, 3"),
    "a cell's size that is a text": (lambda: tt.cells.LSTM("2", 3), Type, r"got '2', 3"),
    "a function's size": (lambda: tt.cells.Function(max, 2.0, 3), Type, r"got 2\.0, 3"),
    "a layer's input_size 0": (
        lambda: tt.LSTM(0, 3),
        Value,
        "input_size must be at least 1; got 0",
    ),
    "a layer's hidden_size -2": (
        lambda: tt.GRU(4, -2),
        Value,
        "hidden_size must be at least 1; got -2",
    ),
    "a layer's size that is a float": (lambda: tt.RNN(4, 2.5), Type, r"got 4, 2\.5, 1"),
    "no layers": (lambda: tt.RNN(4, 2, 0), Value, "num_layers must be at least 1; got 0"),
    "dropout above 1": (lambda: tt.LSTM(4, 2, 2, dropout=2), Value, r"0 to 1; got 2"),
    "dropout that is no number": (lambda: tt.LSTM(4, 2, 2, dropout="a"), Type, r"got 'a'"),
    "a layer's projection": (lambda: tt.LSTM(4, 5, proj_size=5), Value, r"size=5; got 5"),
    "a projection below 0": (lambda: tt.LSTM(4, 5, proj_size=-1), Value, r"got -1"),
    "an integer dtype": (lambda: tt.GRU(4, 5, dtype=torch.int64), errors.DtypeError, r"int64"),
    "a nonlinearity": (lambda: tt.RNN(2, 3, nonlinearity="gelu"), Value, r"got 'gelu'"),
    "a nonlinearity that is none": (lambda: tt.RNN(2, 3, nonlinearity=torch.tanh), Type, "tanh"),
    "a cell's nonlinearity": (lambda: tt.cells.Elman(2, 3, "gelu"), Value, r"got 'gelu'"),
    "a projection": (lambda: tt.cells.LSTM(2, 3, proj_size=3), Value, r"got 3"),
    "no cell": (lambda: tt.Recurrent(nn.GRUCell(2, 3)), Type, r"GRUCell"),
    "no step": (lambda: tt.cells.Function(3, 2, 3), Type, r"got int"),
    "a state below H": (lambda: tt.cells.Function(max, 2, 3, 2), Value, r"2, 3, 2"),
    "weights of a module": (
        lambda: tt.cells.Function(nn.Linear(2, 2), 2, 2, weights={"W": W}),
        Value,
        r"module's own parameters",
    ),
    "a weight that is none": (
        lambda: tt.cells.Function(max, 2, 3, weights={"W": 1.0}),
        Type,
        r"weight W.*float",
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_layer_or_cell_that_cannot_be_is_refused(name):
    make, kind, got = MAKERS[name]
    refused(make, kind, ValueError if kind is Value else TypeError, got)


def test_every_error_is_the_packages_and_a_builtin_and_says_what_it_means():
    for name in errors.__all__:
        kind = getattr(errors, name)
        if issubclass(kind, Warning):
            assert issubclass(kind, UserWarning) and kind.__doc__
            continue
        assert issubclass(kind, errors.ThroughTimeError) and kind.__doc__
        if kind is not errors.ThroughTimeError:
            builtins = [b for b in kind.__mro__ if b.__module__ == "builtins"]
            assert len(builtins) > 3, f"{name} derives from no built-in beside Exception"


@pytest.mark.parametrize("wrong", [[1.0], None, 3])
def test_a_step_without_weights_refuses_what_is_no_tensor_too(wrong):
    module = tt.Recurrent(tt.cells.Function(lambda x, s: x + 0.5 * s, I, I))
    refused(lambda: module(wrong), Type, TypeError, type(wrong).__name__)


def test_a_flow_is_a_mapping_also_for_a_name_that_it_lacks():
    module = layer("gru", I, H)
    with tt.trace(module) as trace:
        losses = module(draw(T, B, I))[0].pow(2).mean((1, 2))
    flow = trace.flow(losses)
    assert "l7" not in flow and flow.get("l7") is None
    with pytest.raises(KeyError) as caught:
        flow["l7"]
    assert str(caught.value) == "there is no layer 'l7' in this flow; it has l0."


def test_a_flow_after_the_weights_have_changed_is_refused():
    module, x = nn.LSTM(I, H, 2).double(), draw(T, B, I)
    with tt.trace(module) as trace:
        losses = module(x)[0].pow(2).mean((1, 2))
    losses.sum().backward(retain_graph=True)
    with torch.no_grad():
        module.weight_hh_l1.add_(1)
    refused(lambda: trace.flow(losses), Graph, RuntimeError, r"changed in place since the trace")
