"""Checkpoints: written whole or not at all, and loaded whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, FileError

__all__ = ["check_fits", "load", "save"]

FORMAT = "throughtime character model 1"


def save(content: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a checkpoint: to a file beside it, which then takes its place.

    Whoever reads ``path``, also after a crash in between, finds the old checkpoint or the new one.

    Args:
        content: tensors, numbers, strings, and dicts and lists of them.
        path: where it goes; its folder must exist.

    Raises:
        FileError: it cannot be written; what was there before is still there.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise FileError(f"cannot write the checkpoint {path}: {error}.") from error
    return path


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
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage made of the file
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
