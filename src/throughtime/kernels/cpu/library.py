"""The compiled library: found, loaded, given torch's threads, and called through ctypes.

The library has a plain C interface (native/interface.h) and no OpenMP of its own. It runs on the
pool of the OpenMP library that torch has loaded, so that there is never a second pool.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ...errors import InputValueError, ThroughTimeError

__all__ = [
    "CellFacts",
    "Library",
    "Sweep",
    "address",
    "cell_facts",
    "empty",
    "isa",
    "isas",
    "library",
    "pointer",
    "run_sweep",
    "set_isa",
]

VERSION = 10
_PATH = Path(__file__).with_name("_native.so")
_LARGE = 4 << 20
_int32, _int64, _pointer = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
_double = ctypes.c_double
KEPT = 5  # TT_KEPT


class CellFacts(ctypes.Structure):
    """The number and widths of a cell's arrays; native/interface.h explains the fields."""

    _fields_ = (
        *((name, _int32) for name in ("gates", "states", "shared", "adjoint")),
        *((name, _int32) for name in ("sums", "whole_rows", "kept")),
        ("kept_units", _int32 * KEPT),
        ("kept_more", _int32 * KEPT),
    )


class Sweep(ctypes.Structure):
    """The arguments of both sweeps; native/interface.h explains the fields."""

    _fields_ = (
        *((name, _int32) for name in ("cell", "dtype", "nonlinearity", "threads", "members")),
        ("keep", _int32),
        *((name, _int64) for name in ("T", "B", "I", "H", "V")),
        *((name, _pointer) for name in ("weight_hh", "weight_ih", "bias_ih", "bias_hh")),
        *((name, _pointer) for name in ("gain_ih", "gain_hh", "gain_c", "bias_c")),
        ("eps", _double),
        *((name, _pointer) for name in ("first", "last", "reset", "x")),
        *((name, _int64) for name in ("x_stride_t", "x_stride_b")),
        ("kept", _pointer * KEPT),
        *((name, _pointer) for name in ("s", "s_0", "h_T", "c_T")),
        ("final_stride_b", _int64),
        *((name, _pointer) for name in ("h", "g")),
        *((name, _int64) for name in ("g_stride_v", "g_stride_t", "g_stride_b", "G")),
        *((name, _pointer) for name in ("enters", "floors", "delta_T")),
        *((name, _int32) for name in ("g_sparse", "grads")),
        *((name, _pointer) for name in ("delta_0", "grad_x")),
        *((name, _pointer) for name in ("grad_weight_ih", "grad_weight_hh")),
        *((name, _pointer) for name in ("grad_bias_ih", "grad_bias_hh")),
        *((name, _pointer) for name in ("grad_gain_ih", "grad_gain_hh")),
        *((name, _pointer) for name in ("grad_gain_c", "grad_bias_c")),
        ("adjoint_size", _int64),
        *((name, _pointer) for name in ("adjoints", "norms", "deltas")),
    )


class Library(NamedTuple):
    """The library, or why there is none.

    Attributes:
        handle: the loaded library, or None.
        reason: why there is none; empty if there is one.
        pool: the OpenMP library whose threads it uses; empty: it runs on the calling thread only.
    """

    handle: ctypes.CDLL | None
    reason: str
    pool: str


@cache
def library() -> Library:
    """Load the library once and hand it torch's thread pool."""
    if not _PATH.exists():
        return Library(
            None,
            "the compiled kernels are not part of this installation: there was no C++ compiler "
            "when it was built, or it is the wheel for any machine (THROUGHTIME_PURE). Install g++ "
            "or clang++, then run "
            "'pip install --force-reinstall --no-deps --no-binary throughtime throughtime'.",
            "",
        )
    try:
        handle = ctypes.CDLL(str(_PATH))
    except OSError as error:
        return Library(None, f"{_PATH.name} cannot be loaded: {error}.", "")
    if not _is_ours(handle):
        return Library(
            None,
            f"{_PATH.name} is of another version than this package; install the package again.",
            "",
        )
    for name in ("tt_isa", "tt_isas"):
        getattr(handle, name).restype = ctypes.c_char_p
    handle.tt_cell_facts.restype = ctypes.POINTER(CellFacts)
    handle.tt_advise.argtypes = (_pointer, _int64)
    handle.tt_advise.restype = handle.tt_set_pool.restype = None
    handle.tt_forward.argtypes = handle.tt_backward.argtypes = (ctypes.POINTER(Sweep),)
    return Library(handle, "", _lend_pool(handle))


