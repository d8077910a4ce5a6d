"""A trace leaves the model as it found it, sees what it should, and says when it cannot answer."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import throughtime as tt
from oracles.by_hand import F64, draw, layer
from oracles.models import CASES, TwoModules, per_step
from throughtime.errors import GraphError
from throughtime.testing import assert_close


def model() -> nn.Module:
    """Give a model of torch.nn's own layers with everything that a trace could disturb."""
    torch.manual_seed(0)
    made = nn.Sequential()
    made.append(nn.LSTM(3, 4, num_layers=2, bidirectional=True, dropout=0.2, dtype=F64))
    made[0].register_forward_hook(lambda *_: None)
    made[0].register_forward_pre_hook(lambda *_: None)
    made[0].weight_hh_l0.requires_grad_(False)
    made[0].weight_ih_l1.register_hook(lambda g: g)
    made.eval()
    return made


def look(module: nn.Module) -> dict:
    """Give all of a module that a user could see changed."""
    return {
        name: {
            "class": type(part),
            "keys": list(part.__dict__),
            "forward": part.__dict__.get("forward"),
            "training": part.training,
            "hooks": [
                dict(getattr(part, hooks))
                for hooks in vars(part)
                if hooks.endswith("_hooks") and isinstance(getattr(part, hooks), dict)
            ],
            "parameters": {
                n: (id(p), p._version, p.requires_grad)
                for n, p in part._parameters.items()
                if p is not None
            },
            "grads": [p.grad for p in part.parameters()],
        }
        for name, part in module.named_modules()
    }


def run(module: nn.Module) -> torch.Tensor:
    return per_step(module[0](draw(5, 2, 3))[0])


def same(module: nn.Module, before: dict, numbers: dict) -> bool:
    now = module.state_dict()
    return look(module) == before and all(torch.equal(now[n], v) for n, v in numbers.items())


def test_the_model_is_exactly_as_found_after_a_trace_and_its_flow():
    module = model()
    before, numbers = look(module), copy.deepcopy(module.state_dict())
    with tt.trace(module) as trace:
        losses = run(module)
    assert same(module, before, numbers)
    flow = trace.flow(losses)
    for one in flow.values():
        one.weight_grad("weight_hh", loss=1, step=1), one.adjoint(2), one.lyapunov(1)
    tt.diagnose(flow)
    assert same(module, before, numbers)


def test_the_model_is_exactly_as_found_after_an_exception_in_the_body():
    module = model()
    before, numbers = look(module), copy.deepcopy(module.state_dict())
    with pytest.raises(ZeroDivisionError), tt.trace(module):
        run(module)
        raise ZeroDivisionError
    assert same(module, before, numbers)
    with pytest.raises(ValueError, match="axes"), tt.trace(module):
        module[0](draw(5))
    assert same(module, before, numbers)


def test_a_forward_of_the_users_own_on_the_instance_is_put_back():
    module = model()
    mine = module[0].forward
    module[0].forward = mine
    with tt.trace(module):
        assert module[0].__dict__["forward"] is not mine
    assert module[0].__dict__["forward"] is mine


