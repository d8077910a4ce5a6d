"""What a trained character model is told to try next: a setting that exists, for a reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import throughtime as tt
from throughtime.errors import InputValueError
from throughtime.tasks import CharText
from throughtime.train import Language, Settings, advise

TEXT = "the cat sat on the mat and the dog sat on the log. " * 60
SMALL = Settings(hidden=12, width=8, window=40, rows=4)


def language(settings: Settings, text: str = TEXT) -> Language:
    return Language(CharText(text, window=settings.window, rows=settings.rows), settings)


def advice(settings: Settings, text: str = TEXT):
    training = language(settings, text)
    return advise(training, training.flow()[0])


@pytest.mark.parametrize(
    ("settings", "change"),
    [
        (replace(SMALL, cell="rnn"), {"cell": "lstm"}),
        (SMALL, {"longest": 40}),
        (replace(SMALL, cell="gru"), {"longest": 40}),
        (replace(SMALL, window=4), {"window": 8}),  # no network is too short for that
    ],
)
def test_each_case_has_its_setting(settings: Settings, change: dict[str, object]):
    given = advice(settings)
    assert given.change == change
    assert 0 < given.reach <= settings.window == given.window
    assert (given.reach >= settings.window - 1) == ("window" in change)
    changed = advice(replace(settings, **change))
    assert changed.change != change


def test_chrono_biases_reach_further_and_are_not_advised_twice():
    plain, chrono = advice(SMALL), advice(replace(SMALL, longest=40))
    assert chrono.reach > 2 * plain.reach
    assert "longest" not in chrono.change


@pytest.mark.parametrize(
    ("losses", "word"),
    [([], ""), ([3.0], ""), ([3.0, 2.0], "still falls"), ([2, 3.0], "no longer")],
)
def test_it_is_told_whether_it_still_learns(losses: list[float], word: str):
    training = language(SMALL)
    training.history = [[i, 1.0, loss] for i, loss in enumerate(losses)]
    why = advise(training, training.flow()[0]).why
    assert word in why and ("validation loss" in why) == bool(word)


def test_a_text_too_short_for_a_longer_segment_is_not_told_to_use_one():
    given = advice(replace(SMALL, window=4), TEXT[:40])
    assert given.change == {} and "too short" in given.why


def test_what_is_wrong_comes_before_how_far_it_reaches():
    training = language(replace(SMALL, cell="rnn"))
    flow, _ = training.flow()
    broken = [finding("explodes"), finding("saturated")]
    for clip, change in ((1.0, {"rate": 1e-3}), (0.0, {"clip": 1.0})):
        training.settings = replace(SMALL, clip=clip)
        assert advise_with(training, flow, broken).change == change
    assert advise_with(training, flow, broken[1:]).why == "do that"


def test_inf_in_the_weights_is_no_reach():
    training = language(SMALL)
    with torch.no_grad():
        training.model.layer.weight_hh_l0[0, 0] = float("nan")
    given = advise(training, training.flow()[0])
    assert given.reach is None and "inf or NaN" in given.reached
    assert given.to_dict()["findings"]


@pytest.mark.parametrize("change", [{"longest": 2}, {"longest": -1}, {"longest": 9, "cell": "rnn"}])
def test_lags_that_no_bias_can_have_are_refused(change: dict[str, object]):
    with pytest.raises(InputValueError, match="longest must be"):
        replace(SMALL, **change)


def finding(code: str) -> tt.Finding:
    return tt.Finding(code, "warning", "layer.l0", "wrong", (), "do that")


def advise_with(training: Language, flow: tt.Flow, found: list[tt.Finding]):
    from unittest.mock import patch

    with patch("throughtime.train.advice.examine", return_value=found):
        return advise(training, flow)
