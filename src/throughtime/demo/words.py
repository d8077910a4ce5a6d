"""The demo's sentences, made from its numbers: another run may say the opposite."""

from __future__ import annotations

from collections.abc import Sequence

from ..report.number_text import number, percent
from ..tasks.mention import LONG, SHORT
from .experiment import Study
from .overflow_words import clipping_text, enumerated, first_bad_step
from .recall import Recalled, Score

__all__ = [
    "bound_sentences",
    "claim",
    "distance",
    "far_only",
    "far_reach",
    "reach_after",
    "reach_before",
    "score_at",
    "terminal_summary",
]

ALL_RIGHT = 0.9  # of the texts: "right"; what lies between chance and this is named by its number


def score_at(row: Recalled, lag: int) -> Score:
    """Return the score at the tested lag that is nearest to ``lag``."""
    return min(row.scores, key=lambda score: abs(score.lag - lag))


def _is_chance(score: Score, chance: float) -> bool:
    low, high = score.interval
    return low <= chance <= high


def claim(study: Study) -> str:
    """Describe for which networks the source's claim holds: right near, less often right far."""
    groups: dict[str, list[str]] = {"falls": [], "rises": [], "right": [], "guess": [], "same": []}
    for row in study.mixed:
        near, far = score_at(row, SHORT.lag), score_at(row, LONG.lag)
        ends = f"{percent(near.share)} at {near.lag} words, {percent(far.share)} at {far.lag}"
        shares = f"the {row.name} ({ends})"
        if far.interval[1] < near.interval[0]:
            groups["falls"].append(shares)
        elif near.interval[1] < far.interval[0]:
            groups["rises"].append(shares)
        elif min(near.share, far.share) >= ALL_RIGHT:
            groups["right"].append(f"the {row.name}")
        elif _is_chance(near, study.chance) and _is_chance(far, study.chance):
            groups["guess"].append(f"the {row.name}")
        else:
            groups["same"].append(shares)
    said = []
    if groups["falls"]:
        said.append(f"The claim is what we see for {enumerated(groups['falls'])}.")
    else:
        said.append("In no network of this run was the near answer right more often than the far.")
    if groups["right"]:
        said.append(
            "It is not a law of recurrent networks: after the same lessons "
            f"{enumerated(groups['right'])} {_be(groups['right'])} right over both distances."
        )
    if groups["guess"]:
        said.append(
            f"{_capital(enumerated(groups['guess']))} {_be(groups['guess'])} no better than a "
            "guess at either distance."
        )
    if groups["same"]:
        said.append(
            f"No difference between the two distances was found for {enumerated(groups['same'])}."
        )
    if groups["rises"]:
        said.append(
            "Against the claim, the far answer is right more often for "
            f"{enumerated(groups['rises'])}."
        )
    return " ".join(said)


def sentences(study: Study) -> str:
    """Describe what each network makes of the source's own two sentences."""
    higher = [row for row in study.mixed if row.source[0] > row.source[1]]
    gap = max(study.mixed, key=lambda row: row.source[0] - row.source[1])
    text = (
        f"{len(higher)} of {len(study.mixed)} networks give John a higher probability in the short "
        f"sentence than in the long one. "
    )
    if gap.source[0] > gap.source[1]:
        text += (
            f"The widest gap is that of the {gap.name}: {percent(gap.source[0])} against "
            f"{percent(gap.source[1])}. "
        )
    return (
        text + f"A guess is {percent(study.chance)}: one among {study.plan.names} names, without "
        "the one who speaks."
    )


def distance(study: Study) -> str:
    """Describe how the share of right answers goes with the distance."""
    everywhere = [r.name for r in study.mixed if min(s.share for s in r.scores) >= ALL_RIGHT]
    parts = []
    for row in study.mixed:
        if row.name in everywhere:
            continue
        better = [score.interval[0] > study.chance for score in row.scores]
        count = better.index(False) if False in better else len(better)
        far = f"up to {row.scores[count - 1].lag} words" if count else "at no distance"
        parts.append(f"the {row.name} {far}")
    text = ""
    if parts:
        text += f"Better than a guess: {enumerated(parts)}. "
    if everywhere:
        text += f"At least {percent(ALL_RIGHT)} right at every distance: {enumerated(everywhere)}."
    return text.strip()


def reach_before(study: Study) -> str:
    """Describe how much of the gradient reaches the mention before any training."""
    lag = score_at(study.mixed[0], LONG.lag).lag
    ordered = sorted(study.mixed, key=lambda row: row.before[lag])
    least, most = ordered[0], ordered[-1]
    text = (
        f"Before any training, {lag} words back, the mention gets {percent(most.before[lag])} of "
        f"the gradient at the blank in the {most.name}, and {number(least.before[lag], 2)} of it "
        f"in the {least.name}. "
    )
    silent = [row for row in study.mixed if row.silent]
    if silent:
        which = enumerated([f"the {row.name} from {row.silent[0]} words on" for row in silent])
        text += f"In float32, in which they train, exactly nothing arrives in {which}. "
    return text + "No weight has moved yet; this could be seen before an hour of training is spent."


