"""`tt.treat`: copies are treated and measured, the model is left alone, and what fails is said."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime import diagnosis
from throughtime.errors import (
    GraphError,
    InputTypeError,
    InputValueError,
    LayerNotFoundError,
    UnsupportedError,
)
from throughtime.remedies import REMEDIES, clipping, table_text
from throughtime.remedies.ranking import interval
from throughtime.remedies.training import rounds
from throughtime.testing import assert_close


class Reader(nn.Module):
    """A layer, and a class read out at the last step."""

    def __init__(self, kind=nn.LSTM, H: int = 16, **options) -> None:
        super().__init__()
        self.rnn = kind(4, H, **options)
        self.out = nn.Linear(H * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][-1])


class Loop(nn.Module):
    """A cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleDict({"a b": nn.LSTMCell(4, 8)})

    def forward(self, x: Tensor) -> Tensor:
        h, c = torch.zeros(2, x.shape[1], 8).unbind(0)
        for x_t in x:
            h, c = self.cells["a b"](x_t, (h, c))
        return h


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def at_the_end(T: int = 40, B: int = 4):
    x, y = torch.randn(T, B, 4), torch.randint(0, 3, (B,))
    return lambda model: nn.functional.cross_entropy(model(x), y)


# --- what it finds ---------------------------------------------------------------------------


def test_chrono_reaches_further_than_an_untrained_default_lstm():
    """T = 100, a loss at the end: measured, not believed."""
    losses = at_the_end(100)
    model = Reader(H=32)
    found = tt.treat(model, losses, lag=99, only="chrono")
    row = found["chrono"]
    assert row.before is not None and row.after is not None
    assert row.before.at_lag < 1e-12 and row.before.horizon < 20
    assert row.after.at_lag > 0.01 and row.after.horizon == 100
    assert row.after.best > 0.05 and row.after.share > 0.3 and row.after.coverage > 0.9
    assert found.best == "chrono" and row.helps
    found.apply(model)
    with tt.trace(model) as trace:
        loss = losses(model)
    assert trace.flow(loss)["rnn.l0"].horizon() == 100


def test_a_remedy_that_does_not_help_is_shown_so():
    found = tt.treat(Reader(nn.GRU, 32), at_the_end(100), only=["orthogonal", "forget-bias"])
    assert [row.helps for row in found.rows] == [False, False, False]
    assert found.best is None and found.order == () and found.needed
    lines = repr(found).splitlines()
    assert lines[-1] == "none of these helps"
    assert {line.split()[1] for line in lines if line.startswith(("orth", "forget"))} <= {
        "no",
        "further",
    }
    assert found.code() == "# none of the remedies that were tried helps"
    with pytest.raises(InputValueError, match="no remedy helped"):
        found.apply(Reader(nn.GRU, 32))


def test_none_is_needed_where_every_step_is_reached():
    x = torch.randn(30, 4, 4)
    found = tt.treat(nn.LSTM(4, 16), lambda model: model(x)[0].pow(2).mean((1, 2)))
    assert not found.needed
    assert "none needed" in repr(found)
    # The same model, where a step 25 back is asked for.
    assert tt.treat(nn.LSTM(4, 16), lambda m: m(x)[0].pow(2).mean((1, 2)), lag=25).needed


def test_a_cause_stands_before_reach(monkeypatch):
    """Saturated gates reach all steps: what `tt.examine` finds decides, and reach does not."""

    class Finding:
        code, severity = "input-scale", "warning"

    def examine(flow, *, lag=None):
        (layer,) = flow.values()
        return [Finding()] if layer.tape.x.abs().max() > 50 else []

    monkeypatch.setattr(diagnosis, "examine", examine, raising=False)
    x = 30_000 + 500 * torch.randn(40, 6, 4)
    model = Reader()
    found = tt.treat(model, lambda m: m(x).pow(2).mean())
    assert found.best == "standardise"
    assert not found["chrono"].helps
    assert "without input-scale" in found["standardise"].why
    found.apply(model)
    assert {"rnn.mean", "rnn.scale"} <= set(model.state_dict())


