"""A fuzz of random graphs: layers, links that mix time, repeated runs, hooks, masks, windows."""

from __future__ import annotations

import pytest

from throughtime import kernels
from throughtime.cells import Elman
from throughtime.flow.cascade import Cascade

from .checked_graphs import Checked, Mismatch, check

SEEDS = 120


@pytest.mark.parametrize("part", range(4))
def test_the_flow_of_random_graphs_is_that_of_loops_by_hand(part):
    checked = Checked()
    for seed in range(part, SEEDS, 4):
        check(seed, checked)
    assert checked.checks > 1000


def test_plain_torch_gives_the_same():
    checked = Checked()
    with kernels.use("reference"):
        for seed in range(SEEDS, SEEDS + 20):
            check(seed, checked)
    assert checked.checks > 500


def noticed(seeds: range) -> int:
    """Return the first seed at which the fuzz fails."""
    for seed in seeds:
        try:
            check(seed, Checked())
        except Mismatch:
            return seed
    raise AssertionError("the fuzz passes a mutant")


def test_a_window_that_cuts_everywhere_is_noticed(monkeypatch):
    monkeypatch.setattr(Cascade, "_cuttable", lambda self: [True] * len(self.links))
    noticed(range(SEEDS))


def test_links_that_are_all_taken_to_be_step_by_step_are_noticed(monkeypatch):
    links = Cascade._cuttable.__globals__["links"]

    def aligned(recording):
        return [[link._replace(aligned=True) for link in own] for own in links(recording)]

    monkeypatch.setitem(Cascade._cuttable.__globals__, "links", aligned)
    noticed(range(SEEDS))


def test_a_wrong_vjp_is_noticed(monkeypatch):
    whole = Elman.vjp
    monkeypatch.setattr(
        Elman, "vjp", lambda self, saved, delta: (whole(self, saved, delta)[0].flip(-1), delta)
    )
    with kernels.use("reference"):
        noticed(range(SEEDS))
