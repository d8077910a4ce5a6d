"""Steps that are seen before they are recorded: what can be, and what a recording is good for."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from tests.oracles.captured import Captures
from torch import nn

from throughtime.replays import Steps, graphs, steps


@pytest.fixture
def captures(monkeypatch):
    recorder = Captures()
    monkeypatch.setattr(graphs, "RECORDER", [recorder])
    monkeypatch.setattr(steps, "WORTH_RECORDING", 2)
    return recorder


class Cell(nn.Module):
    """A step in some number of ways."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gain, self.t = nn.Linear(3, 3), 0.5, 0
        self.table = torch.randn(99, 3)
        self.calls = 0

    def plain(self, s):
        return (self.gain * torch.tanh(self.inner(s)),)

    def looks(self, s):
        return (s + 1,) if float(s.sum()) > 0 else (s - 1,)

    def draws(self, s):
        return (torch.nn.functional.dropout(s, 0.5),)

    def writes(self, s):
        self.table.add_(1)
        return (s + self.table[0],)

    def from_python(self, s):
        return (s + torch.tensor([1.0, 2.0, 3.0]),)

    def counts(self, s):
        self.t += 1
        return (s + 1 if self.t < 5 else s - 1,)

    def by_number(self, s):
        Cell.number = getattr(Cell, "number", 0) + 1  # not of its own, so not seen to change
        return (s + self.table[Cell.number],)


def taken(cell, name, n=9):
    """Take n steps; return the last state and the Steps."""
    run = Steps(cell, name, getattr(cell, name))
    s = torch.linspace(-1, 1, 6).view(2, 3)
    with torch.no_grad():
        for _ in range(n):
            s = run(s)[0].clone()
    return s, run


def test_steps_are_replayed_once_two_were_alike_and_enough_were_taken(captures):
    cell = Cell()
    s, run = taken(cell, "plain")
    assert (run.replays, captures.recorded, run.reason) == (6, 1, "")  # two seen, one to wait
    again, run = taken(cell, "plain")
    assert (run.replays, captures.recorded) == (7, 1) and torch.equal(s, again)


def test_a_few_steps_of_a_sweep_are_not_recorded_until_there_were_enough(captures, monkeypatch):
    monkeypatch.setattr(steps, "WORTH_RECORDING", 10)
    cell = Cell()
    counts = [taken(cell, "plain", 6)[1].replays for _ in range(4)]
    assert counts == [0, 0, 3, 4]


WHY = {
    "looks": "looks at the values", "draws": "draws random numbers",
    "writes": "writes into a tensor", "from_python": "tensor of Python's numbers",
    "counts": "changes an attribute", "by_number": "does not do what the next does",
}  # fmt: skip


@pytest.mark.parametrize("name", WHY)
def test_a_step_that_cannot_be_recorded_is_taken_as_ever_and_says_why(name, captures):
    torch.manual_seed(0)
    cell, other = Cell(), Cell()
    other.load_state_dict(cell.state_dict())
    other.table = cell.table.clone()
    torch.manual_seed(1)
    s, run = taken(cell, name)
    assert WHY[name] in run.reason and (run.replays, captures.recorded) == (0, 0)
    torch.manual_seed(1)
    Cell.number = 0
    want = torch.linspace(-1, 1, 6).view(2, 3)
    for _ in range(9):
        (want,) = getattr(other, name)(want)
    assert torch.equal(s, want)
    Cell.number = 0


@pytest.mark.parametrize("closed_over", [False, True])
def test_a_module_whose_hook_looks_on_is_called_at_every_step(closed_over, captures):
    cell, calls = Cell(), []
    module = nn.Linear(3, 3) if closed_over else cell.inner
    module.register_forward_hook(lambda *_: calls.append(1))
    cell.step = lambda s: (module(s),)
    _, run = taken(cell, "step")
    assert "a hook looks at its Linear" in run.reason and len(calls) == 9


def test_a_change_of_the_cell_is_another_recording(captures):
    cell = Cell()
    for change in (
        lambda: setattr(cell, "gain", 0.25),
        lambda: setattr(cell, "inner", nn.Linear(3, 3)),
        lambda: cell.inner.weight.detach().mul_(2),  # the same memory: the same recording
        lambda: cell.eval(),
    ):
        got = taken(cell, "plain")[0]
        want = torch.linspace(-1, 1, 6).view(2, 3)
        for _ in range(9):
            (want,) = cell.plain(want)
        assert torch.allclose(got, want)
        change()
    assert captures.recorded == 3


def test_only_the_last_few_recordings_are_kept_and_they_go_with_the_cell(captures):
    cell = Cell()
    for gain in range(8):
        cell.gain = float(gain)
        assert taken(cell, "plain")[1].replays > 0
    assert len(steps._KNOWN[cell]["plain"]._known) == steps.MOST
    known, gone = len(steps._KNOWN), weakref.ref(cell)
    del cell
    gc.collect()
    assert gone() is None and len(steps._KNOWN) < known


def test_a_cell_with_recordings_is_copied_and_pickled_without_them(captures):
    cell = Cell()
    s, _ = taken(cell, "plain")
    for other in (copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        assert other not in steps._KNOWN
        assert torch.equal(taken(other, "plain")[0], s)


def test_under_autocast_a_step_is_taken_as_ever(captures):
    """What it casts a weight to is kept until it ends, and no recording may read that."""
    cell = Cell()
    taken(cell, "plain")
    replayed = captures.replayed
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert taken(cell, "plain")[0].dtype == torch.bfloat16
    assert captures.replayed == replayed
    assert taken(cell, "plain")[1].replays > 0


def test_another_shape_in_between_is_taken_as_ever(captures):
    cell = Cell()
    run = Steps(cell, "plain", cell.plain)
    with torch.no_grad():
        for rows in (2, 2, 2, 2, 5, 2):
            s = torch.randn(rows, 3)
            assert torch.allclose(run(s)[0], cell.plain(s)[0])
    assert run.replays == 2