def test_what_is_not_finite_is_not_helped_by_reach():
    x = torch.randn(60, 4, 4)
    x[3, 1, 2] = math.nan
    found = tt.treat(Reader(), lambda m: m(x).pow(2).mean(), only=["chrono", "orthogonal"])
    assert found.best is None and found.needed and found["chrono"].further
    assert "inf/NaN" in repr(found)


def test_padding_is_treated_by_lengths():
    x, ends = torch.randn(60, 8, 4), torch.randint(5, 15, (8,))
    for row, end in enumerate(ends):
        x[end:, row] = 0

    def losses(model: nn.Module) -> Tensor:
        return model(x).pow(2).mean()

    found = tt.treat(Reader(nn.GRU), losses, only="lengths")
    row = found["lengths"]
    assert row.after is not None and row.before is not None
    assert row.before.coverage < 0.5 < 0.75 < row.after.coverage


def test_clip_measures_its_threshold_and_says_that_training_alone_tells():
    model = Reader(tt.RNN, nonlinearity="identity")
    with torch.no_grad():
        model.rnn.weight_hh_l0.copy_(1.3 * torch.eye(16))
    found = tt.treat(model, at_the_end(40), only=["clip", "orthogonal", "edge-gain"])
    assert "?" in repr(found)
    most = float(found["clip"].changes[0].code.split(", ")[1].split(")")[0])
    losses = at_the_end(40)
    (grad,) = torch.autograd.grad(losses(model), [model.rnn.weight_hh_l0])
    assert 0 < most < grad.norm()
    assert found["orthogonal"].helps and found.best == "orthogonal"  # it no longer explodes


@pytest.mark.parametrize("kind", [nn.RNN, tt.GRU])
def test_the_threshold_of_clip_is_of_all_that_it_clips(kind):
    """Over ten steps nothing is left out: it is the norm over embedding, layer and readout."""
    model = nn.Sequential(nn.Linear(4, 4), kind(4, 16))
    model.out = nn.Linear(16, 3)
    x = torch.randn(10, 5, 4)

    def losses(model: nn.Module) -> Tensor:
        return 40 * model.out(model[1](model[0](x))[0]).pow(2).mean((1, 2))

    def most(found: tt.remedies.Treatment) -> float:
        return float(found["clip"].changes[0].code.split(", ")[1].split(")")[0])

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setitem(vars(REMEDIES["clip"]), "fits", lambda case, place: True)
        found = tt.treat(model, losses, only="clip")
    grads = torch.autograd.grad(losses(model).sum(), list(model.parameters()))
    norm = math.sqrt(sum(float(g.norm()) ** 2 for g in grads))
    assert most(found) == float(f"{norm:.0e}") == found["clip"].changes[0].value
    layer = math.sqrt(sum(float(g.norm()) ** 2 for g in grads[2:6]))
    assert float(f"{layer:.0e}") != most(found), "the layer alone would do"


def test_a_gradient_that_explodes_farther_back_does_not_set_the_threshold():
    model = nn.Sequential(nn.Linear(4, 4), tt.RNN(4, 16, nonlinearity="identity"))
    with torch.no_grad():
        model[1].weight_hh_l0.copy_(1.4 * torch.eye(16))
    x = torch.randn(60, 5, 4)

    def losses(model: nn.Module, since: int = 0) -> Tensor:
        return model[1](model[0](x[since:]))[0][-1].mean()

    found = tt.treat(model, losses, only="clip")
    most = found["clip"].changes[0].value
    with torch.no_grad():
        h = model[1](model[0](x[:-10]))[1]
    near = model[1](model[0](x[-10:]), h)[0][-1].mean()
    norms = [
        math.sqrt(sum(float(g.norm()) ** 2 for g in torch.autograd.grad(loss, model.parameters())))
        for loss in (near, losses(model))
    ]
    assert most == float(f"{norms[0]:.0e}") and most < 0.5 * norms[1]


