"""How `throughtime train` ends: what was found, how far a loss reaches, the lines to go on with."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from ..train import Advice, Language, Settings
from .terminal import results

__all__ = ["lines", "show"]


def lines(
    advice: Advice, training: Language, text: Path, path: Path, updates: int, stopped: bool
) -> dict[str, str]:
    """Return the commands to go on with: "resume", and "change" where a setting may help.

    Args:
        advice: what to change.
        training: what was trained.
        text: the file that it reads.
        path: of its checkpoint, which a changed training leaves alone.
        updates: that were asked for.
        stopped: whether it ended before them.
    """
    start = ["throughtime", "train", "--text", str(text)]
    kept, more = ["--checkpoint", str(path)], updates if stopped else 2 * updates
    found = {"resume": shlex.join([*start, *kept, "--resume", "--updates", str(more)])}
    if advice.change:
        settings = {**asdict(training.settings), **advice.change}
        own = {n: v for n, v in settings.items() if v != getattr(Settings(), n)}
        own |= advice.change
        other = "-".join([path.stem, *(f"{n}-{v}" for n, v in advice.change.items())])
        flags = [part for n, v in own.items() if n != "width" for part in (f"--{n}", f"{v}")]
        kept = ["--checkpoint", str(path.with_name(f"{other}.pt")), "--updates", str(updates)]
        found["change"] = shlex.join([*start, *flags, *kept])
    return found


def show(advice: Advice, ways: dict[str, str]) -> None:
    """Print how far a loss reaches, what to change and the lines to paste.

    Args:
        advice: what to change, and why.
        ways: what `lines` returned.
    """
    console = results()
    console.print(Text.assemble((advice.reached, "bold"), f" {advice.why}"))
    for name, what in (("change", "To try that:"), ("resume", "To train on:")):
        if name in ways:
            console.print(Text(f"{what}\n  {ways[name]}"), soft_wrap=True)


def plain(advice: Advice, ways: dict[str, str]) -> dict[str, Any]:
    """Return all of it as plain values.

    Args:
        advice: what to change, and why.
        ways: what `lines` returned.
    """
    return {**advice.to_dict(), "commands": ways}
