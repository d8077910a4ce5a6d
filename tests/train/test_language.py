"""The character model: it learns, resumes exactly, and never half-loads a checkpoint."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from throughtime.errors import CheckpointError, FileError, InputValueError, NonFiniteError
from throughtime.tasks import CharText
from throughtime.train import Language, Settings
from throughtime.train.checkpoint import load, save
from throughtime.train.language import CONTENT

TEXT = "the cat sat on the mat and the dog sat on the log. " * 60
SMALL = Settings(hidden=16, width=8, window=20, rows=4)


def language(settings: Settings = SMALL, text: str = TEXT) -> Language:
    return Language(CharText(text, window=settings.window, rows=settings.rows), settings)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_it_learns_a_text_that_repeats(cell):
    training = language(replace(SMALL, cell=cell, hidden=32, rate=1e-2))
    before = training.validate()
    for _ in range(120):
        training.step()
    assert training.validate() < 0.6 < before
    assert abs(before - math.log(len(training.text.vocabulary))) < 0.5


def test_the_state_is_carried_between_segments_and_detached():
    training = language()
    training.step()
    h, c = training._state
    assert h.abs().max() > 0 and not h.requires_grad and not c.requires_grad
    x, _ = training.text.segment(1)
    carried, _ = training.model(x, (h, c))
    fresh, _ = training.model(x)
    assert not torch.allclose(carried[0], fresh[0])
    for _ in range(len(training.text) - 1):
        training.step()
    reset = training.step()  # the first of the next way through begins from 0
    assert math.isfinite(reset)


def test_a_resumed_training_goes_on_as_if_it_had_never_stopped(tmp_path: Path):
    whole, first = language(), language()
    losses = [whole.step() for _ in range(12)]
    for _ in range(6):
        first.step()
    save(first.content(), tmp_path / "a.pt")
    second = language()
    second.restore(load(tmp_path / "a.pt", CONTENT), "a.pt")
    assert [second.step() for _ in range(6)] == losses[6:]
    assert second.sample(30) == whole.sample(30)


def test_a_truncated_checkpoint_is_refused_at_every_length(tmp_path: Path):
    training = language()
    training.step()
    whole = save(training.content(), tmp_path / "a.pt").read_bytes()
    for share in (0.0, 0.01, 0.5, 0.9, 0.999):
        (tmp_path / "cut.pt").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(CheckpointError, match="truncated, damaged"):
            load(tmp_path / "cut.pt", CONTENT)
    with pytest.raises(FileError, match="there is no checkpoint"):
        load(tmp_path / "none.pt", CONTENT)


def test_one_flipped_bit_in_a_weight_is_seen(tmp_path: Path):
    training = language()
    whole = save(training.content(), tmp_path / "a.pt").read_bytes()
    weight = training.model.layer.weight_hh_l0.detach().numpy().tobytes()
    damaged = bytearray(whole)
    damaged[whole.index(weight) + 1000] ^= 1
    (tmp_path / "a.pt").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="truncated, damaged"):
        load(tmp_path / "a.pt", CONTENT)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": "throughtime character model 1", "model": Evil()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError):
        load(tmp_path / "a.pt", CONTENT)
    assert not (tmp_path / "ran").exists()


def test_another_kind_of_file_is_refused(tmp_path: Path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint of"):
        load(tmp_path / "a.pt", CONTENT)


def broken_weight(content):
    content["model"]["readout.bias"] = torch.zeros(3)


def missing_weight(content):
    del content["model"]["readout.bias"]


def extra_weight(content):
    content["model"]["more"] = torch.zeros(3)


def infinite_weight(content):
    content["model"]["readout.bias"] = content["model"]["readout.bias"] / 0


def other_settings(content):
    content["settings"]["hidden"] = 17


def other_text(content):
    content["text"] = "0"


def broken_optimizer(content):
    content["optimizer"] = {"param_groups": []}


def broken_state(content):
    content["state"] = [torch.zeros(1, 4, 17)] * 2


@pytest.mark.parametrize(
    "damage",
    [broken_weight, missing_weight, extra_weight, infinite_weight, other_settings, other_text,
     broken_optimizer, broken_state],
)  # fmt: skip
def test_nothing_of_a_checkpoint_of_another_model_is_loaded(damage, tmp_path: Path):
    trained = language()
    for _ in range(3):
        trained.step()
    save(trained.content(), tmp_path / "a.pt")
    content = load(tmp_path / "a.pt", CONTENT)
    damage(content)
    fresh = language()
    before = {name: value.clone() for name, value in fresh.model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"Nothing was\s+loaded"):
        fresh.restore(content, "a.pt")
    assert all(torch.equal(before[k], v) for k, v in fresh.model.state_dict().items())
    assert fresh.updates == 0 and fresh._state is None
    assert not fresh.optimizer.state_dict()["state"]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch):
    training = language()
    save(training.content(), tmp_path / "a.pt")
    before = (tmp_path / "a.pt").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("throughtime.files.os.replace", full)
    with pytest.raises(FileError, match="No space left"):
        save({**training.content(), "updates": 9}, tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_a_gradient_that_breaks_stops_and_says_where_and_the_weights_stay():
    training = language(replace(SMALL, cell="rnn"))
    with torch.no_grad():
        training.model.layer.weight_hh_l0[3, 3] = float("nan")
    with pytest.raises(NonFiniteError, match=r"update 1: the loss is nan; it began .* layer.l0 at"):
        training.step()
    assert training.updates == 0


def test_run_does_not_look_at_a_broken_model():
    training, looked = language(replace(SMALL, clip=0.0)), []

    def poison(done: int, loss: float) -> None:
        if done == 4:
            training.model.readout.bias.data[0] = float("inf")

    with pytest.raises(NonFiniteError):
        training.run(10, 2, poison, looked.append)
    assert [row[0] for row in looked] == [2]


@pytest.mark.parametrize(
    "change",
    [{"cell": "lstmm"}, {"hidden": 0}, {"window": 0}, {"rate": 0.0}, {"rate": math.nan},
     {"rate": 1e38}, {"clip": -1.0}, {"clip": math.inf}],
)  # fmt: skip
def test_settings_that_cannot_be_served_are_refused(change):
    with pytest.raises(InputValueError):
        replace(SMALL, **change)


def test_the_flow_is_that_of_the_loss_by_step():
    training = language()
    training.step()
    flow, characters = training.flow(rows=2)
    layer = flow["layer.l0"]
    assert layer.T == len(characters) == 20 and layer.B == 2 and len(layer.loss_index) == 20
    x, y = next(training.text.segments(held_out=True))
    logits, _ = training.model(x[:, :2])
    training.model.zero_grad()
    torch.nn.functional.cross_entropy(logits.transpose(1, 2), y[:, :2], reduction="none").mean(
        1
    ).sum().backward()
    torch.testing.assert_close(
        layer.weight_grad("weight_hh"), training.model.layer.weight_hh_l0.grad, rtol=1e-4, atol=0
    )


def test_war_and_peace_is_learned_a_little(shared_data: Path):
    text = (shared_data / "war_and_peace.txt").read_text(encoding="utf-8-sig")[:200_000]
    training = language(Settings(hidden=32, window=32, rows=16), text)
    before = training.validate()
    for _ in range(60):
        training.step()
    assert training.validate() < before - 0.8


def test_a_model_whose_logits_overflow_says_so_instead_of_a_sample():
    training = language()
    with torch.no_grad():
        for weight in training.model.parameters():
            weight.fill_(3e38)
    with pytest.raises(NonFiniteError, match="not finite at character 0"):
        training.sample(5)
    assert training.model.training