def test_where_a_loop_takes_no_schedule_the_threshold_is_that_of_its_layers():
    model, x = Loop(), torch.randn(8, 3, 4)

    def losses(model: nn.Module) -> Tensor:
        return 100 * model(x).pow(2).mean()

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setitem(vars(REMEDIES["clip"]), "fits", lambda case, place: True)
        found = tt.treat(model, losses, only="clip")
    grads = torch.autograd.grad(losses(model), list(model.parameters()))
    norm = math.sqrt(sum(float(g.norm()) ** 2 for g in grads))
    # Norms of single steps are added up, so it is no less than that of their sum.
    assert 0.9 * norm < found["clip"].changes[0].value < 3 * norm


def test_the_same_threshold_clips_all_copies(monkeypatch):
    """The one that was measured, not that of a copy as it is trained."""
    from throughtime.remedies import clip

    used = []
    monkeypatch.setattr(clip, "clip_gradient_", lambda parameters, most: used.append(most))
    model = nn.Sequential(tt.RNN(4, 16, nonlinearity="identity"))
    with torch.no_grad():
        model[0].weight_hh_l0.copy_(1.2 * torch.eye(16))
    x = torch.randn(40, 5, 4)

    def losses(model: nn.Module) -> Tensor:
        return model[0](x)[0][-1].pow(2).mean()

    def train(model: nn.Module, updates: int) -> float:
        sgd = torch.optim.SGD(model.parameters(), 1e-9)
        losses(model).backward()
        sgd.step()
        with torch.no_grad():
            model[0].weight_hh_l0.mul_(0.5)
        return 0.0

    only = ["clip", "orthogonal", "edge-gain"]
    found = tt.treat(model, losses, only=only, train=train, seeds=2, updates=8)
    assert len(used) >= 4 and set(used) == {found["clip"].changes[0].value}


def test_clipping_while_a_model_is_trained():
    w, other = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    mine, theirs = torch.optim.SGD([w], 1.0), torch.optim.SGD([other], 1.0)
    with clipping([w], 0.5):
        for p, optimizer in ((w, mine), (other, theirs)):
            p.grad = torch.tensor([3.0, 4.0])
            optimizer.step()
    torch.testing.assert_close(w.detach(), torch.tensor([-0.3, -0.4]))
    torch.testing.assert_close(other.detach(), torch.tensor([-3.0, -4.0]))
    w.grad = torch.tensor([3.0, 4.0])
    mine.step()
    torch.testing.assert_close(w.detach(), torch.tensor([-3.3, -4.4]))


@pytest.mark.parametrize(("name", "large"), [("truncated", None), ("checkpointed", 1)])
def test_schedules_as_the_horizon_asks(monkeypatch, name, large):
    if large:
        monkeypatch.setattr("throughtime.remedies.schedule.LARGE", large)
    model = Reader(nn.RNN)
    losses = at_the_end(60)
    found = tt.treat(model, losses, only=name, lag=3)
    found.apply(model, name)
    assert isinstance(model.rnn.through, tt.Truncated if name == "truncated" else tt.Checkpointed)
    if name == "truncated":
        with tt.trace(model) as trace:
            flow = trace.flow(losses(model))
        assert model.rnn.through.window >= 2 * flow["rnn.l0"].horizon()
        assert max(flow["rnn.l0"].dropped(model.rnn.through).values()) < 0.01


# --- the model is left alone -----------------------------------------------------------------


