"""The axis letters of this package, and the one function that checks a shape against them.

===  =======================================  ===  ==========================================
 T   time steps                                H   hidden units
 B   batch rows                                S   state size (H; 2H for the LSTM)
 I   input features                            A   pre-activation size (H, 4H, 3H)
 V   losses carried at once
===  =======================================  ===  ==========================================
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from torch import Tensor

from .errors import DeviceError, DtypeError, InputTypeError, InputValueError, ShapeError

__all__ = ["check_lengths", "check_shape", "check_sizes"]


def check_shape(
    name: str,
    tensor: Tensor,
    axes: str,
    sizes: dict[str, int] | None = None,
    *,
    like: Tensor | None = None,
) -> None:
    """Raise unless ``tensor`` has the axes and sizes named, and the dtype and device of ``like``.

    Args:
        name: what the caller calls the tensor, for the message.
        tensor: the tensor to look at.
        axes: axis letters in order, separated by spaces: ``"T B I"``.
        sizes: known sizes by letter; a letter that is absent may have any size.
        like: a tensor (a weight, usually) whose dtype and device must be met.

    Raises:
        InputTypeError: ``tensor`` is no tensor.
        ShapeError: another rank or size.
        DtypeError: another dtype than ``like``.
        DeviceError: another device than ``like``.

    Example:
        >>> check_shape("input", torch.zeros(3, 2, 5), "T B I", {"I": 5})
    """
    if not isinstance(tensor, Tensor):
        raise InputTypeError(f"{name} must be a tensor ({axes}); got {type(tensor).__name__}.")
    letters, got = axes.split(), tensor.shape
    if len(got) != len(letters):
        raise ShapeError(
            f"{name} must have {len(letters)} axes ({_wanted(letters, sizes)}); got {len(got)}: "
            f"shape {tuple(got)}."
        )
    if sizes:
        for letter, size in zip(letters, got, strict=True):
            if sizes.get(letter, size) != size:
                raise ShapeError(
                    f"{name} must have shape ({_wanted(letters, sizes)}); got {tuple(got)}: "
                    f"{letter} is {size}, not {sizes[letter]}."
                )
    if like is not None:
        if tensor.dtype != like.dtype:
            raise DtypeError(
                f"{name} has dtype {tensor.dtype} but the weights are {like.dtype}; "
                f"convert one with .to({like.dtype})."
            )
        if tensor.device != like.device:
            raise DeviceError(
                f"{name} is on {tensor.device} but the weights are on {like.device}; "
                f"move one with .to('{like.device}')."
            )


def _wanted(letters: list[str], sizes: dict[str, int] | None) -> str:
    return ", ".join(f"{c}={sizes[c]}" if sizes and c in sizes else c for c in letters)


def _values(lengths: Tensor | Sequence[int]) -> list[int]:
    # Not of the tensor made of a list: torch 2.8 cannot look into one made inside torch.func.jvp.
    if not isinstance(lengths, Tensor):
        return list(lengths)
    try:
        return lengths.tolist()
    except RuntimeError:  # torch 2.8 takes no whole tensor's values there, but single ones
        return [int(steps) for steps in lengths]


def check_lengths(lengths: Tensor | Sequence[int], B: int, T: int | None) -> Tensor:
    """Return the number of steps of each row as a tensor (B,), or raise.

    Args:
        lengths: B integers.
        B: rows.
        T: steps; None where nobody knows how many there will be.

    Raises:
        InputTypeError: they are no tensor and cannot be made one.
        DtypeError: they are no integers.
        DeviceError: they are on the meta device.
        ShapeError: there are not B of them.
        InputValueError: one is outside 1…T.
    """
    try:
        steps = lengths if isinstance(lengths, Tensor) else torch.as_tensor(lengths, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(
            f"lengths must be B={B} integers; got {type(lengths).__name__}: {error}."
        ) from error
    check_shape("lengths", steps, "B", {"B": B})
    if steps.is_floating_point() or steps.is_complex() or steps.dtype == torch.bool:
        raise DtypeError(f"lengths must be integers; got {steps.dtype}.")
    if steps.is_meta:
        raise DeviceError("lengths must have values; got a tensor on the meta device.")
    if torch.compiler.is_compiling():  # a compiler cannot look at values
        return steps
    values = _values(lengths) or [1]
    least, most = min(values), max(values)
    if least < 1 or (T is not None and most > T):
        bound = "1…T" if T is None else f"1…T={T}"
        raise InputValueError(
            f"lengths must lie in {bound}; got {least} to {most}. Drop empty rows, or cut longer "
            "ones."
        )
    return steps


def check_sizes(**sizes: int) -> None:
    """Raise unless all sizes are integers of at least 1.

    Args:
        sizes: by the names that the caller gave them.

    Raises:
        InputTypeError: one is no integer.
        InputValueError: one is below 1.
    """
    names, got = " and ".join(sizes), ", ".join(map(repr, sizes.values()))
    if any(not isinstance(size, Integral) or isinstance(size, bool) for size in sizes.values()):
        raise InputTypeError(f"{names} must be integers of at least 1; got {got}.")
    for name, size in sizes.items():
        if size < 1:
            raise InputValueError(f"{name} must be at least 1; got {size}.")
