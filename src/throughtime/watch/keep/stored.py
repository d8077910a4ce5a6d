"""A bundle as a folder without any pickle.

``bundle.json`` says what is there; ``weights``, ``random``, ``batch`` and ``call.safetensors``
hold tensors.
docs/guides/where-did-it-break.md shows one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch as tensor_files
import torch
from torch import Tensor

from ...errors import BundleError, FileError
from ...flow.export import plain
from .bundle import Bundle
from .folders import writing_folder
from .nested import Nesting
from .randomness import Randomness
from .settings import versions

__all__ = ["VERSION", "read_bundle", "write_bundle"]

VERSION = 1
FORMAT = "throughtime.bundle"
INDEX = "bundle.json"
# A number that one process wrote: no more than this is read of an index.
LARGEST_INDEX = 64 * 2**20


def write_bundle(bundle: Bundle, path: str | os.PathLike[str]) -> Path:
    """Write a bundle, whole or not at all.

    Args:
        bundle: what to write.
        path: of the folder, which must not be there yet; the folder around it is made.

    Returns:
        The path.

    Raises:
        FileError: it cannot be written.
        BundleError: a tensor of a kind that no file of this format holds.

    Example:
        >>> import tempfile
        >>> bundle = Bundle(7, {"w": torch.ones(2)}, Randomness.now())
        >>> path = write_bundle(bundle, tempfile.mkdtemp() + "/step-7")
        >>> sorted(file.name for file in path.iterdir())
        ['bundle.json', 'random.safetensors', 'weights.safetensors']
        >>> read_bundle(path).weights["w"]
        tensor([1., 1.])
    """
    path = Path(path)
    weights, tied = _untied(bundle.weights)
    stored = {
        "weights.safetensors": weights,
        "random.safetensors": bundle.randomness.to_tensors(),
        **{
            f"{name}.safetensors": {str(i): tensor for i, tensor in enumerate(nesting.tensors)}
            for name, nesting in bundle.nestings.items()
        },
    }
    with writing_folder(path) as part:
        files = {name: _store(part / name, tensors) for name, tensors in stored.items()}
        data = {
            "format": FORMAT,
            "version": VERSION,
            "step": bundle.step,
            "versions": versions(),
            "tied": tied,
            "plans": {name: nesting.plan for name, nesting in bundle.nestings.items()},
            "files": files,
            **plain(dict(bundle.facts)),
        }
        text = json.dumps({**data, "sha256": _digest_of(data)}, ensure_ascii=False, indent=1)
        (part / INDEX).write_text(text, encoding="utf-8")
    return path


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle; nothing in it is executed.

    Args:
        path: of the folder.

    Returns:
        The bundle, its tensors on the CPU.

    Raises:
        FileError: there is none, or it cannot be read.
        BundleError: it was cut or changed, or is of another version or program.
    """
    path = Path(path)
    data = _index(path)
    held = {name: _take(path, name, said) for name, said in data["files"].items()}
    try:
        weights = held["weights.safetensors"]
        weights |= {name: weights[first] for name, first in data["tied"].items()}
        nestings = {
            name: Nesting(plan, _in_order(held[f"{name}.safetensors"]))
            for name, plan in data["plans"].items()
        }
        randomness = Randomness.from_tensors(held["random.safetensors"])
    except (KeyError, ValueError, TypeError) as error:
        raise BundleError(f"{path} lacks {error}: it is damaged; nothing was loaded.") from error
    known = {"format", "version", "step", "tied", "plans", "files"}
    facts = {name: value for name, value in data.items() if name not in known}
    return Bundle(data["step"], weights, randomness, nestings, facts)


def _in_order(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    return [tensors[str(number)] for number in range(len(tensors))]


def _index(path: Path) -> dict[str, Any]:
    """Read ``bundle.json`` and check that it is whole."""
    file = path / INDEX
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST_INDEX)
    except (FileNotFoundError, NotADirectoryError):
        raise FileError(f"there is no bundle {path}: it must be a folder with {INDEX}.") from None
    except OSError as error:
        raise FileError(f"cannot read {file}: {error.strerror or error}.") from error
    damaged = f"{file} was cut or changed; nothing was loaded."
    try:
        data = json.loads(content)
        digest = data.pop("sha256")
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise BundleError(damaged) from error
    if data.get("format") != FORMAT:
        raise BundleError(f"{path} is no bundle of throughtime; nothing was loaded.")
    if data.get("version") != VERSION:
        raise BundleError(
            f"{path} is a bundle of version {data.get('version')}, and this throughtime reads "
            f"version {VERSION}; replay it with throughtime "
            f"{data.get('versions', {}).get('throughtime', 'of that time')}."
        )
    if digest != _digest_of(data):
        raise BundleError(damaged)
    return data


def _take(path: Path, name: str, said: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read one file of tensors after a look at its size and its hash."""
    file = path / Path(name).name
    try:
        content = file.read_bytes() if file.stat().st_size == said["bytes"] else b""
    except OSError as error:
        raise BundleError(
            f"{file} is missing ({error.strerror or error}); nothing was loaded."
        ) from error
    if hashlib.sha256(content).hexdigest() != said["sha256"]:
        raise BundleError(f"{file} was cut or changed; nothing was loaded.")
    try:
        tensors = tensor_files.load(content)
    except Exception as error:  # safetensors has an error of its own
        raise BundleError(f"{file} holds no tensors: {error}; nothing was loaded.") from error
    as_complex = set(said["complex"])
    return {n: torch.view_as_complex(t) if n in as_complex else t for n, t in tensors.items()}


def _store(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write one file of tensors and return its size and its hash."""
    as_complex = [name for name, tensor in tensors.items() if tensor.is_complex()]
    held = {name: _plain(tensor.detach()) for name, tensor in tensors.items()}
    try:
        content = tensor_files.save(held)
    except (KeyError, ValueError, RuntimeError) as error:
        raise BundleError(f"{file.name} cannot hold these tensors: {error}.") from error
    file.write_bytes(content)
    return {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "complex": as_complex,
    }


def _plain(tensor: Tensor) -> Tensor:
    """Return a tensor of real numbers on the CPU that shares its memory with no other."""
    tensor = tensor.resolve_conj().resolve_neg()
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return real.cpu().clone(memory_format=torch.contiguous_format)


def _untied(weights: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return each tensor once, and the further names of those that have several."""
    first: dict[int, str] = {}
    tied = {}
    for name, tensor in weights.items():
        if first.setdefault(id(tensor), name) != name:
            tied[name] = first[id(tensor)]
    return {name: weights[name] for name in first.values()}, tied


def _digest_of(data: Mapping[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