def everything(model: nn.Module) -> list[object]:
    kept: list[object] = [p.detach().clone() for p in model.state_dict().values()]
    kept += [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    numpy = np.random.get_state(legacy=False)["state"]
    kept += [torch.get_rng_state(), random.getstate(), numpy["pos"], numpy["key"].tolist()]
    kept += [torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()]
    kept += [torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()]
    return [*kept, model.training, [type(m) for m in model.modules()], len(model._forward_hooks)]


def same(a: list[object], b: list[object]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) if isinstance(x, Tensor) and isinstance(y, Tensor) else x == y
        for x, y in zip(a, b, strict=True)
    )


def disturb(model: nn.Module) -> None:
    """Do what a careless function does."""
    torch.rand(3), random.random(), np.random.rand()
    torch.set_default_dtype(torch.float64)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    model.eval()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.RNN])
@pytest.mark.parametrize("end", ["returns", "raises", "interrupted"])
def test_the_model_and_all_that_is_global_stay_as_they_were(kind, end):
    model, losses = Reader(kind), at_the_end(20)
    losses(model).backward()
    before, calls = everything(model), 0

    def careless(given: nn.Module) -> Tensor:
        nonlocal calls
        calls += 1
        found = losses(given)
        disturb(given)
        if calls == 7 and end == "interrupted":
            raise KeyboardInterrupt
        if calls == 3 and end == "raises":
            raise RuntimeError("mine")
        return found

    def train(given: nn.Module, updates: int) -> float:
        disturb(given)
        with torch.no_grad():
            for p in given.parameters():
                p.add_(updates)
        torch.set_default_dtype(torch.float64)
        return 0.0

    if end == "raises":
        with pytest.raises(RuntimeError, match="mine"):
            tt.treat(model, careless)
    else:
        some = ["chrono", "gated-cell", "orthogonal", "edge-gain", "identity-relu", "clip"]
        found = tt.treat(model, careless, train=train, updates=4, only=some)
        assert found.interrupted == (end == "interrupted")
    assert same(before, everything(model))


def test_a_gradient_outside_of_the_model_stays_too():
    head, layer, x = nn.Linear(8, 1), nn.GRU(4, 8), torch.randn(12, 2, 4)
    head(layer(x)[0]).sum().backward()
    kept = head.weight.grad.clone()
    tt.treat(layer, lambda m: head(m(x)[0][-1]).sum())
    assert torch.equal(head.weight.grad, kept)


def test_ctrl_c_gives_the_rows_that_were_finished():
    losses, calls = at_the_end(20), 0

    def stopped(given: nn.Module) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 4 * 2 + 2:  # four a row: a trace and three timed steps
            raise KeyboardInterrupt
        return losses(given)

    found = tt.treat(Reader(), stopped)
    assert found.interrupted and [row.name for row in found.rows] == ["as it is", "chrono"]
    assert "interrupted" in repr(found) and found.best == "chrono"


def test_ctrl_c_before_anything_was_measured_is_passed_on():
    def stopped(given: nn.Module) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tt.treat(Reader(), stopped)


def test_ctrl_c_in_training_keeps_the_rounds_that_were_finished():
    calls = 0

    def train(given: nn.Module, updates: int) -> float:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise KeyboardInterrupt
        return float(calls)

    found = tt.treat(Reader(), at_the_end(10), only=["chrono", "orthogonal"], train=train)
    assert found.interrupted
    assert [len(row.scores) for row in found.rows] == [1, 1, 1]


# --- what is applied is what was measured ----------------------------------------------------

