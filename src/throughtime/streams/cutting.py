"""Cutting a sequence, or what arrives of one, into segments of so many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, overload

import torch
from torch import Tensor

from ..errors import InputTypeError, InputValueError, ShapeError

__all__ = ["Segments", "leaves", "segments"]


P = TypeVar("P")  # what a segment is: what the source is, or a piece of it
W = TypeVar("W", bound="Tensor | tuple[Any, ...] | Mapping[Any, Any]")


@overload
def segments(source: W, window: int | None = None, *, batch_first: bool = False) -> Segments[W]: ...
@overload
def segments(
    source: Iterable[P], window: int | None = None, *, batch_first: bool = False
) -> Segments[P]: ...
def segments(source: Any, window: int | None = None, *, batch_first: bool = False) -> Segments[Any]:
    """Cut a sequence into segments of ``window`` steps, for a loop that passes hx on by itself.

    Args:
        source: tensors (T, B, ·), alone or in a tuple or dict that is cut alike; or pieces of such
            a sequence in the order of time: a list, a generator, a data loader. Pieces are cut
            and joined; none is asked for before it is needed.
        window: steps a segment, the last one being what is left; None: pieces as they come.
        batch_first: whether the tensors are (B, T, ·).

    Returns:
        An iterator over segments, each built as the source or its pieces are.

    Raises:
        InputValueError: ``window`` is below 1.
        InputTypeError: ``window`` is no integer, or there is something else than tensors.
        ShapeError: tensors without a time axis or step, or with different numbers of steps.

    Example:
        >>> layer, hx = tt.GRU(3, 5), None
        >>> for x, y in tt.segments((torch.randn(50, 2, 3), torch.randn(50, 2, 5)), 20):
        ...     output, hx = layer(x, hx)
        ...     (output - y).pow(2).mean().backward()
        ...     hx = hx.detach()
        >>> len(x)
        10
    """
    return Segments(source, window, batch_first)


class Segments(Iterator[P]):
    """The iterator that `segments` gives.

    Attributes:
        window: steps a segment, or None.
        overlap: the last so many steps of a segment are the next one's first.
        axis: of the time.
        steps: how many were given so far, but for those that come again.
        own: how many of the last segment's steps do not come again: all of a sequence's last one.
        whole: whether all of the sequence was given at once.
        repeatable: whether it can be gone through again: not so a generator.
    """

    def __init__(
        self, source: Any, window: int | None, batch_first: bool, overlap: int = 0
    ) -> None:
        """Check what can be checked before the first segment is asked for."""
        check_window(window)
        check_overlap(overlap, window)
        self.window, self.overlap, self.axis = window, overlap, int(batch_first)
        self.whole = isinstance(source, (Tensor, tuple, Mapping))
        # An array of NumPy's would be gone through row by row.
        if not self.whole and (not isinstance(source, Iterable) or hasattr(source, "__array__")):
            raise InputTypeError(
                "the source must be tensors in a tuple or dict, or a list or generator of pieces; "
                f"got {type(source).__name__}."
            )
        self.source: Iterable[Any] = [source] if self.whole else source
        if self.whole:
            self.length(source)
        self.repeatable = not isinstance(self.source, Iterator)
        self.begin()

    def begin(self, steps: int = 0, rest: Iterable[Any] = ()) -> None:
        """Begin, leaving out what was gone through before.

        Args:
            steps: how many were; a generator is taken from where it stands.
            rest: what was taken from a generator and not yet given.
        """
        self.steps, self._skip = steps, steps if self.repeatable else 0
        self.own = 0
        self.held: list[Any] = list(rest)
        self._have = sum(self.length(piece) for piece in self.held)
        self._pieces = iter(self.source)

    def __next__(self) -> P:
        """Return the next segment."""
        # One step more says that a segment is not the last one, all of whose steps are its own.
        needed = (self.window or 1) + bool(self.overlap)
        while self._have < needed:
            try:
                piece = next(self._pieces)
            except StopIteration:
                break
            length = self.length(piece)
            left_out = min(self._skip, length)
            self._skip -= left_out
            if left_out < length:
                piece = self._cut(piece, left_out, length) if left_out else piece
                self.held.append(piece)
                self._have += length - left_out
        if not self.held:
            raise StopIteration
        wanted = self.window or self.length(self.held[0])
        taken = []
        while wanted and self.held:
            length = self.length(self.held[0])
            if length <= wanted:
                taken.append(self.held.pop(0))
            else:
                taken.append(self._cut(self.held[0], 0, wanted))
                self.held[0] = self._cut(self.held[0], wanted, length)
            wanted -= min(wanted, length)
        segment = taken[0] if len(taken) == 1 else _map(self._join, *taken)
        length = self.length(segment)
        self.own = length - self.overlap if self.held else length
        if self.own < length:
            self.held.insert(0, self._cut(segment, self.own, length))
        self._have -= self.own
        self.steps += self.own
        return segment

    def owned(self, segment: Any) -> Any:
        """Return a segment without the steps that come again."""
        return self._cut(segment, 0, self.own)

    def _cut(self, piece: Any, first: int, last: int) -> Any:
        return _map(lambda x: x.narrow(self.axis, first, last - first), piece)

    def _join(self, *parts: Tensor) -> Tensor:
        shapes = {(*p.shape[: self.axis], *p.shape[self.axis + 1 :]) for p in parts}
        if len(shapes) > 1:
            raise ShapeError(
                "pieces of one segment must have the same shape but for their steps; got "
                f"{', '.join(str(tuple(p.shape)) for p in parts)}. Keep the batch as it is, or "
                "take pieces as they come: window=None."
            )
        return torch.cat(parts, self.axis)

    def length(self, piece: Any) -> int:
        """Count the steps of a piece."""
        tensors = leaves(piece)
        for tensor in tensors:
            if tensor.dim() <= self.axis:
                axes = "(B, T, ·)" if self.axis else "(T, B, ·)"
                raise ShapeError(
                    f"what is cut into segments must be {axes}; got shape {tuple(tensor.shape)}."
                )
        lengths = sorted({tensor.shape[self.axis] for tensor in tensors})
        if len(lengths) != 1 or lengths[0] == 0:
            raise ShapeError(
                "what is cut together must have the same number of steps T >= 1; got "
                f"T={', '.join(map(str, lengths))} on axis {self.axis}."
            )
        return lengths[0]


def check_window(window: object) -> None:
    """Raise unless it is a number of steps, or None.

    Raises:
        InputTypeError: no integer.
        InputValueError: below 1.
    """
    if window is None:
        return
    if isinstance(window, bool) or not isinstance(window, int):
        raise InputTypeError(f"window must be an integer, or None; got {window!r}.")
    if window < 1:
        raise InputValueError(f"window must be at least 1 step; got {window}.")


def check_overlap(overlap: object, window: int | None) -> None:
    """Raise unless segments of ``window`` steps can have so many in common.

    Raises:
        InputTypeError: no integer.
        InputValueError: below 0, not below ``window``, or no window at all.
    """
    if isinstance(overlap, bool) or not isinstance(overlap, int):
        raise InputTypeError(f"overlap must be an integer; got {overlap!r}.")
    if overlap < 0 or (overlap and (window is None or overlap >= window)):
        raise InputValueError(
            "overlap must be at least 0 and below window, of whose steps it is a part; got "
            f"overlap={overlap}, window={window}."
        )


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors in a tensor, tuple, list or dict.

    Raises:
        InputTypeError: there is something else in it, or nothing.
    """
    if isinstance(tree, Tensor):
        return [tree]
    # A PackedSequence is a tuple too, whose data have no time axis.
    packed = isinstance(tree, torch.nn.utils.rnn.PackedSequence)
    nested = isinstance(tree, (tuple, list, Mapping)) and not packed
    if not nested or not tree:
        raise InputTypeError(
            "what is cut into segments must be a tensor, or a tuple, list or dict of them; got "
            f"{type(tree).__name__}{' with nothing in it' if nested else ''}."
        )
    parts = tree.values() if isinstance(tree, Mapping) else tree
    return [tensor for part in parts for tensor in leaves(part)]


def _map(function: Callable[..., Tensor], *trees: Any) -> Any:
    """Return a tree like the first, of what the function makes of the tensors at each place."""
    first = trees[0]
    if isinstance(first, Tensor) and all(isinstance(tree, Tensor) for tree in trees):
        return function(*trees)
    alike = all(type(tree) is type(first) and len(tree) == len(first) for tree in trees)
    if alike and isinstance(first, Mapping) and all(tree.keys() == first.keys() for tree in trees):
        return {key: _map(function, *(tree[key] for tree in trees)) for key in first}
    if alike and isinstance(first, (tuple, list)):
        parts = [_map(function, *part) for part in zip(*trees, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)  # pyright: ignore
    raise InputTypeError(
        "pieces of one segment must be built alike; got "
        f"{', '.join(type(tree).__name__ for tree in trees)}."
    )
