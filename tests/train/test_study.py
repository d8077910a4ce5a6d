"""The demo's study: the same numbers for the same seed, and measures that mean what they say."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import pytest
import torch

from throughtime.demo.experiment import Curriculum, Plan, study
from throughtime.demo.overflow import overflow
from throughtime.demo.recall import NETWORKS, Budget, Network, Recall, Score, learn
from throughtime.demo.word_reach import bounds, follow, relative_norm
from throughtime.tasks import Mention
from throughtime.tasks.mention import LONG

TINY = Budget(updates=6, rows=4, hidden=8, width=6, tested=20)


def network(name: str) -> Network:
    return next(row for row in NETWORKS if row.name == name)


def test_wilson_interval_of_known_cases():
    assert Score(8, 0, 10).interval == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert Score(8, 10, 10).interval == pytest.approx((0.72247, 1.0), abs=1e-5)
    assert Score(8, 81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)


@pytest.mark.parametrize("name", [row.name for row in NETWORKS])
def test_reach_is_the_ratio_of_the_gradients_that_autograd_gives(name):
    task = Mention()
    model = Recall(task, network(name), TINY).double()
    x, y, _ = task.batch(5, 12, random.Random(0))
    k = task.mention_step
    # Run in two pieces, so that the state at the mention is a tensor that autograd can name.
    embedded = model.embed(x)
    _, state = model.layer(embedded[:k])
    state = tuple(s.detach().requires_grad_() for s in state) if isinstance(state, tuple) else (
        state.detach().requires_grad_(),)  # fmt: skip
    out, _ = model.layer(embedded[k:], state if len(state) == 2 else state[0])
    last = out[-1]
    loss = torch.nn.functional.cross_entropy(model.readout(last), y, reduction="sum")
    *at, end = torch.autograd.grad(loss, [*state, last])
    ratio = torch.cat([g[0] for g in at], -1).norm(dim=-1) / end.norm(dim=-1)
    assert relative_norm(model, x, y, k) == pytest.approx(float(ratio.median()), rel=1e-9)


def test_bounds_lie_above_the_truth_at_every_lag():
    task = Mention(longest=20)
    for name in ("sigmoid RNN", "tanh RNN", "chrono LSTM"):
        model = Recall(task, network(name), TINY)
        x, y, _ = task.batch(1, 20, random.Random(0))
        (layer,) = follow(model, x, y).values()
        found = bounds(layer, 20)
        direct = torch.linalg.matrix_norm(layer.jacobian_product(layer.T, layer.T - 20)[0], 2)
        assert found.truth[20] == pytest.approx(float(direct), rel=1e-6)
        assert all(t <= b * (1 + 1e-9) for t, b in zip(found.truth, found.tight, strict=True))
        if found.loose is not None:
            assert found.gain is not None
            assert found.loose[20] == pytest.approx(found.gain**20)
            assert all(t <= b * (1 + 1e-9) for t, b in zip(found.tight, found.loose, strict=True))
        else:
            assert found.gain is None and "LSTM" in name


def test_learning_is_reproducible_and_leaves_the_global_seed_alone():
    task = Mention(names=3, longest=12)
    runs = []
    for _ in range(2):
        torch.manual_seed(len(runs))
        before = torch.random.get_rng_state()
        runs.append(learn(task, network("GRU"), TINY, (8, 12), seed=5))
        assert torch.equal(before, torch.random.get_rng_state())
    assert runs[0].source == runs[1].source and runs[0].after == runs[1].after
    other = learn(task, network("GRU"), TINY, (8, 12), seed=6)
    assert other.source != runs[0].source


def test_chrono_learns_what_lies_far_before_the_plain_lstm_does():
    task = Mention(names=3, shortest=30, longest=40)
    budget = Budget(updates=250, rows=16, hidden=24, width=16, tested=60)
    done = [learn(task, network(n), budget, (40,), seed=0) for n in ("chrono LSTM", "LSTM")]
    assert done[0].scores[0].share > 0.95 and done[0].learned
    assert done[1].scores[0].share < 0.75 and not done[1].learned
    assert done[0].before[40] > 1e4 * done[1].before[40]


def test_the_gradient_overflows_on_the_way_back_with_inf_before_nan():
    row = overflow(Mention(), 20.0, 1.0, updates=3)
    assert math.isfinite(row.loss) and row.updates == 0 and "norm of its gradient" in row.stopped
    assert row.first is not None and row.first.direction == "backward" and row.first.kind == "inf"
    assert row.first_nan is not None and row.first_nan <= row.first.step
    assert all(map(math.isfinite, row.by_step[row.first.step + 1 :]))


def test_clipping_keeps_the_weights_where_the_gradient_is_large_but_finite():
    bare, clipped = (overflow(Mention(), 5.0, clip, updates=2) for clip in (None, 1.0))
    assert bare.norm > 1e19 and math.isfinite(bare.norm) and math.isinf(bare.float32_norm)
    assert bare.largest > 1e10 and clipped.largest < 10 and not clipped.stopped
    assert clipped.largest != pytest.approx(0)


def test_a_study_counts_its_updates_and_its_json_has_no_bare_nan():
    plan = replace(
        Plan.quick(),
        mixed=Curriculum("near and far", 8, 12, 4),
        far=Curriculum("far only", 12, 12, 2),
        lags=(8, 12),
        budget=TINY,
        gains=(20.0,),
        networks=NETWORKS[:2],
    )
    counted = []
    found = study(plan, lambda what, updates: counted.append(updates))
    assert sum(counted) == plan.updates == 12
    text = json.dumps(found.to_dict(), allow_nan=False)
    assert '"nan"' in text and len(found.to_dict()["near_and_far"]["networks"]) == 2
    assert found.mixed[0].sentence is not None
    assert len(LONG.words) == found.mixed[0].sentence.T
