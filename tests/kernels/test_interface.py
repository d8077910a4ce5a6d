"""Python's copies of the structs in native/interface.h: the same fields, in order and by type.

The library compares its version and the struct's size when it is loaded. Neither would notice two
pointers that changed places.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest
import torch

from throughtime.kernels import available
from throughtime.kernels.cpu import library as native
from throughtime.kernels.cpu.engine import CELLS

HEADER = Path(__file__).parents[2] / "native" / "interface.h"
STRUCTS = {"tt_sweep": native.Sweep, "tt_facts": native.CellFacts}
TYPES = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "double": ctypes.c_double,
    "float": ctypes.c_float,
}


def source() -> str:
    """Return the header without its comments."""
    text = HEADER.read_text(encoding="utf-8")
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def defines(text: str) -> dict[str, int]:
    """Return the integer constants that a header defines."""
    return {name: int(n) for name, n in re.findall(r"^#define (\w+) +(\d+)\s*$", text, re.M)}


def fields(text: str, struct: str) -> list[tuple[str, type]]:
    """Return a C struct's fields in order, each with its ctypes type."""
    constants, found = defines(text), []
    body = re.search(rf"typedef struct {struct} \{{(.*?)\}} {struct};", text, re.DOTALL)
    assert body is not None, f"{struct} is not in {HEADER.name}"
    for declaration in filter(None, map(str.strip, body[1].split(";"))):
        kind = re.match(r"(?:const\s+)?(\w+)\s*", declaration)
        assert kind is not None, declaration
        for declarator in declaration[kind.end() :].split(","):
            parts = re.fullmatch(r"\s*(\*?)\s*(\w+)\s*(?:\[(\w+)\])?\s*", declarator)
            assert parts is not None, declaration
            star, name, length = parts.groups()
            type_ = ctypes.c_void_p if star else TYPES[kind[1]]
            if length is not None:
                type_ = type_ * (int(length) if length.isdigit() else constants[length])
            found.append((name, type_))
    return found


@pytest.mark.parametrize("struct", STRUCTS)
def test_python_has_the_fields_of_the_header(struct):
    """A field that is missing, out of place or of another type shows as the first difference."""
    assert list(STRUCTS[struct]._fields_) == fields(source(), struct)


def test_every_struct_of_the_header_is_compared():
    assert set(re.findall(r"typedef struct (\w+) \{", source())) == set(STRUCTS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("*bias_ih, *bias_hh;", "*bias_hh, *bias_ih;"),  # two pointers trade places
        ("int64_t x_stride_t, x_stride_b;", "int64_t x_stride_b, x_stride_t;"),
        ("int32_t grads;", "int64_t grads;"),
        ("double eps;", "int64_t eps;"),
        ("void *deltas;", ""),
        ("void *kept[TT_KEPT];", "void *kept[4];"),
    ],
)
def test_a_changed_header_is_noticed(before, after):
    """The comparison above must be able to fail, also where the struct's size stays the same."""
    text = source()
    assert before in text
    assert list(native.Sweep._fields_) != fields(text.replace(before, after), "tt_sweep")


def test_the_constants_are_the_same():
    assert defines(source())["TT_KEPT"] == native.KEPT
    api = (HEADER.parent / "api.cpp").read_text(encoding="utf-8")
    assert defines(api)["TT_VERSION"] == native.VERSION


def test_the_readme_names_what_there_is():
    """Every name that native/README.md shows as code is in the code, and every file is listed."""
    text = (HEADER.parent / "README.md").read_text(encoding="utf-8")
    files = [path for path in HEADER.parent.rglob("*") if path.suffix in {".h", ".cpp"}]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    names = set(re.findall(r"`(?:\w+::)?(\w+)`", text))
    assert len(names) > 40
    assert {name for name in names if not re.search(rf"\b{name}\b", code)} == set()
    for path in files:
        cell = path.name.startswith("cell_")
        assert cell or path.parent != HEADER.parent or f"`{path.name}`" in text, path.name


def test_each_number_belongs_to_its_cell():
    body = re.search(r"enum tt_cell \{(.*?)\}", source(), re.DOTALL)
    assert body is not None
    numbers = {name: int(n) for name, n in re.findall(r"TT_(\w+) = (\d+)", body[1])}
    assert len(numbers) > 3
    named = {name.replace("_", ""): number for name, number in numbers.items()}
    assert named == {kind.__name__.upper(): number for kind, number in CELLS.items()}


@pytest.mark.skipif(not available().native, reason="no kernels")
def test_the_facts_are_those_of_the_cells():
    """What the library says of each cell's arrays is what the cell in torch has."""
    H = 5
    for kind, number in CELLS.items():
        cell, facts = kind(3, H), native.cell_facts(number)
        assert (facts.gates * H, facts.states * H) == (cell.preact_size, cell.state_size)
        a = cell.drive(torch.ones(1, 2, 3))
        _, saved = cell.step(a[0], torch.zeros(2, cell.state_size))
        both = zip(facts.kept_units, facts.kept_more, strict=True)
        told = [units * H + more for units, more in both][: facts.kept]
        assert told == [part.shape[1] for part in saved[: facts.kept]]
        assert told == list(cell.kept_widths())
        delta = torch.ones(1, 2, cell.state_size)
        assert cell.vjp(saved, delta)[1].shape[-1] == facts.adjoint * H


@pytest.mark.skipif(not available().native, reason="no kernels")
def test_the_library_knows_no_further_cell():
    handle = native.library().handle
    assert handle is not None
    count = len(CELLS)
    assert [bool(handle.tt_cell_facts(n)) for n in range(-1, count + 1)] == [
        False, *[True] * count, False,
    ]  # fmt: skip