def test_nested_traces_each_see_what_runs_inside_them():
    module = model()
    before, numbers = look(module), copy.deepcopy(module.state_dict())
    with tt.trace(module) as outer:
        first = run(module)
        with tt.trace(module) as inner:
            second = run(module)
        third = run(module)
    assert same(module, before, numbers)
    assert list(inner.flow(second)) == ["0.l0", "0.l0_reverse", "0.l1", "0.l1_reverse"]
    assert "0.l0@2" in outer.flow(third) and "0.l0" in outer.flow(first)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_results_inside_a_trace_are_those_outside_and_the_gradients_too(kind):
    module = getattr(nn, kind)(3, 4, num_layers=2, dtype=F64)
    x = draw(5, 2, 3).requires_grad_()
    plain = module(x)
    with tt.trace(module):
        traced = module(x)
    assert type(plain) is type(traced)
    want = torch.autograd.grad(plain[0].pow(2).sum(), [x, *module.parameters()])
    got = torch.autograd.grad(traced[0].pow(2).sum(), [x, *module.parameters()])
    for a, b in zip((traced[0], *got), (plain[0], *want), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("name", ["tanh", "two modules", "translator", "shared", "function"])
def test_tracing_and_measuring_leave_the_gradient_of_training_alone(name):
    case = CASES[name]()
    case.losses(case.model).sum().backward()
    want = [p.grad.clone() for p in case.model.parameters()]
    case.model.zero_grad()
    with tt.trace(case.model) as trace:
        losses = case.losses(case.model)
    trace.flow(losses)
    losses.sum().backward()
    for parameter, grad in zip(case.model.parameters(), want, strict=True):
        assert_close(parameter.grad, grad)


@pytest.mark.parametrize("frozen", ["all", "recurrent"])
def test_frozen_parameters_do_not_hide_the_flow_and_stay_frozen(frozen):
    module = TwoModules("lstm", "gru")
    tokens = torch.arange(12).view(6, 2) % 9
    with tt.trace(module) as trace:
        losses = per_step(module(tokens))
    want = trace.flow(losses)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(frozen != "all" and "first" not in name and "second" not in name)
    with tt.trace(module) as trace:
        losses = per_step(module(tokens))
    got = trace.flow(losses)
    for name, one in want.items():
        assert_close(got[name].norms, one.norms, rtol=1e-12, name=name)
        for weight in one.weight_names:
            assert_close(got[name].weight_grad(weight), one.weight_grad(weight), rtol=1e-12)
    assert not module.second.weight_hh_l0.requires_grad
    if frozen == "recurrent":
        losses.sum().backward()
        assert module.second.weight_hh_l0.grad is None and module.readout.weight.grad is not None


def test_eval_mode_is_traced_as_it_is():
    module = layer("gru", 3, 4, num_layers=2, dropout=0.9).eval()
    x = draw(5, 2, 3)
    with tt.trace(module) as trace:
        output, _ = module(x)
    assert_close(output, module(x)[0], rtol=0)
    assert (trace.flow(per_step(output))["l0"].norms[:, 1] > 0).all()
    assert not module.training


def test_after_backward_what_was_measured_answers_and_what_needs_the_graph_says_so():
    case = CASES["two modules"]()
    with tt.trace(case.model) as trace:
        losses = case.losses(case.model)
    want = trace.flow(losses)
    flow = trace.flow(losses, memory=1)
    losses.sum().backward()
    for name, one in flow.items():
        assert_close(one.norms, want[name].norms, rtol=0)
        assert_close(one.adjoint(), want[name].adjoint(), rtol=0)
        assert_close(one.weight_grad("weight_hh"), want[name].weight_grad("weight_hh"), rtol=0)
        assert one.jacobian(2).shape == (one.B, one.S, one.S)
        assert one.first_nonfinite is None and one.horizon() >= 0
    assert flow["second.l0"].adjoint(3).shape == (7, 3, 4)
    with pytest.raises(GraphError, match="before calling backward"):
        flow["first.l0"].adjoint(3)
    with pytest.raises(GraphError, match="before calling backward"):
        trace.flow(losses)


def test_the_flow_keeps_the_weights_as_they_were_when_an_optimizer_moves_on():
    module = layer("gru", 3, 4)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    with tt.trace(module) as trace:
        losses = per_step(module(draw(5, 2, 3))[0])
    flow = trace.flow(losses)["l0"]
    want = flow.weight_grad("weight_hh", loss=3, step=2), flow.jacobian(3)
    losses.sum().backward()
    optimizer.step()
    fresh = trace_of = flow
    assert_close(fresh.jacobian(3), want[1], rtol=0)
    trace_of._kept.clear()
    assert_close(flow.weight_grad("weight_hh", loss=3, step=2), want[0], rtol=0)


def test_a_trace_that_is_dropped_lets_go_of_the_activations():
    module = layer("lstm", 3, 4)
    with tt.trace(module) as trace:
        losses = per_step(module(draw(5, 2, 3))[0])
    kept = weakref.ref(trace.recording.calls[0].tape)
    flow = trace.flow(losses)
    del trace, losses, flow
    gc.collect()
    assert kept() is None


def test_parametrized_weights_are_traced_at_the_values_they_have():
    module = nn.RNN(3, 4, dtype=F64)
    parametrize.register_parametrization(module, "weight_hh_l0", nn.Tanh())
    before = look(module)
    with tt.trace(module) as trace:
        losses = per_step(module(draw(5, 2, 3))[0])
    assert_close(trace.flow(losses)["l0"].cell.weight_hh, module.weight_hh_l0, rtol=0)
    assert look(module) == before


def test_data_parallel_wrappers_and_compiled_parents_keep_the_path_of_the_layer():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Identity(), layer("gru", 3, 4))})
    with tt.trace(model) as trace:
        losses = per_step(model["a"](draw(5, 2, 3))[0])
    assert list(trace.flow(losses)) == ["a.1.l0"]


@pytest.mark.parametrize("kind", ["tanh", "lstm", "gru"])
def test_writing_into_the_output_in_place_does_not_change_what_was_recorded(kind):
    module, x = layer(kind, 3, 4), draw(5, 2, 3)
    flows = []
    for scale in (lambda h: h * 3, lambda h: h.mul_(3)):
        with tt.trace(module) as trace:
            losses = per_step(scale(module(x)[0]))
        flows.append(trace.flow(losses)["l0"])
    assert_close(flows[1].norms, flows[0].norms, rtol=0)
    assert_close(flows[1].weight_grad("weight_hh"), flows[0].weight_grad("weight_hh"), rtol=0)