MODELS = {
    "LSTM": lambda: Reader(nn.LSTM, num_layers=2),
    "tt.GRU": lambda: Reader(tt.GRU, bidirectional=True),
    "RNN": lambda: Reader(nn.RNN, num_layers=2),
    "cell": Loop,
    "the layer itself": lambda: nn.Sequential(nn.RNN(4, 8)),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_remedy_is_applied_as_it_was_measured_and_its_lines_run(name):
    def make() -> nn.Module:
        torch.manual_seed(1)
        return MODELS[name]()

    x = torch.randn(25, 3, 4) + 5  # large enough to be standardised

    def losses(model: nn.Module) -> Tensor:
        found = model(x)
        return (found[0][-1] if isinstance(found, tuple) else found).pow(2).mean()

    found = tt.treat(make(), losses, lag=20)
    tried = [row for row in found.rows[1:] if row.error is None]
    assert len(tried) >= 3 and len(tried) == len(found.rows) - 1, [r.error for r in found.rows]
    for row in tried:
        model = make()
        torch.manual_seed(5)
        applied = found.apply(model, row.name)
        assert applied is model
        with tt.trace(model) as trace:
            flow = trace.flow(losses(model))
        measured = row.measured.flow
        assert list(flow) == list(measured)
        for layer in flow:
            assert torch.equal(flow[layer].norms, measured[layer].norms), row.name
        scope = {"model": make(), "x": x}
        exec(row.code(), scope)
        losses(scope["model"])
        assert [type(m) for m in scope["model"].modules()] == [type(m) for m in model.modules()]


def test_a_model_that_is_itself_the_layer():
    layer, x = nn.RNN(4, 8), torch.randn(25, 3, 4)
    found = tt.treat(layer, lambda m: m(x)[0][-1].pow(2).mean(), lag=20)
    assert found.best == "gated-cell"
    assert found.code().splitlines()[-1] == "model = gated(model, longest=20)"
    assert isinstance(found.apply(layer), nn.GRU)
    orthogonal = found.apply(layer, "orthogonal")
    assert orthogonal is layer


def test_apply_refuses_what_it_does_not_fit():
    found = tt.treat(Reader(), at_the_end(20), only="chrono")
    with pytest.raises(LayerNotFoundError, match=r"'rnn\.l0'"):
        found.apply(nn.Linear(2, 2))
    with pytest.raises(InputTypeError, match=r"nn\.Module"):
        found.apply(None)
    with pytest.raises(InputValueError, match="there is no row 'clip'"):
        found.apply(Reader(), "clip")


def test_a_remedy_that_fails_is_a_row_with_its_error(monkeypatch):
    def broken(*_):
        raise RuntimeError("no such thing\nsecond line")

    monkeypatch.setitem(vars(REMEDIES["chrono"]), "change", broken)
    found = tt.treat(Reader(), at_the_end(20), only=["chrono", "orthogonal"])
    assert found["chrono"].error == "RuntimeError: no such thing"
    assert "chrono could not be tried: RuntimeError: no such thing" in repr(found)
    assert found["orthogonal"].error is None
    with pytest.raises(InputValueError, match="cannot be applied"):
        found.apply(Reader(), "chrono")


class Marked(nn.Module):
    """A loop of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.shape[1], 4)
        for x_t in x:
            h = tt.mark("h", self.step(torch.cat((x_t, h), 1)).tanh())
        return h


class Unread(nn.Module):
    """Two layers, of which one is not read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.GRU(4, 8), nn.GRU(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.a(x)
        return self.b(x)[0][-1]


class Packed(nn.Module):
    """A layer over packed rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([25, 9, 17])
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return self.rnn(packed)[1][0]


class Normed(nn.Module):
    """A layer whose W_h is computed: an initial value of it would be written over."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.utils.parametrizations.weight_norm(nn.GRU(4, 8), "weight_hh_l0")

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][-1]


@pytest.mark.parametrize(
    ("make", "best"),
    [
        (Marked, None),
        (Unread, "chrono"),
        (Packed, "chrono"),
        (Normed, None),
        (lambda: nn.Sequential(tt.Recurrent(tt.cells.PeepholeLSTM(4, 8))), "chrono"),
        (lambda: nn.Sequential(tt.Recurrent(tt.cells.MinGRU(4, 8))), None),
    ],
)
def test_models_of_other_kinds(make, best):
    x = torch.randn(25, 3, 4)

    def losses(model: nn.Module) -> Tensor:
        found = model(x)
        return (found[0][-1] if isinstance(found, tuple) else found).pow(2).mean()

    found = tt.treat(make(), losses, lag=22)
    assert found.best == best
    assert all(row.error is None or row.name == "edge-gain" for row in found.rows)
    if best:
        row = found[best]
        assert row.before.best < 0.01 < row.after.best


# --- training --------------------------------------------------------------------------------


class Trained:
    """A stand-in for training: a score by the forget bias, some noise by the random state."""

    def __init__(self, better: bool = True, noise: float = 0.01) -> None:
        self.calls: list[tuple[int, int]] = []
        self.better, self.noise, self.draws = better, noise, set()

    def __call__(self, model: nn.Module, updates: int) -> Tensor:
        self.calls.append((id(model), updates))
        draw = torch.randn(()).item()
        self.draws.add(draw)
        f = (model.rnn.bias_ih_l0 + model.rnn.bias_hh_l0).detach()[16:32].mean()
        own = float(f) * 1e-3 * draw
        return torch.tensor(float(f > 0.5) * self.better + self.noise * draw + own)


def test_scores_of_paired_seeds_decide():
    train = Trained()
    found = tt.treat(Reader(), at_the_end(20), train=train, seeds=3, updates=80)
    names = [row.name for row in found.rows]
    assert found.trained and found.best in {"chrono", "forget-bias"}
    best = found[found.best]
    assert best.updates == 80 and best.gain.known and best.gain.low > 0.9
    assert best.score.mean == pytest.approx(sum(best.scores) / 3)
    assert not found["orthogonal"].helps and found["orthogonal"].updates < 80
    # The same draws for all, another one for each seed and round.
    assert len(train.draws) == 3 * len(rounds(len(names) - 1, 80))
    assert "score" in repr(found) and max(map(len, repr(found).splitlines())) <= 80
    assert f"after {best.updates} updates" in best.why


def test_none_is_said_where_none_learns_better():
    found = tt.treat(
        Reader(),
        at_the_end(20),
        train=Trained(better=False),
        seeds=4,
        only=["chrono", "orthogonal"],
    )
    assert found.best is None
    assert repr(found).endswith("none of these helps")


def test_with_one_seed_there_is_no_interval():
    found = tt.treat(Reader(), at_the_end(20), train=Trained(), only="chrono")
    assert found.best == "chrono" and not found["chrono"].gain.known
    assert "one seed: no interval" in found["chrono"].why


def test_training_that_breaks_is_a_row_with_its_error_and_the_own_models_is_raised():
    def train(model: nn.Module, updates: int) -> float:
        if model.rnn.bias_ih_l0.detach()[16:32].min() == 1:
            raise ArithmeticError("diverged")
        return 1.0

    found = tt.treat(Reader(), at_the_end(10), train=train, only=["forget-bias", "orthogonal"])
    assert found["forget-bias"].error == "training raised ArithmeticError: diverged"
    assert found["orthogonal"].scores == (1.0,)

    def broken(model: nn.Module, updates: int) -> float:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tt.treat(Reader(), at_the_end(10), train=broken, only="chrono")


def test_a_score_must_be_a_number():
    with pytest.raises(InputTypeError, match="must return a score"):
        tt.treat(Reader(), at_the_end(10), train=lambda m, n: None, only="chrono")


def test_a_score_of_nan_is_the_worst_there_is():
    def train(model: nn.Module, updates: int) -> float:
        return math.nan if isinstance(model.rnn, nn.LSTM) else 1.0

    found = tt.treat(Reader(), at_the_end(10), train=train, seeds=2, only=["chrono"])
    assert found.best is None and found["chrono"].scores == (-math.inf, -math.inf)


def test_the_interval_is_students():
    found = interval([0.1, 0.4, 0.2, 0.3])
    spread = 3.182 * np.std([0.1, 0.4, 0.2, 0.3], ddof=1) / 2
    assert found.mean == pytest.approx(0.25) and found.high - found.mean == pytest.approx(spread)


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "error", "words"),
    [
        ({"model": 3}, InputTypeError, r"model must be an nn\.Module; got int"),
        ({"losses": 3}, InputTypeError, "losses must be a function; got int"),
        ({"train": 3}, InputTypeError, "train must be a function; got int"),
        ({"lag": 0}, InputValueError, "lag must be at least 1; got 0"),
        ({"lag": 2.5}, InputTypeError, "lag must be an integer; got 2.5"),
        ({"lag": 500}, InputValueError, "no loss of this batch has more than 10 steps"),
        ({"only": "nope"}, InputValueError, "only must be of standardise, .*; got 'nope'"),
        ({"seeds": 0}, InputValueError, "seeds must be at least 1"),
        ({"updates": True}, InputTypeError, "updates must be an integer"),
        ({"losses": lambda m: torch.zeros(3)}, GraphError, "did not run the model"),
        (
            {"model": nn.Linear(2, 2), "losses": lambda m: m.weight.sum()},
            LayerNotFoundError,
            "nothing",
        ),
    ],
)
def test_bad_input_is_one_sentence(named, error, words):
    given = {"model": Reader(), "losses": at_the_end(10), **named}
    with pytest.raises(error, match=words) as raised:
        tt.treat(**given)
    assert "\n" not in str(raised.value)