def reach_after(study: Study) -> str:
    """Describe what training changed about the reach, and what that means for the claim."""
    lag = score_at(study.mixed[0], LONG.lag).lag
    grown = [r for r in study.mixed if r.after[lag] > 10 * r.before[lag] and r.after[lag] >= 1e-3]
    still = [r for r in study.mixed if r.after[lag] < 1e-3]
    text = ""
    if grown:
        which = enumerated(
            [
                f"the {r.name} ({number(r.before[lag], 2)} → {number(r.after[lag], 2)})"
                for r in grown
            ]
        )
        text += (
            f"Training moved it: {lag} words back the mention now gets far more than before in "
            f"{which}. Taught with near texts among the far ones, a network can learn to hold a "
            "name on the near ones, and what holds it there carries the gradient further. "
        )
    if still:
        which = enumerated([f"the {r.name} ({number(r.after[lag], 2)})" for r in still])
        text += f"Less than a thousandth still arrives in {which}."
    return text.strip() or f"At {lag} words training changed the reach of no network tenfold."


def far_only(study: Study) -> str:
    """Describe who learned from long texts alone."""
    learned = [row for row in study.far if row.learned]
    rest = [row for row in study.far if not row.learned]
    first = study.plan.far
    text = f"With no text nearer than {first.shortest} words, "
    if learned:
        which = enumerated([f"the {row.name} after {row.updates} updates" for row in learned])
        text += f"the task was learned by {which}. "
    else:
        text += f"no network learned the task in {first.updates} updates. "
    near = min(lag for lag in study.plan.lags if lag >= first.shortest) if rest else 0
    guess = [r.name for r in rest if _is_chance(score_at(r, near), study.chance)]
    if guess:
        text += (
            f"After {first.updates} updates {enumerated([f'the {name}' for name in guess])} "
            f"{'are' if len(guess) > 1 else 'is'} still no better than a guess at {near} words. "
        )
    between = [(r, score_at(r, near)) for r in rest if r.name not in guess]
    if between:
        which = enumerated([f"the {row.name} {percent(score.share)}" for row, score in between])
        text += f"Right at {near} words in part: {which}. "
    both = [r.name for r in study.mixed if r.learned and r.name in {x.name for x in rest}]
    if both:
        text += (
            f"Yet {enumerated([f'the {name}' for name in both])} learned it above, where there "
            "were near texts to begin with: the same network, from the same start."
        )
    return text.strip()


def far_reach(study: Study) -> str:
    """Check whether the reach before training told apart who learned from long texts alone."""
    lag = min((n for n in study.plan.lags if n >= study.plan.far.shortest), default=0)
    learned = [row for row in study.far if row.learned]
    rest = [row for row in study.far if not row.learned]
    if not lag or not learned or not rest:
        return ""
    least, most = min(r.before[lag] for r in learned), max(r.before[lag] for r in rest)
    if least > most:
        return (
            "How far the gradient reaches before any training told the two apart: "
            f"{lag} words back {percent(least)} or more for who learned, {number(most, 2)} or less "
            "for the others."
        )
    return (
        f"The reach before training did not tell the two apart here: {lag} words back it is "
        f"{number(least, 2)} for one that learned and {number(most, 2)} for one that did not."
    )


def bound_sentences(row: Recalled) -> str:
    """Hold one network's bounds against the truth, at the longest lag."""
    found = row.bounds
    assert found is not None
    lag = len(found.truth) - 1
    truth, tight = number(found.truth[-1], 2), number(found.tight[-1], 2)
    if found.loose is None or found.gain is None:
        return (
            f"The {row.name} is not of the form f(W_h h + …), and has no β_W·β_f. Over {lag} "
            f"words the product of its Jacobians’ norms allows {tight}; the truth is {truth}."
        )
    loose, gain = number(found.loose[-1], 2), number(found.gain, 3)
    if found.gain < 1:
        follows = "being below 1, it proves that the gradient vanishes"
    elif found.truth[-1] < 1:
        follows = "the bound grows while the gradient vanishes: above 1 it proves nothing"
    else:
        follows = "bound and truth both grow, but the bound alone would not have proved it"
    return (
        f"β_W·β_f = {gain}, so over {lag} words the bound is {loose}; the truth is "
        f"{truth}, the product of the Jacobians’ norms {tight}. {_capital(follows)}."
    )


def terminal_summary(study: Study) -> list[str]:
    """Return the few sentences that the terminal shows."""
    lines = [claim(study), reach_before(study), far_only(study), far_reach(study)]
    return [*filter(None, lines), first_bad_step(study.overflow), clipping_text(study.overflow)]


def _be(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
