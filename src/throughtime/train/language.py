"""A character model, trained in segments whose state is carried on and detached."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, InputValueError, NonFiniteError
from ..flow import Flow, trace
from ..tasks.text import CharText
from .checkpoint import check_fits
from .model import CharModel, Settings, State
from .updating import began, update

__all__ = ["CONTENT", "Language"]

# What a checkpoint holds beside its format, see `checkpoint.load`.
CONTENT = {
    "settings": dict,
    "vocabulary": str,
    "text": str,
    "updates": int,
    "model": dict,
    "optimizer": dict,
    "state": list,
    "history": list,
}

# Segments of the held-out part that a validation loss is taken over.
VALIDATED = 60


class Language:
    """A character model in training on a text.

    Attributes:
        text: the streams.
        settings: what it is.
        model: the network.
        updates: how many were made.
        history: ``[updates, training loss, validation loss]`` at each look.

    Example:
        >>> text = CharText("to be or not to be " * 20, window=16, rows=4)
        >>> training = Language(text, Settings(hidden=8, window=16, rows=4))
        >>> losses = [training.step() for _ in range(3)]
        >>> training.updates, len(training.sample(10))
        (3, 10)
    """

    def __init__(self, text: CharText, settings: Settings) -> None:
        """Draw the weights, by the settings' seed."""
        self.text, self.settings = text, settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.model = CharModel(len(text.vocabulary), settings)
        self.optimizer = torch.optim.Adam(self.model.parameters(), settings.rate)
        self.updates = 0
        self.history: list[list[float]] = []
        self._state: State = None

    def step(self) -> float:
        """Make one update on the next segment, and give its loss before (eq. 2).

        The state is carried from the segment before, detached: the gradient ends at the segment's
        beginning, what the network remembers does not. A new way through the text begins from 0.

        Raises:
            NonFiniteError: the loss or the gradient is inf or NaN; the message says where it
                began. The weights are as they were.
        """
        index = self.updates % len(self.text)
        state = None if index == 0 else self._state
        x, y = self.text.segment(index)
        logits, after = self.model(x, state)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        try:
            update(self.model.parameters(), loss, self.optimizer, self.settings.clip or None)
        except NonFiniteError as error:
            where = began(self._flow(x, y, state, rows=x.shape[1]))
            raise NonFiniteError(f"update {self.updates + 1}: {error}; {where}.") from error
        self._state = _detach(after)
        self.updates += 1
        return float(loss.detach())

    def run(
        self,
        until: int,
        every: int,
        advance: Callable[[int, float], None],
        look: Callable[[list[float]], None],
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Train, and look at the validation loss now and then.

        Args:
            until: updates in all.
            every: updates between two looks; the last update is followed by one too.
            advance: called after each update with their number and the loss.
            look: called after each look with what `history` got; a place to save.
            stop: asked before each update and each look; True ends the training there, with a
                model that may be saved.

        Raises:
            NonFiniteError: a loss, a gradient or a weight is inf or NaN; nothing was saved of it.
        """
        seen: list[float] = []
        while self.updates < until and not stop():
            seen.append(self.step())
            advance(self.updates, seen[-1])
            if self.updates % every and self.updates != until:
                continue
            if stop():
                break
            held_out = self.validate()
            self._check_finite(held_out)
            self.history.append([self.updates, sum(seen) / len(seen), held_out])
            seen.clear()
            look(self.history[-1])
        self._check_finite(0.0)

    def _check_finite(self, held_out: float) -> None:
        """Raise where the weights, or their loss on the held-out part, are inf or NaN.

        Raises:
            NonFiniteError: they are.
        """
        bad = [n for n, p in self.model.named_parameters() if not p.isfinite().all()]
        if bad or not math.isfinite(held_out):
            what = f"{bad[0]} holds inf or NaN" if bad else f"its loss is {held_out}"
            raise NonFiniteError(f"after update {self.updates} the model broke: {what}.")

    @torch.no_grad()
    def validate(self) -> float:
        """Return the mean cross entropy on the held-out part, in nats a character."""
        self.model.eval()
        state, losses = None, []
        for _, (x, y) in zip(range(VALIDATED), self.text.segments(held_out=True), strict=False):
            logits, state = self.model(x, state)
            losses.append(float(nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())))
        self.model.train()
        return sum(losses) / len(losses)

    @torch.no_grad()
    def sample(self, length: int, prompt: str = "", temperature: float = 0.8) -> str:
        """Let the model write.

        Args:
            length: characters.
            prompt: what it reads first; a line break where that has no known character.
            temperature: below 1 it keeps to what is likely.

        Raises:
            InputValueError: temperature not above 0.
            NonFiniteError: the model's logits are inf or NaN, or too large to choose by.
        """
        if not temperature > 0:
            raise InputValueError(f"temperature must be above 0; got {temperature}.")
        generator = torch.Generator().manual_seed(self.settings.seed)
        start = self.text.encode(prompt)
        x = start if len(start) else self.text.encode("\n")
        x = x if len(x) else torch.zeros(1, dtype=torch.long)
        state, written = None, []
        self.model.eval()
        for _ in range(length):
            logits, state = self.model(x[:, None], state)
            chances = (logits[-1, 0] / temperature).softmax(0)
            if not chances.isfinite().all():
                self.model.train()
                raise NonFiniteError(
                    f"the model's logits are not finite at character {len(written)} of the "
                    "sample, so it cannot write. Train with a lower rate, or clip the gradient."
                )
            x = torch.multinomial(chances, 1, generator=generator)
            written.append(int(x))
        self.model.train()
        return self.text.decode(torch.tensor(written))

    def flow(self, rows: int = 4) -> tuple[Flow, list[str]]:
        """Take the gradient apart on the first segment held out (eq. 5), and give its characters.

        Args:
            rows: of the segment that are looked at.
        """
        x, y = next(self.text.segments(held_out=True))
        return self._flow(x, y, None, rows), [self.text.decode(c[None]) for c in x[:, 0]]

    def _flow(self, x: Tensor, y: Tensor, state: State, rows: int) -> Flow:
        x, y = x[:, :rows], y[:, :rows]
        with trace(self.model) as watched:
            logits, _ = self.model(x, state)
        losses = nn.functional.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)
        return watched.flow(losses)

    def content(self) -> dict[str, Any]:
        """Return what `checkpoint.save` writes."""
        state = self._state
        parts = [] if state is None else list(state) if isinstance(state, tuple) else [state]
        return {
            "settings": asdict(self.settings),
            "vocabulary": self.text.vocabulary,
            "text": digest(self.text),
            "updates": self.updates,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": parts,
            "history": self.history,
        }

    def restore(self, content: dict[str, Any], source: str) -> None:
        """Go on where a checkpoint was written.

        Args:
            content: what `checkpoint.load` returned.
            source: its path, for messages.

        Raises:
            CheckpointError: it is of another model or another text. Nothing was loaded.
        """
        if content["settings"] != asdict(self.settings):
            theirs, ours = content["settings"], asdict(self.settings)
            name = next(n for n in {**ours, **theirs} if theirs.get(n) != ours.get(n))
            raise CheckpointError(
                f"{source} was trained with {name} {theirs.get(name)}, not {ours.get(name)}. "
                "Nothing was loaded."
            )
        if content["text"] != digest(self.text):
            raise CheckpointError(f"{source} was trained on another text. Nothing was loaded.")
        check_fits(self.model, content["model"], source)
        optimizer = torch.optim.Adam(self.model.parameters(), self.settings.rate)
        try:
            optimizer.load_state_dict(content["optimizer"])
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"the optimizer's state in {source} is of another model. Nothing was loaded."
            ) from error
        parts = content["state"]
        self._check_state(parts, source)
        self.model.load_state_dict(content["model"])
        self.optimizer, self.updates = optimizer, content["updates"]
        self.history = content["history"]
        self._state = None if not parts else parts[0] if len(parts) == 1 else tuple(parts)

    def _check_state(self, parts: list[Any], source: str) -> None:
        settings = self.settings
        shape = (settings.layers, settings.rows, settings.hidden)
        count = 2 if settings.cell == "lstm" else 1
        fits = [isinstance(p, Tensor) and p.shape == shape and p.isfinite().all() for p in parts]
        if parts and not (len(parts) == count and all(fits)):
            raise CheckpointError(
                f"the carried state in {source} is of another model. Nothing was loaded."
            )


def digest(text: CharText) -> str:
    """Return a short fingerprint of a text, its layout and its vocabulary."""
    seen = hashlib.sha256(text.vocabulary.encode())
    for stream in (text.train, text.held_out):
        seen.update(str(tuple(stream.shape)).encode())
        seen.update(stream.numpy().tobytes())
    return seen.hexdigest()[:16]


def _detach(state: State) -> State:
    if isinstance(state, tuple):
        return state[0].detach(), state[1].detach()
    return None if state is None else state.detach()
