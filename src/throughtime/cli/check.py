"""`throughtime check`: what is wrong with a user's own model, for a terminal or a CI."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import diagnosis
from .target import flow_of, function_of, returned
from .terminal import print_json, results

__all__ = ["FAILS", "check", "show_findings"]

STYLES = {"error": "bold red", "warning": "bold yellow", "note": "dim"}
FAILS = ("error", "warning")


def check(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py:FUNCTION", help="The function that returns the model.")
    ],
    lag: Annotated[
        int | None, typer.Option(help="How many steps back the task needs.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Set before FUNCTION is called.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what is wrong with your own model: the cause first, how it is known, what to change.

    FUNCTION takes no argument and returns (model, batch, losses), as for profile. Where it is known
    how far back the task has to remember, give --lag.

    Exit code 1: there is an error or a warning; 0: nothing but notes.

    For example: throughtime check examples/profile_lstm.py:build --lag 50

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
        show_findings(found, flow.skipped)
    if any(finding.severity in FAILS for finding in found):
        raise typer.Exit(1)


def show_findings(found: list[Any], skipped: dict[str, str]) -> None:
    """Print the findings, three lines each: what, how it is known, what to do.

    Args:
        found: the findings.
        skipped: what was not followed, as `Flow.skipped` has it.
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
        console.print()
    for path, why in skipped.items():
        console.print(f"not followed: {path or 'the model'} {why}", markup=False)
    counts = {s: sum(f.severity == s for f in found) for s in STYLES}
    said = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    console.print(", ".join(said) or "Nothing was found.")
