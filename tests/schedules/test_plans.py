"""The plans of Checkpointed run no step more often than Revolve does, whatever the budget."""

import pytest
import torch
from checkpoint_schedules import Forward, Revolve
from hypothesis import given
from hypothesis import strategies as st

import throughtime as tt
from throughtime import kernels
from throughtime.kernels.cpu.engine import Native
from throughtime.kernels.plain.engine import Plain
from throughtime.schedules import checkpointed
from throughtime.schedules.plan import RecomputePlan, advances
from throughtime.testing import assert_close

F64 = torch.float64


def gone_through(plan, T):
    """Give the segments in the order in which they are gone back through, and the steps run.

    Those are counted that are run to reach a later one, the first way forward included; that one
    also runs the last segment, whose output the layer gives out.
    """
    left = list(plan.descent(0, T, plan.slots))
    run, gone = left[-1][0], []
    while left:
        # Besides s_0, which is the input, and the state that the sweep has reached.
        assert len(left) - 1 <= plan.slots + 1
        first, last = left.pop()
        at = plan.split(first, last, plan.slots - len(left))
        if at is None:
            gone.append((first, last))
            continue
        run += at - first
        left += [(first, at), (at, last)]
    return gone, run


@given(T=st.integers(1, 200), segment=st.integers(1, 20), slots=st.integers(0, 12))
def test_a_plan_goes_back_through_every_step_with_the_states_it_has(T, segment, slots):
    gone, _ = gone_through(RecomputePlan(segment, slots), T)
    assert gone[0][1] == T and gone[-1][0] == 0
    assert all(last - first <= segment for first, last in gone)
    assert all(later[0] == earlier[1] for earlier, later in zip(gone[1:], gone, strict=False))


@pytest.mark.parametrize("slots", range(9))
def test_a_plan_runs_as_few_steps_as_the_optimal_binomial_schedule(slots):
    for n in [*range(1, 40), 60, 100, 230]:  # 230 steps are the fourth time over for 8 slots
        # Revolve counts the state before the first step, and runs each step once for its adjoint.
        optimal = sum(a.n1 - a.n0 for a in Revolve(n, slots + 1) if isinstance(a, Forward)) - n
        _, run = gone_through(RecomputePlan(1, slots), n)
        assert run == advances(n, slots) == optimal, (n, slots)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("memory", [2000, 4000, 8000, 30000])
def test_the_layer_runs_the_steps_of_its_plan(monkeypatch, memory, backend):
    T, run, states = 60, [], []

    def counting(run_steps):
        def counted(engine, cell, x, *arguments, **options):
            run.append(len(x))
            return run_steps(engine, cell, x, *arguments, **options)

        return counted

    def planned(*arguments):
        states.append(plan(*arguments))
        return states[-1]

    plan = checkpointed.plan
    for engine in (Native, Plain):
        for name in ("outputs", "forward"):
            monkeypatch.setattr(engine, name, counting(getattr(engine, name)))
    monkeypatch.setattr(checkpointed, "plan", planned)
    with kernels.use(backend):
        layer = tt.GRU(3, 4, through=tt.Checkpointed(memory=memory), dtype=F64)
        layer(torch.randn(T, 2, 3, dtype=F64))[0].sum().backward()
    chosen = states[0]
    assert set(states) == {chosen}
    n = -(-T // chosen.segment)
    # At least s, three gates, the hidden side of n, and the adjoints and what made them; a state
    # that is run again for is kept twice, on the way forward and on the way back.
    number, H, B = 8, 4, 2
    held = chosen.segment * (1 + 3 + 1 + 2 * 3) * H * B * number
    kept = (chosen.slots + 1) * H * B * number * (2 if chosen.slots < n - 1 else 1)
    assert held + kept <= memory
    assert max(run) <= chosen.segment
    # All once for the outputs and once for the way back, and what Revolve would run again.
    again = advances(n, chosen.slots) - (n - 1)
    assert 2 * T <= sum(run) <= 2 * T + again * chosen.segment


@given(
    kind=st.sampled_from(("RNN", "GRU", "LSTM", "Function")),
    T=st.integers(1, 30),
    B=st.integers(1, 3),
    memory=st.integers(1, 12000),
    masks=st.booleans(),
    backend=st.sampled_from(("auto", "reference")),
)
def test_within_any_budget_the_gradient_is_exact_or_the_budget_is_refused(
    kind, T, B, memory, masks, backend
):
    torch.manual_seed(0)
    if kind == "Function":
        weights = {"W": torch.randn(4, 4, dtype=F64) / 2, "U": torch.randn(4, 3, dtype=F64)}
        step = lambda x, s, W, U: torch.tanh(x @ U.T + s @ W.T)  # noqa: E731
        layer = tt.Recurrent(tt.cells.Function(step, 3, 4, weights=weights))
    else:
        layer = getattr(tt, kind)(3, 4, dtype=F64)
    x = torch.randn(T, B, 3, dtype=F64, requires_grad=True)
    ragged = {"lengths": torch.randint(1, T + 1, (B,)), "reset": torch.rand(T, B) > 0.8}

    def gradients():
        output, state = layer(x, **(ragged if masks else {}))
        state = state[0] if isinstance(state, tuple) else state
        loss = (output + 1).pow(2).sum() + state.pow(3).sum()  # not 0 where a row has ended
        return torch.autograd.grad(loss, [x, *layer.parameters()])

    with kernels.use(backend):
        want = gradients()
        tt.set_through(layer, tt.Checkpointed(memory=memory))
        try:
            got = gradients()
        except tt.errors.InputValueError as error:
            # One step and two states of the LSTM, the largest: 14 H and 4 H numbers a row.
            assert memory < (14 + 4) * 4 * 8 * B and "two states" in str(error)
            return
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, rtol=1e-11)
