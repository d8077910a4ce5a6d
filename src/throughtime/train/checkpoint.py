"""Checkpoints: written whole or not at all, and loaded whole or not at all."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, FileError
from ..files import write_whole

__all__ = ["check_fits", "load", "save"]

FORMAT = "throughtime character model 1"


def save(content: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint: whoever reads ``path``, also after a crash, finds the old one or the new.

    Args:
        content: tensors, numbers, strings, and dicts and lists of them.
        path: where it goes; its folder must exist.

    Raises:
        FileError: it cannot be written; what was there before is still there.
    """
    packed = io.BytesIO()
    torch.save({"format": FORMAT, **content}, packed)
    with packed.getbuffer() as data:
        return write_whole(path, data)


def load(path: str | os.PathLike[str], keys: Mapping[str, type]) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only (``weights_only``).

    Args:
        path: of the file.
        keys: what it must hold, with types.

    Raises:
        FileError: there is no such file, or it cannot be read.
        CheckpointError: it is truncated, damaged, or something else.
    """
    path = Path(path)
    if not path.exists():
        raise FileError(f"there is no checkpoint {path}; start without --resume.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read the checkpoint {path}: {error.strerror or error}.") from error
    try:
        content = _unpack(data)
    except Exception as error:  # torch and zipfile raise whatever the damage made of the file
        raise CheckpointError(
            f"{path} is no checkpoint that can be read: it is truncated, damaged, or of another "
            "program. Nothing was loaded; start anew, or restore the file."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is not a checkpoint of `throughtime train`. Nothing was loaded."
        )
    for key, kind in keys.items():
        if not isinstance(content.get(key), kind):
            raise CheckpointError(f"{path} lacks {key!r}: it is damaged. Nothing was loaded.")
    return content


def _unpack(data: bytes) -> Any:
    """Return what a file holds; torch alone compares no checksum.

    Raises:
        ValueError: a checksum is wrong.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        damaged = parts.testzip()
    if damaged:
        raise ValueError(f"the checksum of {damaged} is wrong")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def check_fits(module: nn.Module, weights: Mapping[str, Any], source: str) -> None:
    """Raise unless ``weights`` are all of the module's, and only those, in shape and finite.

    Args:
        module: the model.
        weights: a state_dict.
        source: where they come from, for the message.

    Raises:
        CheckpointError: they are of another model, or not finite. The module is as it was.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    if missing or extra:
        what = f"it lacks {missing[0]!r}" if missing else f"it has {extra[0]!r}"
        raise CheckpointError(f"{source} is of another model: {what}. Nothing was loaded.")
    for name, tensor in own.items():
        value = weights[name]
        if not isinstance(value, Tensor) or value.shape != tensor.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{source} is of another model: {name} has shape {tuple(tensor.shape)} here and "
                f"{got} there. Nothing was loaded."
            )
        if not bool(value.isfinite().all()):
            raise CheckpointError(
                f"{source} holds inf or NaN in {name}; it cannot be gone on from. Nothing was "
                "loaded."
            )
