"""`throughtime profile`: a user's own model and batch, judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..diagnosis import Diagnosis, Verdict, diagnose
from ..files import check_writable
from ..flow import Flow
from ..packages import need_plotly
from ..report import table, write_report
from .options import Seed, Target
from .target import flow_of, function_of, returned
from .terminal import print_json, results

__all__ = ["layers_json", "profile"]


def profile(
    target: Target,
    report: Annotated[Path, typer.Option(help="The page to write.", metavar="FILE")] = Path(
        "throughtime-profile.html"
    ),
    window: Annotated[
        int | None,
        typer.Option(help="Follow each loss at most so many steps back.", min=1, metavar="N"),
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="Of so many losses follow one only.", min=1, metavar="N")
    ] = None,
    seed: Seed = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Judge the gradient's way through your own model: table, verdicts, report.

    FUNCTION takes no argument and returns (model, batch, losses): a module that holds nn.RNN,
    nn.LSTM, nn.GRU or throughtime's layers; a batch of any kind; and a function losses(model,
    batch) that runs the model and returns a 1-D tensor, one loss per step (or a scalar). A fourth
    entry may give words, one a step, for the report. See examples/profile_lstm.py.

    Exit code 1: something is inf or NaN.

    For example: throughtime profile examples/profile_lstm.py:next_word

    Raises:
        Exit: with code 1.
    """
    need_plotly()
    check_writable(report)
    model, batch, losses, words = returned(function_of(target), target, seed)
    flow = flow_of(model, batch, losses, window, every, target)
    diagnosis = diagnose(flow)
    write_report(flow, report, diagnosis=diagnosis, words=words, title=f"The flow of {target}")
    if as_json:
        print_json({"target": target, "layers": layers_json(flow, diagnosis),
                    "report": str(report)})  # fmt: skip
    else:
        console = results()
        console.print(table(flow, diagnosis))
        console.print(f"\nReport: [bold]{report}[/bold]")
    if any(judged.verdict is Verdict.NONFINITE for judged in diagnosis.values()):
        raise typer.Exit(1)


def layers_json(flow: Flow, diagnosis: dict[str, Diagnosis]) -> dict[str, Any]:
    """Return verdicts, evidence and profiles by layer as plain values.

    Args:
        flow: what was measured.
        diagnosis: of that flow.
    """
    return {
        name: {
            "verdict": diagnosis[name].verdict.name,
            "shares": {v.name: share for v, share in diagnosis[name].shares.items()},
            "evidence": [evidence.to_dict() for evidence in diagnosis[name].evidence],
            "advice": diagnosis[name].advice,
            "horizon": layer.horizon(),
            "lag_profile": layer.lag_profile().tolist(),
            "first_nonfinite": None
            if layer.first_nonfinite is None
            else layer.first_nonfinite.to_dict(),
        }
        for name, layer in flow.items()
    }
