"""Where did it break: what a keeper says and writes, and what it leaves alone."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import throughtime as tt
from throughtime.errors import FileError, InputTypeError, InputValueError, KeepWarning
from throughtime.watch import Keeper
from throughtime.watch.keep import Replay, read_bundle

from ..trainings import B, I, Model, T, batches, mean_square, same_bits, train


def with_nan(data: list[Any], step: int) -> list[Any]:
    data[step - 1][0][5, 2, 1] = torch.nan
    return data


# --- the same training -----------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
def test_a_watched_training_has_the_same_losses_bit_by_bit(tmp_path, every):
    found = []
    for watched in (False, True):
        torch.manual_seed(3)
        found.append(train(Model(), tmp_path, batches(), watched=watched, every=every))
    assert all(map(same_bits, found[0].losses, found[1].losses))
    assert found[1].keeper.broken is None and not list(tmp_path.iterdir())
    draws = torch.rand(3)
    torch.manual_seed(3)
    train(Model(), tmp_path, batches(), watched=False)
    assert torch.equal(draws, torch.rand(3)), "it drew from the training's generator"


# --- what is said ----------------------------------------------------------------------


def test_nan_in_the_data_is_named_by_step_row_and_feature(tmp_path):
    run = train(Model(layers=1), tmp_path, with_nan(batches(), 4))
    broken = run.keeper.broken
    assert (broken.what, broken.step) == ("loss", 4) and len(run.said) == 1
    name, bad = broken.cause.began()
    assert (name, bad.step, bad.row) == ("rnn.l0", 6, 2)
    assert broken.cause.findings[0].code == "input-nonfinite"
    assert "input[5, 2, 1]" in run.said[0] and "throughtime replay" in run.said[0]
    assert "The batch itself holds NaN: batch[0] at [5, 2, 1]." in run.said[0]
    assert broken.cause.operation is None, "nothing made it of finite numbers"
    bundle = read_bundle(run.keeper.bundle)
    x, _ = bundle.nestings["batch"].together()
    assert torch.isnan(x[5, 2, 1]) and bundle.step == 4
    assert bundle.facts["found"]["cause"]["findings"][0]["code"] == "input-nonfinite"


def test_a_loss_that_overflows_is_named_by_its_operation(tmp_path):
    def losses(model: nn.Module, batch: Any) -> Tensor:
        scale = 1e30 if torch.equal(batch[0], batches()[2][0]) else 1.0
        return ((model(batch[0]) - batch[1]) * scale).pow(2).mean()

    run = train(Model(layers=1), tmp_path, batches(), losses=losses)
    broken = run.keeper.broken
    assert (broken.what, broken.step, broken.loss) == ("loss", 3, float("inf"))
    assert broken.loss_node == "MeanBackward0" and "The loss of step 3 is inf" in run.said[0]
    assert broken.operation.name == "pow" and "made inf of finite numbers is pow" in run.said[0]
    cause = Replay(read_bundle(run.keeper.bundle), Model(layers=1), losses).cause()
    assert cause.operation.name == "pow" and "test_keeper.py" in cause.operation.line
    assert cause.findings[0].code == "loss-nonfinite" and not cause.finite


def test_a_layer_whose_state_overflows_is_named(tmp_path):
    model = tt.RNN(1, 1, nonlinearity="identity", bias=False)
    with torch.no_grad():
        model.weight_hh_l0.fill_(2.0)
        model.weight_ih_l0.fill_(1.0)
    data = [(torch.ones(150, 1, 1), torch.zeros(()))]
    run = train(model, tmp_path, data, losses=lambda m, b: m(b[0])[0][-1].sum())
    broken = run.keeper.broken
    assert broken.cause.began()[1][:3] == ("forward", 128, 0)  # 2^128 is beyond float32
    assert broken.cause.findings[0].code == "state-overflow"
    assert "step 128" in run.said[0]


def test_a_gradient_that_overflows_is_named_by_its_parameters(tmp_path):
    model = tt.RNN(1, 1, nonlinearity="identity", bias=False)
    with torch.no_grad():
        model.weight_hh_l0.fill_(2.0)
        model.weight_ih_l0.fill_(1e-30)
    data = [(torch.ones(200, 1, 1), torch.zeros(()))]
    run = train(model, tmp_path, data, losses=lambda m, b: m(b[0])[0][-1].sum())
    broken = run.keeper.broken
    assert broken.what == "gradient" and "weight_ih_l0" in broken.names
    assert torch.isfinite(torch.tensor(broken.loss))
    assert broken.cause.findings[0].code == "gradient-overflow"
    assert broken.cause.began()[1].direction == "backward"


def test_weights_that_an_update_made_infinite_lead_to_the_update(tmp_path):
    def losses(model: nn.Module, batch: Any) -> Tensor:
        return mean_square(model, batch) * 1e6

    run = train(Model(layers=1), tmp_path, batches(), losses=losses, rate=3e38)
    broken = run.keeper.broken
    assert (broken.what, broken.step) == ("weight", 1)
    assert "rnn.weight_ih_l0" in broken.names and "SGD with a rate of 3e+38" in run.said[0]
    bundle = read_bundle(run.keeper.bundle)
    assert all(bool(w.isfinite().all()) for w in bundle.weights.values())
    cause = Replay(bundle, Model(layers=1), mean_square).cause()
    assert cause.finite and max(cause.gradients.values()) > 0


def test_between_two_copies_the_bundle_says_of_which_step_its_weights_are(tmp_path):
    def spoil(step: int, model: nn.Module) -> None:
        if step == 3:
            for p in model.parameters():
                p.grad.fill_(3e38)  # pyright: ignore

    run = train(Model(layers=1), tmp_path, batches(), rate=10.0, every=4, after=spoil)
    assert (run.keeper.broken.what, run.keeper.broken.step) == ("weight", 3)
    bundle = read_bundle(run.keeper.bundle)
    assert bundle.facts["weights_step"] == 1
    assert all(bool(w.isfinite().all()) for w in bundle.weights.values())


def test_a_rate_that_is_too_high_is_told_by_how_the_weights_grew(tmp_path):
    model = nn.Sequential(nn.Linear(I, 1))
    run = train(model, tmp_path, batches(60), rate=1e3)
    broken = run.keeper.broken
    assert broken.what in ("loss", "gradient") and broken.step > 5
    assert "The largest norm of the weights had grown" in run.said[0]
    assert "before the first step" in run.said[0] and "SGD with a rate of 1e+03" in run.said[0]
    assert "Look at the targets" not in run.said[0], "it is the weights, and not the loss"


def test_a_first_update_that_was_far_too_large_is_told_as_one(tmp_path):
    run = train(Model(nn.LSTM, layers=1), tmp_path, batches(), rate=1e25)
    assert run.keeper.broken.step == 2 and "at step 1. The" in run.said[0]
    assert "backward pass" not in run.said[0], "the loss was inf before any"
    assert "SGD with a rate of 1e+25: lower it" in run.said[0]


def test_an_update_without_an_optimizer_is_found_at_the_next_step(tmp_path):
    model, keeper = Model(layers=1), None
    keeper = Keeper(model, tmp_path)
    for step, batch in enumerate(batches(3), 1):
        keeper.before(step)
        if step == 3:
            break
        loss = mean_square(model, batch)
        keeper.after(loss, batch)
        loss.backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= p.grad * (torch.inf if step == 2 else 0.1)
                p.grad = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            keeper.before(step + 1)
        if keeper.broken:
            break
    assert (keeper.broken.what, keeper.broken.step) == ("weight", 2)
    weights = read_bundle(keeper.bundle).weights
    assert all(bool(w.isfinite().all()) for w in weights.values())


def test_the_step_is_noticed_without_a_word_from_the_loop(tmp_path):
    torch.manual_seed(0)
    model = Model(layers=1)
    optimizer = torch.optim.Adam(model.parameters())
    keeper = Keeper(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for x, y in with_nan(batches(), 5):
            optimizer.zero_grad()
            (model(x) - y).pow(2).mean().backward()
            optimizer.step()
            with torch.no_grad():  # a look at other data is no step
                model(torch.full_like(x, torch.nan))
    assert (keeper.broken.what, keeper.broken.step) == ("gradient", 5)
    assert keeper.broken.cause.began()[1].direction == "input" or keeper.broken.cause.first
    assert "input[5, 2, 1]" in str(keeper.broken)


def test_a_step_that_the_loop_leaves_out_is_found_all_the_same(tmp_path):
    def losses(model: nn.Module, batch: Any) -> Tensor:
        return mean_square(model, batch)

    model = Model(layers=1)
    keeper = Keeper(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.warns(KeepWarning, match="step 2"):
        for step, batch in enumerate(with_nan(batches(), 2), 1):
            keeper.before(step)
            loss = losses(model, batch)
            keeper.after(loss)
            if not bool(loss.isfinite()):
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert keeper.closed and all(bool(p.isfinite().all()) for p in model.parameters())


class Doubling(nn.Module):
    """Its gradient overflows where its state, and so its loss, does not."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = tt.RNN(1, 1, nonlinearity="identity", bias=False)
        with torch.no_grad():
            self.rnn.weight_hh_l0.fill_(2.0)
            self.rnn.weight_ih_l0.fill_(1e-30)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0][-1].sum()


