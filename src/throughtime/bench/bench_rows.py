"""What `throughtime bench` measures, and what comes of it: the kinds of lines, and a line."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["KINDS", "SHAPES", "Findings", "Kind", "Memory", "Row", "Times", "geometric_mean"]

SHAPES = (
    (1, 500, 64, 64), (8, 500, 128, 128), (32, 100, 64, 64), (32, 100, 128, 128),
    (64, 100, 256, 256), (16, 100, 512, 512), (128, 50, 128, 256), (20, 35, 200, 200),
    (8, 1000, 512, 512), (16, 128, 1024, 1024),
)  # fmt: skip


class Kind(NamedTuple):
    """One kind of line.

    Attributes:
        title: what is measured.
        against: what ours is compared with.
        ragged: rows have lengths 1…T; measured for the LSTM, whose batch torch.nn packs.
        note: what a reader has to know of it; a rival's depends on the run (`bench_rivals.note`).
    """

    title: str
    against: str = "torch.nn"
    ragged: bool = False
    note: str = ""


KINDS = {
    "train": Kind("training step, float32"),
    "train64": Kind("training step, float64"),
    "jax": Kind("training step, float32, against a jitted JAX scan", "JAX"),
    "flashrnn": Kind("training step, float32, against FlashRNN's torch backend", "FlashRNN"),
    "infer": Kind("no gradient, float32"),
    "packed": Kind(
        "training step, lengths 1…T, torch.nn on a PackedSequence",
        ragged=True,
        note="Both begin with the padded batch. torch.nn's output stays packed; ours is padded.",
    ),
    "repadded": Kind(
        "training step, lengths 1…T, torch.nn on a PackedSequence, padded again",
        ragged=True,
        note="Both begin with the padded batch and give a padded output: the same work.",
    ),
    "padded": Kind(
        "training step, lengths 1…T, torch.nn on the padded batch",
        ragged=True,
        note="torch.nn takes all T steps of every row, for which it needs no packing.",
    ),
    "map": Kind("all (t, k) norms, torch.nn by one autograd call per loss"),
    "memory": Kind("peak memory of a training step, (64, 200, 256, 256), float32"),
    "import": Kind("import of the package, beyond torch's own", "torch"),
}


@dataclass(frozen=True)
class Times:
    """What one side's calls took, in seconds.

    Attributes:
        least: the smallest time, which other programs disturb least.
        median: the median of all calls.
        first: the smallest time of a turn's first call, which comes upon the other side's caches.
    """

    least: float
    median: float
    first: float

    @classmethod
    def of(cls, turns: list[list[float]]) -> Times:
        """Return those of one side's turns."""
        every = [taken for turn in turns for taken in turn]
        return cls(min(every), statistics.median(every), min(turn[0] for turn in turns))

    def times(self, scale: float) -> Times:
        """Return each ``scale`` times as long."""
        return Times(scale * self.least, scale * self.median, scale * self.first)


@dataclass
class Row:
    """One line of the results: the times of both, and the machine meanwhile."""

    kind: str
    layer: str
    shape: tuple[int, int, int, int]
    ours: Times
    theirs: Times
    gflops: float
    machine: float
    load: float
    runs: int

    @property
    def ratio(self) -> float:
        """How many times as fast: by the smallest times."""
        return self.theirs.least / self.ours.least

    @property
    def median_ratio(self) -> float:
        """The same by the medians."""
        return self.theirs.median / self.ours.median

    @property
    def first_ratio(self) -> float:
        """The same by the first call of each turn."""
        return self.theirs.first / self.ours.first

    @property
    def share(self) -> float:
        """The share of the machine's own rate, that of a matrix product in the same run."""
        return self.gflops / self.machine


@dataclass
class Memory:
    """Peak memory of a training step in MB, beyond model and input."""

    layer: str
    ours: float
    theirs: float


@dataclass
class Findings:
    """All that one run found.

    Attributes:
        rows: the lines.
        memory: peak memory, where it was measured.
        startup: milliseconds of the import beyond torch's own, where they were measured.
        refused: by kind, the comparisons that got no speed, because the results disagree.
        absent: by kind, why there is no such comparison on this machine.
        notes: by kind, what a reader has to know of it.
    """

    rows: list[Row] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    startup: float | None = None
    refused: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def of(self, kind: str, layer: str = "") -> list[Row]:
        """Return the lines of one kind, and of one layer where it is named."""
        return [row for row in self.rows if row.kind == kind and layer in {"", row.layer}]


def geometric_mean(values: list[float]) -> float:
    """Return the geometric mean of positive values."""
    return math.exp(sum(math.log(v) for v in values) / len(values))