def test_losses_that_run_the_model_outside_are_refused():
    model = Reader()
    losses = at_the_end(10)
    with pytest.raises(GraphError, match="must use its argument"):
        tt.treat(model, lambda given: losses(model))


def test_a_model_that_cannot_be_copied_is_refused():
    model = Reader()
    model.kept = model(torch.randn(3, 2, 4))
    with pytest.raises(UnsupportedError, match="cannot be copied"):
        tt.treat(model, at_the_end(10))


# --- how it shows itself ---------------------------------------------------------------------


def test_plain_data_has_a_version_and_goes_through_json():
    found = tt.treat(Reader(nn.RNN), at_the_end(20))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["version"] == 1 and data["best"] == found.best
    assert [row["name"] for row in data["rows"]] == [row.name for row in found.rows]
    assert data["rows"][0]["measured"]["layers"]["rnn.l0"]["lag"] == 19


def test_the_table_fits_in_80_columns():
    for kind in (nn.RNN, nn.LSTM):
        lines = repr(tt.treat(Reader(kind), at_the_end(30))).splitlines()
        code = lines.index(next(line for line in lines if line.startswith("best:")))
        assert max(map(len, lines[:code])) <= 80


def test_the_figure_has_a_line_for_the_model_as_it_is_and_for_each_remedy():
    found = tt.treat(Reader(), at_the_end(20), only=["chrono", "orthogonal"])
    figure = found.figure()
    names = [line.name for line in figure.data]
    assert names == ["no help", "as it is", "chrono (best)"]  # the best is drawn on top
    assert figure.layout.yaxis.type == "log"
    after = found["chrono"].after
    assert_close(torch.tensor(figure.data[2].y), torch.tensor(after.profile), rtol=1e-12)


def test_a_long_figure_is_thinned_and_keeps_its_lags():
    x = torch.randn(700, 1, 4)
    found = tt.treat(nn.LSTM(4, 8), lambda m: m(x)[0][-1].pow(2).mean(), only="chrono", lag=600)
    line = found.figure().data[0]
    profile = found.rows[0].after.profile
    assert len(line.x) < 500 < len(profile) and line.x[-1] == 700
    assert [profile[lag] or None for lag in line.x] == list(line.y)


def test_numbers_are_short():
    assert [table_text.short_number(v) for v in (math.nan, math.inf, -0.5)] == [
        "nan",
        "inf",
        "-0.5",
    ]