def _is_ours(handle: ctypes.CDLL) -> bool:
    """Check whether the library is of this package's version; an old one may not tell."""
    if not hasattr(handle, "tt_version") or handle.tt_version() != VERSION:
        return False
    handle.tt_sweep_size.restype = _int64
    return handle.tt_sweep_size() == ctypes.sizeof(Sweep)


def _lend_pool(handle: ctypes.CDLL) -> str:
    """Lend the library the threads of torch's OpenMP library; return its path, or ""."""
    for path in _loaded("omp"):
        try:
            openmp = ctypes.CDLL(path)
            names = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
            entries = [ctypes.cast(getattr(openmp, name), _pointer) for name in names]
        except (OSError, AttributeError):
            continue
        handle.tt_set_pool(*entries)
        return path
    return ""


def _loaded(part: str) -> list[str]:
    """Return the shared libraries in this process whose name holds ``part``, torch's own first."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[5] for line in lines if line.count("/") and ".so" in line}
    near = str(Path(torch.__file__).parent.parent)
    found = (path for path in paths if part in Path(path).name and Path(path).exists())
    return sorted(found, key=lambda path: (not path.startswith(near), path))


@cache
def cell_facts(number: int) -> CellFacts:
    """Return what the library says of the cell of this number in native/interface.h."""
    handle = library().handle
    assert handle is not None
    return handle.tt_cell_facts(number).contents


def isas() -> tuple[str, ...]:
    """Return the instruction sets that the library has and this machine runs, best first."""
    handle = library().handle
    return () if handle is None else tuple(handle.tt_isas().decode().split())


@cache
def isa() -> str:
    """Return the instruction set that sweeps run on; empty without a library."""
    handle = library().handle
    return "" if handle is None else handle.tt_isa().decode()


def set_isa(name: str) -> None:
    """Run on another instruction set, for tests and comparisons.

    Raises:
        InputValueError: the library or the machine does not have it.
    """
    handle = library().handle
    if handle is None or handle.tt_set_isa(name.encode()):
        raise InputValueError(f"There is no instruction set {name!r} here; got {isas()}.")
    isa.cache_clear()


def run_sweep(sweep: Sweep, *, back: bool) -> None:
    """Run one sweep; the caller has checked every size, dtype and stride.

    Raises:
        ThroughTimeError: there is no memory to work in.
    """
    handle = library().handle
    assert handle is not None
    sweep.threads = torch.get_num_threads()
    status = (handle.tt_backward if back else handle.tt_forward)(ctypes.byref(sweep))
    if status:
        raise ThroughTimeError(
            f"The native sweep found no memory to work in (H={sweep.H}, "
            f"V·B={sweep.V * sweep.B}); use fewer losses at once."
        )


def empty(like: Tensor, *shape: int) -> Tensor:
    """Return a tensor to write for the first time, on large pages if it is large.

    Each fresh page costs a fault: 0.4 µs per KB as measured, a quarter of that with 2 MB pages.
    """
    tensor = like.new_empty(shape)
    if tensor.nbytes >= _LARGE and (found := library().handle) is not None:
        found.tt_advise(tensor.data_ptr(), tensor.nbytes)
    return tensor


def address(tensor: Tensor) -> int:
    """Return the address of a tensor's values in the CPU's memory; 0 if they are not there."""
    if not tensor.is_cpu or tensor.layout is not torch.strided or tensor.is_neg():
        return 0
    try:
        return tensor.data_ptr()
    except RuntimeError:  # vmap or the compiler hides them
        return 0


def pointer(tensor: Tensor | None) -> int | None:
    """Return a tensor's address, or None."""
    return None if tensor is None else tensor.data_ptr()
