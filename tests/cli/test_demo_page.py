"""The demo's page and sentences say what was measured, whichever way it came out."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from report.browser import open_pages
from throughtime.demo import Plan, Study, overflow_words, study, words
from throughtime.demo.experiment import Curriculum
from throughtime.demo.overflow import Overflow
from throughtime.demo.page import demo_html
from throughtime.demo.recall import Budget, Recalled, Score
from throughtime.demo.word_reach import ByLag
from throughtime.flow import NonFinite


def row(name: str, near: int, far: int, *, learned: bool = False, reach: float = 1e-6) -> Recalled:
    """Give a network with so many of 400 right at 8 and at 27 words."""
    scores = [Score(8, near, 400), Score(27, far, 400), Score(40, far, 400)]
    before = {8: reach, 27: reach, 40: reach}
    return Recalled(name, 100, learned, scores=scores, source=(near / 400, far / 400),
                    before=before, after=dict(before))  # fmt: skip


def found(mixed: list[Recalled], far: list[Recalled] | None = None) -> Study:
    return Study(Plan(lags=(8, 27, 40)), mixed, far or [])


def test_the_claim_is_confirmed_only_where_the_intervals_lie_apart():
    said = words.claim(found([row("A", 390, 100), row("B", 200, 190), row("C", 58, 55)]))
    assert "what we see for the A (98 % at 8 words, 25 % at 27)." in said
    assert "No difference between the two distances was found for the B" in said
    assert "The C is no better than a guess" in said
    assert "not a law" not in said


def test_the_claim_is_contradicted_where_the_numbers_do():
    said = words.claim(found([row("A", 398, 399), row("B", 100, 390)]))
    assert said.startswith("In no network of this run")
    assert "the A is right over both distances" in said
    assert "Against the claim, the far answer is right more often for the B" in said


def test_reach_told_who_learned_apart_or_did_not():
    learned, not_learned = row("A", 400, 400, learned=True, reach=0.2), row("B", 57, 57, reach=1e-9)
    assert "told the two apart: 40 words back 20 % or more" in words.far_reach(
        found([], [learned, not_learned])
    )
    surprising = row("C", 57, 57, reach=0.5)
    assert "did not tell the two apart" in words.far_reach(found([], [learned, surprising]))
    assert words.far_reach(found([], [learned])) == ""


def test_far_only_names_who_learned_and_who_could_before():
    mixed = [row("A", 400, 400, learned=True), row("B", 400, 400, learned=True)]
    far = [row("A", 400, 400, learned=True), row("B", 57, 57)]
    said = words.far_only(found(mixed, far))
    assert "learned by the A after 100 updates" in said
    assert "the B is still no better than a guess" in said and "Yet the B learned it above" in said
    assert "no network learned" in words.far_only(found(mixed, [row("B", 57, 57)]))


@pytest.mark.parametrize(
    ("gain", "truth", "word"),
    [(0.5, 1e-9, "proves that the gradient vanishes"), (1.2, 1e-9, "above 1 it proves nothing"),
     (1.2, 1e3, "both grow")],
)  # fmt: skip
def test_a_bound_is_read_for_what_it_proves(gain, truth, word):
    one = row("A", 1, 1)
    one.bounds = ByLag([1.0, truth], [1.0, 2.0], [1.0, gain], gain)
    assert word in words.bound_sentences(one)
    one.bounds = ByLag([1.0, truth], [1.0, 2.0], None, None)
    assert "has no β_W·β_f" in words.bound_sentences(one)


def overflowed(gain: float, clip: float | None, **change) -> Overflow:
    base = Overflow(gain, clip, 2.0, 5.0, 5.0, None, None, [1.0] * 11, updates=30, last_loss=2.0,
                    largest=0.4, saturated=0.0)  # fmt: skip
    return replace(base, **change)


def test_the_first_bad_step_and_what_follows_it():
    broken = {"first": NonFinite("backward", 7, 1, 2, "inf"), "first_nan": 6, "stopped": "x"}
    rows = [overflowed(1, None), overflowed(9, None, **broken), overflowed(9, 1.0, **broken)]
    said = overflow_words.first_bad_step(rows)
    assert "in the backward pass, at step 7 of 10, batch row 1, unit 2: inf" in said
    assert "1 step further back, at step 6: overflow yields inf first" in said
    assert "At β_W = 9 clipping does not help" in overflow_words.clipping_text(rows)
    assert overflow_words.first_bad_step(rows[:1]).startswith("In this run no gain")
    assert overflow_words.clipping_text(rows[:1]).startswith("Clipping changed nothing")


def test_clipping_that_saves_a_run_is_said_to():
    rows = [overflowed(5, None, stopped="x", updates=3), overflowed(5, 1.0)]
    assert "without clipping ends, the one with it goes on" in overflow_words.clipping_text(rows)
    thrown = [overflowed(5, None, largest=1e9, saturated=1.0), overflowed(5, 1.0)]
    assert "(the largest to 10⁹ at 5); then 100 % of the states" in overflow_words.clipping_text(
        thrown
    )
    lost = [overflowed(5, None, norm=1e23, float32_norm=float("inf")), overflowed(5, 1.0)]
    assert "multiplies by 0" in overflow_words.clipping_text(lost)


@pytest.fixture(scope="module")
def page() -> str:
    """Give the page of a study that is as small as one can be."""
    plan = replace(
        Plan.quick(),
        mixed=Curriculum("near and far", 8, 27, 3),
        far=Curriculum("far", 18, 27, 2),
        lags=(8, 27),
        budget=Budget(rows=4, hidden=8, width=6, tested=20),
    )
    return demo_html(study(plan))


def test_the_page_is_complete_and_its_links_lead_somewhere(page):
    bare = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    targets = re.findall(r'href="#([^"]+)"', bare)
    assert "eq9" in targets
    for target in targets:
        assert f'id="{target}"' in bare, target
    outside = re.findall(r'(?:src|href)="([^"#]+)"', bare)
    assert all(link.startswith("data:") for link in outside)
    assert "β_W" not in re.sub(r'aria-label="[^"]*"', "", bare)


@pytest.mark.browser
def test_the_page_opens_on_a_laptop_and_a_phone(page, tmp_path):
    opened, console = open_pages(tmp_path, (page, 1440), (page, 390))
    assert not console
    for one, width in zip(opened, (1440, 390), strict=True):
        assert one["drawn"] == str(one["plots"]) == "8"
        assert one["scroll"] <= one["width"] == width
