"""`throughtime check`: what is wrong with a user's own model, for a terminal or a CI."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import diagnosis
from ..diagnosis.paste import line as line_of
from ..flow import Flow
from .options import Lag, Seed, Target
from .target import flow_of, function_of, returned
from .terminal import print_json, results

__all__ = ["FAILS", "check", "show_findings"]

STYLES = {"error": "bold red", "warning": "bold yellow", "note": "dim"}
FAILS = ("error", "warning")


def check(
    target: Target,
    lag: Lag = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is wrong with your own model: the cause first, how it is known, what to change.

    FUNCTION takes no argument and returns (model, batch, losses), as for profile. Where it is known
    how far back the task has to remember, give --lag.

    Exit code 1: there is an error or a warning; 0: nothing but notes.

    For example: throughtime check examples/profile_lstm.py:last_word --lag 15

    Raises:
        Exit: with code 1.
    """
    model, batch, losses, _ = returned(function_of(target), target, seed)
    flow = flow_of(model, batch, losses, None, None, target)
    # Written so that the tests can put another one in its place.
    examine: Any = getattr(diagnosis, "examine")  # noqa: B009
    found = list(examine(flow, lag=lag))
    if as_json:
        print_json(
            {
                "target": target,
                "layers": list(flow),
                "findings": [finding.to_dict() for finding in found],
                "skipped": flow.skipped,
            }
        )
    else:
        show_findings(found, flow, lag)
        if any(finding.severity in FAILS for finding in found):
            asked = "" if lag is None else f" --lag {lag}"
            say = "To try remedies on copies of it, each measured again:\n  throughtime treat "
            results().print(f"{say}{target}{asked}", markup=False, soft_wrap=True)
    if any(finding.severity in FAILS for finding in found):
        raise typer.Exit(1)


def show_findings(found: list[Any], flow: Flow, lag: int | None = None) -> None:
    """Print the findings: what, how it is known, what to do, the line to paste.

    Args:
        found: the findings.
        flow: what they were found in.
        lag: how many steps back the task needs, where that is known.
    """
    from rich.padding import Padding
    from rich.text import Text

    console = results()
    for finding in found:
        style = STYLES[finding.severity]
        where = f" in {finding.layer}" if finding.layer else ""
        follows = getattr(finding, "follows", None)
        after = f", which follows from {follows}" if follows else ""
        head = Text.assemble((finding.severity, style), f": {finding.code}{where}{after}")
        console.print(head)
        known = [f"known by: {evidence}" for evidence in finding.evidence[:1]]
        for line in (finding.what, *known, f"what to do: {finding.remedy}"):
            console.print(Padding(Text(line), (0, 0, 0, 2)))
        paste = line_of(finding, flow, (finding.layer,) if finding.layer else tuple(flow), lag)
        if paste:
            shown = Text("\n".join(f"    {one}" for one in paste.splitlines()))
            console.print(shown, soft_wrap=True)
        console.print()
    for path, why in flow.skipped.items():
        console.print(f"not followed: {path or 'the model'} {why}", markup=False)
    counts = {s: sum(f.severity == s for f in found) for s in STYLES}
    said = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    console.print(", ".join(said) or "Nothing was found.")
