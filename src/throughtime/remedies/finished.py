"""Trainings that are finished, kept in a folder, so that a run that was cut off can go on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, FileError, InputTypeError
from ..flow.export import plain

__all__ = ["Finished", "Folder", "Outcome", "Turn", "about"]

FORMAT = "throughtime.treat"
VERSION = 1
SCORES = "scores.jsonl"
# So many losses of the batch are held against those of the earlier run, to this precision.
LOSSES, NEAR = 64, 1e-3


class Turn(NamedTuple):
    """One copy of a model in one round.

    Attributes:
        name: of the remedy, or "as it is".
        seed: of the copy.
        number: of the round, from 0.
    """

    name: str
    seed: int
    number: int

    @property
    def before(self) -> Turn:
        """The same copy, a round earlier."""
        return self._replace(number=self.number - 1)


class Outcome(NamedTuple):
    """What came of a turn: a score, or why there is none."""

    score: float = math.nan
    error: str | None = None


class Finished:
    """What is known of earlier turns; this one knows and keeps nothing."""

    def begin(self, names: Sequence[str]) -> None:
        """Note which remedies are trained.

        Args:
            names: those that could be measured.
        """

    def read(self, turn: Turn) -> Outcome | None:
        """Return what came of a turn; None where it was not finished."""
        del turn

    def write(self, turn: Turn, outcome: Outcome, model: nn.Module | None) -> None:
        """Keep what came of a turn.

        Args:
            turn: which one.
            outcome: what came of it.
            model: the copy as the turn left it, where another round may follow.
        """

    def load(self, turn: Turn, model: nn.Module) -> bool:
        """Bring a copy to where a turn left it; False where that is not known.

        Args:
            turn: which one.
            model: as it was built; where False is returned it may be of no use any more.
        """
        del turn, model
        return False

    def forget(self, name: str) -> None:
        """Drop the copies of a remedy that takes no further part."""


class Folder(Finished):
    """A folder with a line of JSON for each turn, and the copies that go on, one file each.

    A line is written at once and whole, and after the copy that it speaks of; a last line that was
    cut off is dropped. So whatever a run was doing when it was killed, what is there is true.
    """

    def __init__(self, path: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        """Open a folder, which is made where there is none.

        Args:
            path: of the folder.
            about: what the turns belong to, as `about` returned it.

        Raises:
            InputTypeError: ``path`` is no path.
            FileError: it cannot be read or written.
            CheckpointError: what is there belongs to something else, or is damaged.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise InputTypeError(f"resume must be a path to a folder; got {type(path).__name__}.")
        self.path = Path(path)
        self._known: dict[Turn, Outcome] = {}
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for left in self.path.glob("*.pt.part"):
                left.unlink()
            lines = self._whole_lines()
            if not lines:
                self._append({"format": FORMAT, "version": VERSION, **about})
        except OSError as error:
            raise FileError(
                f"cannot keep scores in {self.path}: {error.strerror or error}. resume takes a "
                "folder, which is made where there is none."
            ) from error
        if lines:
            self._check(lines[0], about)
        self._names = self._listed(lines[1]) if len(lines) > 1 else None
        for number, line in enumerate(lines[2:], 3):
            turn, outcome = self._turn(line, number)
            self._known[turn] = outcome

    def begin(self, names: Sequence[str]) -> None:
        """Note which remedies are trained; how many they are decides the rounds.

        Args:
            names: those that could be measured.

        Raises:
            CheckpointError: they were others in the earlier run.
        """
        if self._names is None:
            self._append({"remedies": list(names)})
        elif self._names != list(names):
            raise self._other(f"the remedies were {', '.join(self._names) or 'none'} there")

    def read(self, turn: Turn) -> Outcome | None:
        """Return what came of a turn; None where it was not finished."""
        return self._known.get(turn)

    def write(self, turn: Turn, outcome: Outcome, model: nn.Module | None) -> None:
        """Keep the copy, then the line, and drop the copy of the round before."""
        if model is not None:
            kept = {
                "state": model.state_dict(),
                "training": {name: part.training for name, part in model.named_modules()},
            }
            part = self._copy(turn).with_suffix(".pt.part")
            torch.save(kept, part)
            os.replace(part, self._copy(turn))
        self._append({**turn._asdict(), **outcome._asdict()})
        self._known[turn] = outcome
        self._copy(turn.before).unlink(missing_ok=True)

    def load(self, turn: Turn, model: nn.Module) -> bool:
        """Bring a copy to where a turn left it; False where its file is gone, or does not fit."""
        try:
            kept = torch.load(self._copy(turn), map_location="cpu", weights_only=True)
            model.load_state_dict(kept["state"])
            for name, part in model.named_modules():
                part.training = kept["training"][name]
        except Exception:  # torch raises whatever the damage made of the file
            return False
        return True

    def forget(self, name: str) -> None:
        """Drop the copies of a remedy that takes no further part."""
        for path in self.path.glob(f"{quote(name, safe='')}.*.pt"):
            path.unlink(missing_ok=True)

    def _copy(self, turn: Turn) -> Path:
        return self.path / f"{quote(turn.name, safe='')}.{turn.seed}.{turn.number}.pt"

    def _append(self, value: Mapping[str, Any]) -> None:
        with open(self.path / SCORES, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain(dict(value)), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _whole_lines(self) -> list[str]:
        """Return the lines that are whole, and cut the file after the last of them."""
        path = self.path / SCORES
        with contextlib.suppress(FileNotFoundError), open(path, "r+b") as file:
            data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                file.truncate(len(whole))
            return whole.decode("utf-8", errors="replace").splitlines()
        return []

    def _turn(self, line: str, number: int) -> tuple[Turn, Outcome]:
        try:
            found = json.loads(line)
            turn = Turn(str(found["name"]), int(found["seed"]), int(found["number"]))
            return turn, Outcome(float(found["score"]), found["error"])
        except (ValueError, TypeError, KeyError) as error:
            raise self._other(f"line {number} of {SCORES} is no score") from error

    def _listed(self, line: str) -> list[str]:
        try:
            return [str(name) for name in json.loads(line)["remedies"]]
        except (ValueError, TypeError, KeyError) as error:
            raise self._other(f"line 2 of {SCORES} is damaged") from error

    def _check(self, line: str, about: Mapping[str, Any]) -> None:
        """Raise unless the first line says the same as what is treated now."""
        try:
            found = json.loads(line)
            ours = found["format"] == FORMAT and found["version"] == VERSION
            why = _differs(found, about) if ours else f"{SCORES} was written by something else"
        except (ValueError, TypeError, KeyError):
            why = f"line 1 of {SCORES} is damaged"
        if why:
            raise self._other(why)

    def _other(self, why: str) -> CheckpointError:
        return CheckpointError(
            f"the scores in {self.path} cannot be gone on with: {why}. Give another folder, or "
            "remove that one to begin anew."
        )


def about(
    model: nn.Module, losses: Tensor, *, lag: int, seeds: int, updates: int
) -> dict[str, Any]:
    """Return what scores belong to: they are of use for the same model, batch and budget alone.

    Args:
        model: as it is.
        losses: its losses on the batch.
        lag: how many steps back remedies are made for.
        seeds: how many copies of each.
        updates: how many in all.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} ".encode())
        if isinstance(tensor, Tensor):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{tuple(values.shape)} {values.dtype} ".encode())
            digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    flat = losses.detach().flatten().double().cpu()
    return {
        "model": digest.hexdigest(),
        "losses": flat[:: max(1, len(flat) // LOSSES)].tolist(),
        "lag": lag,
        "seeds": seeds,
        "updates": updates,
    }


def _differs(found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Return in which respect an earlier run was another one; empty: in none."""
    if found["model"] != about["model"]:
        return "the model has other weights"
    was, now = found["losses"], about["losses"]
    if len(was) != len(now) or not all(map(_near, map(float, was), now)):
        return "the model's losses on the batch are others"
    for name in ("lag", "seeds", "updates"):
        if found[name] != about[name]:
            return f"{name} was {found[name]} there and is {about[name]} now"
    return ""


def _near(a: float, b: float) -> bool:
    if math.isnan(a) or math.isnan(b):
        return math.isnan(a) and math.isnan(b)
    return a == b or math.isclose(a, b, rel_tol=NEAR)
