"""The tasks: lags as stated, floors that the best memoryless answer reaches, nothing given away."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import nn

from throughtime.errors import InputTypeError, InputValueError
from throughtime.tasks import Adding, Copying, Mention, TemporalOrder
from throughtime.tasks.mention import FILLER, LONG, NAMES, SHORT, filler


def test_adding_floor_is_that_of_always_answering_one():
    y = Adding(T=20).batch(20_000).y
    assert abs((y - 1).pow(2).mean().item() - 1 / 6) < 0.005
    assert abs(y.mean().item() - 1) < 0.01


def test_adding_target_is_the_sum_of_one_marked_number_in_each_half():
    x, y, lag = Adding(T=30).batch(50)
    marks = x[..., 1]
    assert marks[:15].sum(0).eq(1).all() and marks[15:].sum(0).eq(1).all()
    torch.testing.assert_close((x[..., 0] * marks).sum(0), y[:, 0])
    assert lag == 29 - int(marks.nonzero()[:, 0].min())


def test_temporal_order_classes_are_balanced_and_their_floor_is_ln_4():
    y = TemporalOrder(T=50).batch(8000).y
    shares = y.bincount(minlength=4) / len(y)
    assert (shares - 0.25).abs().max() < 0.03
    assert math.isclose(nn.functional.cross_entropy(torch.zeros(len(y), 4), y).item(), math.log(4),
                        rel_tol=1e-6)  # fmt: skip
    assert TemporalOrder.floor == math.log(4)


def test_temporal_order_class_is_told_by_the_two_symbols_in_order():
    x, y, lag = TemporalOrder(T=50).batch(200)
    for row in range(200):
        at = [t for t in range(50) if x[t, row] in (4, 5)]
        assert len(at) == 2
        assert 2 * (x[at[0], row] == 5) + (x[at[1], row] == 5) == y[row]
        assert 49 - at[0] <= lag


def test_copying_asks_for_every_symbol_its_lag_after_it_was_shown():
    task = Copying(T=30)
    x, y, lag = task.batch(7)
    assert torch.equal(y[lag : lag + 10], x[:10])
    assert y[:-10].eq(8).all() and (x == 9).sum(0).eq(1).all()
    assert task.floor == 10 * math.log(8) / 50


def test_mention_has_the_sources_two_sentences():
    assert str(SHORT) == "Jane walked into the room. John walked in too. Jane said hi to ___"
    assert str(LONG) == (
        "Jane walked into the room. John walked in too. It was late in the day, and everyone was "
        "walking home after a long day at work. Jane said hi to ___"
    )
    assert (SHORT.lag, LONG.lag) == (8, 27)
    Mention(names=3).encode([SHORT])  # every word is known
    Mention(names=3).encode([LONG])


@pytest.mark.parametrize("lag", [8, 12, 14, 16, 27, 55, 100])
def test_mention_lies_exactly_its_lag_before_the_last_word(lag):
    task = Mention(names=5)
    rng = random.Random(0)
    for _ in range(20):
        text = task.text(lag, rng)
        assert text.words[task.mention_step - 1] == text.answer
        assert len(text.words) - task.mention_step == lag == text.lag
        assert text.words[-4] == text.words[0] != text.answer
        assert text.words.count(text.answer) == 1  # no second mention that is nearer


def test_mention_answer_cannot_be_read_off_anything_but_the_mention():
    task = Mention(names=4)
    x, y, _ = task.batch(4000, 16, random.Random(0))
    without = torch.cat((x[:6], x[7:]))
    for step in range(len(without)):
        for word in without[step].unique():
            answers = y[without[step] == word].bincount(minlength=4)
            if answers.sum() > 300:
                # The one who speaks is excluded; the other three are equally likely.
                assert answers.max() / answers.sum() < task.chance + 0.08
    assert task.floor == math.log(3)


def test_mention_draws_every_octave_equally_often():
    task, rng = Mention(shortest=8, longest=64), random.Random(0)
    lags = [task.draw_lag(rng) for _ in range(3000)]
    assert set(lags) <= set(task.lags)
    for low in (8, 16, 32):
        share = sum(low <= lag < 2 * low for lag in lags) / len(lags)
        assert abs(share - 1 / 3) < 0.06, low


def test_filler_has_no_names_and_every_length_that_its_sentences_add_up_to():
    assert not {word for sentence in FILLER for word in sentence} & set(NAMES)
    for words in (0, 4, 5, 6, 8, *range(9, 60)):
        assert len(filler(words, random.Random(words))) == words
    for words in (1, 2, 3, 7, -1):
        with pytest.raises(InputValueError, match="no text has a lag"):
            filler(words, random.Random(0))


def test_same_seed_same_texts():
    task = Mention()
    first, second = (task.batch(5, 30, random.Random(3)).x for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, task.batch(5, 30, random.Random(4)).x)


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: Adding(T=1), InputValueError),
        (lambda: Adding(T=2.0), InputTypeError),
        (lambda: TemporalOrder(T=9), InputValueError),
        (lambda: Copying(T=0), InputValueError),
        (lambda: Mention(names=2), InputValueError),
        (lambda: Mention(names=17), InputValueError),
        (lambda: Mention(shortest=7), InputValueError),
        (lambda: Mention(shortest=9, longest=11), InputValueError),
    ],
)
def test_impossible_tasks_are_refused(build, error):
    with pytest.raises(error):
        build()