def test_of_gradients_that_are_added_up_the_first_bad_one_is_named(tmp_path):
    model = Doubling()
    keeper = Keeper(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    with pytest.warns(KeepWarning, match="gradient of step 5"):
        for step in range(1, 7):
            keeper.before(step)
            loss = model(torch.full((200 if step == 5 else 20, 1, 1), float(step)))
            keeper.after(loss)
            loss.backward()
            if step % 3 == 0:
                optimizer.step()
                optimizer.zero_grad()
    assert keeper.broken is not None and keeper.broken.cause is not None
    assert keeper.broken.cause.findings[0].code == "gradient-overflow"
    args = read_bundle(keeper.bundle).nestings["call"].together()["args"]
    assert args[0].shape[0] == 200 and args[0][0, 0, 0] == 5


@pytest.mark.parametrize("forever", [False, True])
def test_a_step_that_a_loss_scaler_leaves_out_is_no_break_unless_it_is_so_for_ever(
    tmp_path, forever
):
    model = Doubling()
    keeper = Keeper(model, tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(60):
            keeper.before(step)
            optimizer.zero_grad()
            loss = model(torch.ones(200 if forever or step in (2, 3) else 20, 1, 1))
            keeper.after(loss)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        keeper.close()
    if not forever:
        assert keeper.broken is None and not said
    else:
        assert keeper.broken is not None and keeper.broken.step == 0


# --- what must not happen --------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_told_once_and_stops_nothing(tmp_path):
    def in_its_way(step: int, model: nn.Module) -> None:
        (tmp_path / "file").write_text("no folder")

    data = with_nan(batches(), 2)
    run = train(Model(layers=1), tmp_path / "file" / "in", data, after=in_its_way)
    assert len(run.said) == 1 and "No bundle was written" in run.said[0]
    assert "input[5, 2, 1]" in run.said[0] and len(run.losses) == 6


def test_what_can_be_no_folder_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FileError, match=r"file/in can be no folder: .*file is a file\.$"):
        Keeper(Model(layers=1), tmp_path / "file" / "in")


def test_a_failure_of_its_own_is_told_once_and_stops_nothing(tmp_path, monkeypatch):
    from throughtime.watch.keep import sizes

    monkeypatch.setattr(sizes, "norms", lambda tensors: 1 / 0)
    run = train(Model(layers=1), tmp_path, batches())
    assert len(run.said) == 1 and "ZeroDivisionError" in run.said[0]
    assert run.keeper.closed and len(run.losses) == 6


def test_a_number_whose_square_overflows_breaks_nothing(tmp_path):
    model = nn.Linear(I, 1)

    def spoil(step: int, given: nn.Module) -> None:
        for p in given.parameters():
            p.grad.fill_(1e30)  # pyright: ignore

    run = train(model, tmp_path, batches(2), rate=1e-30, after=spoil)
    assert run.keeper.broken is None and not run.said


def test_a_copy_of_the_model_and_a_keeper_that_is_gone_are_left_alone(tmp_path):
    import copy
    import gc
    import weakref

    model = Model(layers=1)
    keeper = Keeper(model, tmp_path)
    copied = copy.deepcopy(model)
    copied(torch.full((T, B, I), torch.nan)).sum()
    assert keeper._moment is None
    gone = weakref.ref(keeper)
    del keeper
    gc.collect()
    assert gone() is None and not model._forward_pre_hooks and not model._forward_hooks


def test_no_graph_of_a_step_is_held(tmp_path):
    import weakref

    model = Model(layers=1)
    keeper = Keeper(model, tmp_path)
    x, y = batches(1)[0]
    keeper.before(1)
    output = model(x)
    loss = (output - y).pow(2).mean()
    keeper.after(loss, (x, y))
    gone = [weakref.ref(output), weakref.ref(loss)]
    loss.backward()
    del output, loss
    assert all(one() is None for one in gone)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": 3}, InputTypeError, "nn.Module"),
        ({"folder": 3}, InputTypeError, "path"),
        ({"every": 0}, InputValueError, "at least 1"),
        ({"every": True}, InputValueError, "at least 1"),
    ],
)
def test_bad_arguments_are_one_sentence(tmp_path, arguments, error, words):
    given: dict[str, Any] = {"model": nn.Linear(1, 1), "folder": tmp_path, **arguments}
    with pytest.raises(error, match=words):
        Keeper(given.pop("model"), given.pop("folder"), **given)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("every", [1, 4])
def test_on_a_gpu_it_is_found_after_the_update_and_taken_again(tmp_path, every):
    model = Model(layers=1).cuda()
    data = [(x.cuda(), y.cuda()) for x, y in with_nan(batches(), 5)]
    run = train(model, tmp_path, data, every=every)
    broken = run.keeper.broken
    assert (broken.what, broken.step) == ("loss", 5)
    assert broken.cause.findings[0].code == "input-nonfinite"
    weights = read_bundle(run.keeper.bundle).weights
    assert all(bool(w.isfinite().all()) for w in weights.values())
