"""The demo's measurements: the source's claim, on networks that get the same budget."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..flow.export import plain
from ..tasks.mention import LONG, SHORT, Mention
from .overflow import GAINS, Overflow, overflow
from .recall import NETWORKS, Budget, Network, Recalled, learn

__all__ = ["Curriculum", "Plan", "Study", "study"]

# The source's two sentences have lags 8 and 27.
LAGS = (8, 12, 18, 27, 40, 60, 80, 100)


@dataclass(frozen=True)
class Curriculum:
    """Which lags a network is taught with, and how many updates it may take."""

    name: str
    shortest: int
    longest: int
    updates: int


@dataclass(frozen=True)
class Plan:
    """What the study is to do; the defaults are what `throughtime demo` runs.

    Attributes:
        mixed: texts of all lags, every octave as likely as any other.
        far: texts of long lags only.
        names: N.
        lags: that are tested.
        seed: of weights and texts.
        budget: rows, sizes, rate and clipping; its ``updates`` are those of the curriculum.
        gains: of the recurrence that overflows.
        overflow_updates: how many updates it may take.
        networks: the rows of the comparison.
    """

    mixed: Curriculum = Curriculum("near and far", 8, 100, 3000)
    far: Curriculum = Curriculum("far only", 40, 100, 500)
    names: int = 8
    lags: tuple[int, ...] = LAGS
    seed: int = 0
    budget: Budget = field(default_factory=Budget)
    gains: tuple[float, ...] = GAINS
    overflow_updates: int = 30
    networks: Sequence[Network] = NETWORKS

    @classmethod
    def quick(cls, seed: int = 0) -> Plan:
        """Return a plan of seconds, which shows that everything runs and proves nothing."""
        return cls(
            mixed=Curriculum("near and far", 8, 27, 150),
            far=Curriculum("far only", 18, 27, 50),
            names=4,
            lags=(8, 16, 27),
            seed=seed,
            budget=Budget(hidden=24, width=16, tested=100),
            gains=(1.0, 20.0),
            overflow_updates=3,
        )

    @property
    def updates(self) -> int:
        """How many updates the study may take in all, for a progress bar."""
        return len(self.networks) * (self.mixed.updates + self.far.updates)


@dataclass
class Study:
    """What was measured."""

    plan: Plan
    mixed: list[Recalled] = field(default_factory=list)
    far: list[Recalled] = field(default_factory=list)
    overflow: list[Overflow] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def chance(self) -> float:
        """How often the best guess without memory is right."""
        return Mention(self.plan.names).chance

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; inf and NaN become the strings "inf" and "nan"."""
        return plain(
            {
                "seed": self.plan.seed,
                "names": self.plan.names,
                "chance": self.chance,
                "budget": asdict(self.plan.budget),
                "sentences": {"short": str(SHORT), "long": str(LONG)},
                "lags": {"short": SHORT.lag, "long": LONG.lag},
                "seconds": round(self.seconds, 1),
                "near_and_far": self._curriculum(self.plan.mixed, self.mixed),
                "far_only": self._curriculum(self.plan.far, self.far),
                "overflow": [_overflow(row) for row in self.overflow],
            }
        )

    def _curriculum(self, curriculum: Curriculum, rows: list[Recalled]) -> dict[str, Any]:
        return {**asdict(curriculum), "networks": [_network(row) for row in rows]}


def study(
    plan: Plan,
    advance: Callable[[str, int], None] = lambda what, updates: None,
) -> Study:
    """Train all networks on both curricula, then look at the recurrence that overflows.

    Args:
        plan: what to do.
        advance: called with what is under way and the updates just made, for a progress bar.

    Raises:
        NonFiniteError: a network of the comparison turned inf or NaN.

    Cost:
        the default plan takes about two minutes on two cores.
    """
    out = Study(plan)
    for curriculum, rows in ((plan.mixed, out.mixed), (plan.far, out.far)):
        task = Mention(plan.names, curriculum.shortest, curriculum.longest)
        budget = Budget(**{**asdict(plan.budget), "updates": curriculum.updates})
        for network in plan.networks:
            label = f"{network.name}, {curriculum.name}"
            rows.append(
                learn(
                    task,
                    network,
                    budget,
                    plan.lags,
                    plan.seed,
                    measure_bounds=curriculum is plan.mixed,
                    advance=lambda n, label=label: advance(label, n),
                )
            )
    out.overflow.extend(_overflows(plan, advance))
    return out


def _overflows(plan: Plan, advance: Callable[[str, int], None]) -> Iterator[Overflow]:
    task = Mention(plan.names, plan.mixed.shortest, plan.mixed.longest)
    for gain in plan.gains:
        for clip in (None, plan.budget.clip):
            advance(f"gain {gain:g}, {'clipped' if clip else 'not clipped'}", 0)
            yield overflow(task, gain, clip, updates=plan.overflow_updates, seed=plan.seed)


def _network(row: Recalled) -> dict[str, Any]:
    return {
        "name": row.name,
        "updates": row.updates,
        "learned": row.learned,
        "seconds": round(row.seconds, 1),
        "losses": row.losses,
        "accuracy": [
            {"lag": s.lag, "right": s.right, "of": s.of, "share": s.share, "interval": s.interval}
            for s in row.scores
        ],
        "probability": {"short": row.source[0], "long": row.source[1]},
        "reach_before": {str(lag): value for lag, value in row.before.items()},
        "reach_after": {str(lag): value for lag, value in row.after.items()},
        "zero_in_float32_before": row.silent,
        "bounds_before": None if row.bounds is None else asdict(row.bounds),
    }


def _overflow(row: Overflow) -> dict[str, Any]:
    first = None if row.first is None else row.first._asdict()
    return {**row.__dict__, "first": first}
