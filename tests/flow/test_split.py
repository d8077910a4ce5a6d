"""The split of eq. 5: its terms sum to ``.grad``, and each is autograd's own (eq. 2, 3, 5)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from oracles.by_hand import F64, draw, gradient, layer, unrolled
from oracles.models import CASES, LENGTHS, B, H, I, T, per_step, resets
from throughtime.testing import assert_close


def flow_of(case, seed: int = 0, **options):
    """Give a case's flow, and its losses with their graph."""
    torch.manual_seed(seed)
    with tt.trace(case.model) as trace:
        losses = case.losses(case.model)
    return trace.flow(losses, **options), losses


def parameters_by_run(model: nn.Module, flow) -> dict[tuple[str, str], Tensor]:
    """Give each run's weights as the model holds them: {(layer, weight): Parameter}."""
    named = dict(model.named_parameters())
    found = {}
    for name, layer_flow in flow.items():
        path, _, suffix = name.split("@")[0].rpartition(".")
        for weight in layer_flow.weight_names:
            key = f"{path}." if path else ""
            at = f"{key}{weight}_{suffix}"
            found[name, weight] = named[at if at in named else f"{key}cell.{weight}"]
    return found


def summed(parts: dict[tuple[str, str], Tensor], parameters) -> list[tuple[Tensor, Tensor]]:
    """Add up what several runs give the same Parameter: [(Parameter, sum)]."""
    totals: dict[int, tuple[Tensor, Tensor]] = {}
    for key, part in parts.items():
        parameter = parameters[key]
        before = totals.get(id(parameter), (parameter, torch.zeros_like(part)))[1]
        totals[id(parameter)] = (parameter, before + part)
    return list(totals.values())


@pytest.mark.parametrize("name", CASES)
def test_the_terms_of_every_loss_and_step_sum_to_grad(name):
    case = CASES[name]()
    flow, losses = flow_of(case)
    losses.sum().backward()
    parameters = parameters_by_run(case.model, flow)
    terms = dict.fromkeys(parameters, 0)
    for v in range(len(losses)):  # what one loss sends back is kept for the next question about it
        for layer_name, weight in parameters:
            one = flow[layer_name]
            for k in range(1, one.T + 1):
                terms[layer_name, weight] += one.weight_grad(weight, loss=v, step=k)
    for parameter, total in summed(terms, parameters):
        assert parameter.grad.abs().max() > 0
        assert_close(total, parameter.grad, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_sums_over_losses_over_steps_and_over_both_agree_with_autograd(name):
    case = CASES[name]()
    flow, losses = flow_of(case)
    parameters = parameters_by_run(case.model, flow)
    for v in range(len(losses)):
        parts = {key: flow[key[0]].weight_grad(key[1], loss=v) for key in parameters}
        for parameter, total in summed(parts, parameters):
            assert_close(total, gradient(losses[v], parameter), rtol=1e-9, name=f"loss {v}")
    for layer_name, weight in parameters:
        one = flow[layer_name]
        by_step = sum(one.weight_grad(weight, step=k) for k in range(1, one.T + 1))
        assert_close(by_step, one.weight_grad(weight), name=f"{layer_name}, {weight}")


@pytest.mark.parametrize("name", ["tanh", "lstm", "bidirectional", "attention", "translator"])
def test_a_scalar_loss_is_split_by_the_step_at_which_its_gradient_enters(name):
    case = CASES[name]()
    torch.manual_seed(0)
    with tt.trace(case.model) as trace:
        loss = case.losses(case.model).sum()
    flow = trace.flow(loss)
    assert flow.split == "step"
    loss.backward()
    for (layer_name, weight), parameter in parameters_by_run(case.model, flow).items():
        one = flow[layer_name]
        parts = sum(one.weight_grad(weight, loss=v) for v in range(one.T))
        assert_close(parts, parameter.grad, name=f"{layer_name}, {weight}")
        assert_close(one.weight_grad(weight), parameter.grad)


OPTIONS = {
    "plain": {},
    "lengths": {"lengths": LENGTHS},
    "resets": {"reset": resets()},
    "both": {"lengths": LENGTHS, "reset": resets()},
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("tanh", {}),
        ("relu", {"num_layers": 2}),
        ("lstm", {"num_layers": 2, "bidirectional": True}),
        ("lstm", {"num_layers": 2, "proj_size": 2}),
        ("gru", {"num_layers": 2, "bidirectional": True}),
        ("gru", {"bias": False}),
    ],
    ids=["tanh", "relu-2", "lstm-2-both", "lstm-projected", "gru-2-both", "gru-no-bias"],
)
def test_each_single_term_is_autograds_for_a_copy_of_the_weight_at_that_step(kind, options, option):
    module = layer(kind, I, H, **options)
    x = draw(T, B, I)
    with tt.trace(module) as trace:
        losses = per_step(module(x, **OPTIONS[option])[0])
    flow = trace.flow(losses)
    reset = OPTIONS[option].get("reset")
    lengths = OPTIONS[option].get("lengths")
    if lengths is not None and reset is not None:
        reset = reset & (torch.arange(T)[:, None] < torch.tensor(lengths))
    output, runs = unrolled(module, x, None, lengths, reset)
    oracle = per_step(output)
    assert list(flow) == list(runs)
    copies = {
        (name, weight, k): copy
        for name, run in runs.items()
        for k, weights in enumerate(run.weights, 1)
        for weight, copy in weights.items()
    }
    for v in range(T):
        want = gradient(oracle[v], list(copies.values()))
        for (name, weight, k), term in zip(copies, want, strict=True):
            got = flow[name].weight_grad(weight, loss=v, step=k)
            assert_close(got, term, rtol=1e-9, name=f"{name}.{weight}[{v}, {k}]")


def test_the_terms_after_a_loss_are_exactly_zero():
    case = CASES["lstm"]()
    flow, _ = flow_of(case)
    for v in range(T):
        for k in range(v + 2, T + 1):
            term = flow["l0"].weight_grad("weight_hh", loss=v, step=k)
            assert torch.count_nonzero(term) == 0
        assert torch.count_nonzero(flow["l0"].weight_grad("weight_ih", loss=v, step=v + 1))


def test_shares_of_the_steps_sum_to_one_and_norms_are_those_of_the_terms():
    flow, _ = flow_of(CASES["gru"]())
    one = flow["l0"]
    for name in one.weight_names:
        whole = one.weight_grad(name)
        terms = [one.weight_grad(name, step=k) for k in range(1, T + 1)]
        shares = torch.stack([(t * whole).sum() / whole.pow(2).sum() for t in terms])
        assert_close(one.weight_share(name), shares)
        assert_close(one.weight_share(name).sum(), torch.ones((), dtype=F64))
        assert_close(one.weight_norms(name), torch.stack([t.norm() for t in terms]))


@pytest.mark.parametrize("memory", [1, 2000, 10**9])
@pytest.mark.parametrize("name", ["bidirectional", "two modules", "attention", "translator"])
def test_how_much_memory_a_flow_may_use_does_not_change_it(name, memory):
    case = CASES[name]()
    want, losses = flow_of(case)
    got, _ = flow_of(case, memory=memory)
    for layer_name, one in got.items():
        assert_close(one.norms, want[layer_name].norms, rtol=1e-12)
        assert torch.equal(one.enters, want[layer_name].enters)
        for v in range(len(losses)):
            assert_close(one.adjoint(v), want[layer_name].adjoint(v), rtol=1e-12)
