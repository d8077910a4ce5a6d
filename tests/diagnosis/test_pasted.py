"""The lines that `tt.examine` prints: they run on the model and take the cause away."""

from __future__ import annotations

import pytest
import torch

import throughtime as tt

from . import clinic_strange as strange

CASES = {
    "far behind a projection": strange.far_behind_a_projection,
    "hardly any recurrence": strange.hardly_any_recurrence,
    "chaos": strange.chaos,
    "ReLU doubles backwards": strange.relu_both_ways_doubles,
    "recurrence grown": strange.recurrence_grown_by_training,
    "dead backwards": strange.dead_backwards,
    "pinned by a bias": strange.pinned_by_bias,
    "closed output": strange.closed_output,
    "never updated": strange.never_updated,
}


@pytest.mark.parametrize("run", CASES.values(), ids=CASES)
def test_the_printed_lines_run_and_the_finding_is_gone(run, monkeypatch):
    kept = {}

    def traced(model, losses):
        kept.update(model=model, losses=losses)
        with tt.trace(model) as trace:
            found = losses()
        return trace.flow(found)

    monkeypatch.setattr(strange, "traced", traced)
    found = tt.examine(run())
    said = repr(found).split("What to change: ")[1].splitlines()
    lines = [one[8:] for one in said if one.startswith(" " * 8)]
    assert lines
    exec("\n".join(lines), {"tt": tt, "torch": torch, "model": kept["model"]})
    after = tt.examine(traced(kept["model"], kept["losses"]))
    assert found[0].code not in [one.code for one in after]


def test_only_what_follows_from_nothing_has_a_line():
    found = tt.examine(strange.pixels_row_by_row())
    assert [one.code for one in found] == ["input-scale", "vanishes"]
    assert list(found.lines) == [found[0]]
    assert "std.clamp" in repr(found) and "<pre>" in found._repr_html_()
