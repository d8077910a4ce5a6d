"""How `throughtime train` ends: how it went, what was found, and the lines to go on with."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.text import Text

from ..diagnosis import Diagnosis, diagnose
from ..flow import Flow
from ..report import table, write_report
from ..train import Advice, Language, Settings, advise
from .profile import layers_json
from .terminal import results

__all__ = ["Ending"]


@dataclass
class Ending:
    """What is said at the end of a training, for a reader, a page or a machine.

    Attributes:
        training: what was trained; one batch of it is taken apart.
        text: the file that it reads.
        path: of its checkpoint.
        updates: that were asked for.
        written: the sample.
        stopped: the signal that stopped it, or None.
        report: the page, once it is written.
    """

    training: Language
    text: Path
    path: Path
    updates: int
    written: str
    stopped: str | None
    report: Path | None = field(default=None, init=False)
    flow: Flow = field(init=False)
    characters: list[str] = field(init=False)
    diagnosis: dict[str, Diagnosis] = field(init=False)
    advice: Advice = field(init=False)

    def __post_init__(self) -> None:
        """Look at a batch."""
        self.flow, self.characters = self.training.flow()
        self.diagnosis = dict(diagnose(self.flow))
        self.advice = advise(self.training, self.flow)

    def commands(self) -> dict[str, str]:
        """Return the lines to go on with: "resume", and "change" where a setting may help."""
        start = ["throughtime", "train", "--text", str(self.text)]
        more = 2 * self.updates if self.stopped is None else self.updates
        resume = ["--checkpoint", str(self.path), "--resume", "--updates", str(more)]
        found = {"resume": shlex.join([*start, *resume])}
        if self.advice.change:
            found["change"] = shlex.join([*start, *self._changed()])
        return found

    def _changed(self) -> list[str]:
        """Return the flags of a changed training, whose checkpoint leaves this one alone."""
        change, usual = self.advice.change, asdict(Settings())
        own = {n: v for n, v in asdict(self.training.settings).items() if v != usual[n]} | change
        flags = [part for n, v in own.items() if n != "width" for part in (f"--{n}", f"{v}")]
        name = "-".join([self.path.stem, *(f"{n}-{v}" for n, v in change.items())])
        path = self.path.with_name(f"{name}.pt")
        return [*flags, "--checkpoint", str(path), "--updates", str(self.updates)]

    def write(self, report: Path) -> None:
        """Write the page.

        Args:
            report: where it goes.

        Raises:
            FileError: it cannot be written.
        """
        self.report = write_report(
            self.flow,
            report,
            diagnosis=self.diagnosis,
            findings=self.advice.findings,
            words=self.characters,
            title=f"A {self.training.settings.cell} that reads {self.text.name}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        columns = ("updates", "loss", "validation_loss")
        training = self.training
        return {
            "settings": asdict(training.settings),
            "updates": training.updates,
            "history": [dict(zip(columns, row, strict=True)) for row in training.history],
            "stopped": self.stopped,
            "sample": self.written,
            "checkpoint": str(self.path),
            "report": None if self.report is None else str(self.report),
            "advice": {**self.advice.to_dict(), "commands": self.commands()},
            "layers": layers_json(self.flow, self.diagnosis),
        }

    def show(self, prompt: str) -> None:
        """Print all of it.

        Args:
            prompt: what the sample begins with.
        """
        console = results()
        console.print(self._losses())
        if self.written:
            console.print((prompt + self.written).strip("\n"), markup=False)
        console.print()
        console.print(table(self.flow, self.diagnosis, self.advice.findings))
        console.print()
        console.print(Text.assemble((self.advice.reached, "bold"), f" {self.advice.why}"))
        ways = self.commands()
        for name, what in (("resume", "To train on:"), ("change", "To try that:")):
            if name in ways:
                console.print(Text(f"{what}\n  {ways[name]}"), soft_wrap=True)
        where = f"\nCheckpoint: {self.path}"
        where += "" if self.report is None else f"\nReport: {self.report}"
        console.print(where, markup=False, soft_wrap=True)

    def _losses(self) -> str:
        """Return the last losses in a sentence."""
        updates = self.training.updates
        if not self.training.history:
            return f"{updates} updates, and no look at the losses yet.\n"
        _, loss, held_out = self.training.history[-1]
        return (
            f"{updates} updates: training {loss:.3f}, validation [bold]{held_out:.3f}[/bold] nats "
            f"per character ({held_out / math.log(2):.3f} bits).\n"
        )
