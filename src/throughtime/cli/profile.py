"""`throughtime profile`: a user's own model and batch, judged."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from ..diagnosis import Diagnosis, Verdict, diagnose
from ..errors import FileError, InputTypeError, InputValueError, ThroughTimeError
from ..flow import Flow, trace
from ..report import table, write_report
from ..report.page import check_writable
from .terminal import print_json, results

__all__ = ["layers_json", "profile"]

PROTOCOL = (
    "it must return (model, batch, losses) or (model, batch, losses, words): an nn.Module, "
    "anything, and a function losses(model, batch) that returns a 1-D tensor, one loss per step"
)


def profile(
    target: Annotated[
        str, typer.Argument(metavar="FILE.py:FUNCTION", help="The function that returns the model.")
    ],
    report: Annotated[Path, typer.Option(help="The page to write.")] = Path(
        "throughtime-profile.html"
    ),
    window: Annotated[
        int | None, typer.Option(help="Follow each loss at most so many steps back.", min=1)
    ] = None,
    every: Annotated[
        int | None, typer.Option(help="Of so many losses follow one only.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Set before FUNCTION is called.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdicts as JSON.")] = False,
) -> None:
    """Judge the gradient's way through your own model: table, verdicts, report.

    FUNCTION takes no argument and returns (model, batch, losses): a module that holds nn.RNN,
    nn.LSTM, nn.GRU or throughtime's layers; a batch of any kind; and a function losses(model,
    batch) that runs the model and returns a 1-D tensor, one loss per step (or a scalar). A fourth
    entry may give words, one a step, for the report. See examples/profile_lstm.py.

    Exit code 1: something is inf or NaN.

    Raises:
        Exit: with code 1.
    """
    check_writable(report)
    model, batch, losses, words = _returned(_function(target), target, seed)
    flow = _flow(model, batch, losses, window, every, target)
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


def _function(target: str) -> Callable[[], Any]:
    """Load FILE.py and return its FUNCTION."""
    file, colon, name = target.rpartition(":")
    if not colon or not file or not name:
        raise InputValueError(f"give FILE.py:FUNCTION, such as model.py:build; got {target!r}.")
    path = Path(file)
    if not path.is_file():
        raise FileError(f"there is no file {path}.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise FileError(f"{path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses and pickle look their module up
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InputValueError(f"{path} cannot be loaded: {_where(error)}") from error
    function = getattr(module, name, None)
    if function is None:
        found = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise InputValueError(
            f"{path} has no {name}; it has {', '.join(found) or 'nothing to call'}."
        )
    if not callable(function):
        raise InputTypeError(f"{name} in {path} is {type(function).__name__}, not a function.")
    return function


def _returned(
    function: Callable[[], Any], target: str, seed: int
) -> tuple[nn.Module, Any, Callable[..., Any], list[str] | None]:
    """Call FUNCTION and check what it returned."""
    torch.manual_seed(seed)
    given = _called(function, target)
    if not isinstance(given, (tuple, list)) or len(given) not in {3, 4}:
        shape = f" of {len(given)}" if isinstance(given, (tuple, list)) else ""
        raise InputTypeError(f"{target} returned {type(given).__name__}{shape}; {PROTOCOL}.")
    model, batch, losses, *rest = given
    if not isinstance(model, nn.Module):
        raise InputTypeError(
            f"the first that {target} returned is {type(model).__name__}; {PROTOCOL}."
        )
    if not callable(losses):
        raise InputTypeError(
            f"the third that {target} returned is {type(losses).__name__}, not a function; "
            f"{PROTOCOL}."
        )
    return model, batch, losses, list(rest[0]) if rest and rest[0] is not None else None


def _flow(
    model: nn.Module,
    batch: Any,
    losses: Callable[..., Any],
    window: int | None,
    every: int | None,
    target: str,
) -> Flow:
    with trace(model) as watched:
        values = _called(lambda: losses(model, batch), f"losses of {target}")
    return watched.flow(values, window=window, every=every)


def _called(function: Callable[[], Any], what: str) -> Any:
    """Call the user's code; what it raises becomes one line that says where."""
    try:
        return function()
    except ThroughTimeError:
        raise
    except Exception as error:
        raise InputValueError(f"{what} raised {_where(error)}") from error


def _where(error: BaseException) -> str:
    """Return an error's kind and text in one line, with the innermost line of the user's code."""
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    package = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((package, "<")) and "site-packages" not in frame.filename
    ]
    return (
        f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})." if frames else text
    )
