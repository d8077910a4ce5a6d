"""Compile Triton kernels for sm_90 and print what they take, as JSON; no GPU is needed.

Run: python compiled_for_sm90.py '["lstm", 128, "bf16", "forward_whole", "ragged"]' …
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from throughtime.kernels.gpu import pointwise, resident, stepwise, whole
from throughtime.kernels.gpu.meeting import PATIENCE
from throughtime.kernels.gpu.tiling import COLUMNS, GATES, INNER, RESIDENT_WARPS, ROWS, plan_for

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
# What a sweep is asked for: all that a training step may bring; the least; many losses at once.
ASKED = {
    "ragged": ("KEEP", "RAGGED", "RESETS", "BEGUN", "ADJOINTS"),
    "plain": ("ADJOINTS",),
    "flow": ("KEEP", "BOUNDED", "LONE", "DELTAS", "NORMS", "SHOWN"),
}
SWITCHES = {name for names in ASKED.values() for name in names}
FILES = {"whole": whole, "step": stepwise, "resident": resident}
FLOATS, COUNTERS = {"carry", "now"}, {"counters"}
SCALARS = {"T", "B", "V", "H", "G", "g_v", "g_t", "g_b", "t", "begin"}
BOUNDS = ("enters", "floors")
BYTES, WHOLE_NUMBERS = {"active", "reset"}, set(BOUNDS)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def constants(cell: str, H: int, dtype: str, asked_for: str, kernel: str) -> dict[str, object]:
    """Return what a kernel is compiled for."""
    plan = plan_for(cell, H, DTYPES[dtype])
    asked: dict[str, object] = {name: name in ASKED[asked_for] for name in SWITCHES}
    asked |= {
        "INTERPRETED": False,
        "CELL": cell,
        "GATES": GATES.get(cell, 1),
        "PARTS": 1 + (cell == "lstm"),
    }
    asked |= {"WIDE": plan.wide, "ROWS": ROWS, "COLUMNS": COLUMNS, "INNER": INNER}
    if kernel == "resident":
        asked |= {"COLUMNS": plan.columns, "SPREAD": plan.spread, "PATIENCE": PATIENCE}
    return asked | {"BIASED": cell == "gru", "PRECISION": "tf32x3"}


def constants_of_a_step_back(cell: str, H: int, dtype: str, asked_for: str) -> dict[str, object]:
    """Return what the kernel over a cell's factors is compiled for."""
    two = cell == "lstm"
    asked = {"ragged": ("RAGGED", "RESETS", "BEGUN", "ADJOINTS"), "plain": ("ADJOINTS",),
             "flow": ("BOUNDED", "LONE", "DELTAS", "NORMS")}[asked_for]  # fmt: skip
    switches = {"RAGGED", "RESETS", "BEGUN", "BOUNDED", "LONE", "ADJOINTS", "DELTAS", "NORMS"}
    return {name: name in asked for name in switches} | {
        "GATES": GATES.get(cell, 1), "PARTS": 1 + two,
        "BLOCK": min(1024, 1 << (H - 1).bit_length()),
        "WIDE": dtype == "fp64", "PRODUCT": True, "CARRY": cell != "tanh",
        "HIDDEN": cell == "gru", "STOPS": cell == "relu",
    }  # fmt: skip


def kind(name: str, known: dict[str, object], dtype: str) -> str:
    """Return the type of an argument, as Triton writes it."""
    if name in known:
        return "constexpr"
    if name in SCALARS:
        return "i32"
    return "*u8" if name in BYTES else "*i64" if name in WHOLE_NUMBERS else f"*{dtype}"


def compiled(cell: str, H: int, dtype: str, name: str, asked_for: str) -> dict[str, object]:
    """Compile one kernel and return its registers, stack, shared memory and tensor-core calls."""
    if name == "step_back":
        kernel, known = pointwise.step_back, constants_of_a_step_back(cell, H, dtype, asked_for)
    else:
        kernel = getattr(FILES[name.split("_")[1]], name)
        known = constants(cell, H, dtype, asked_for, name.split("_")[1])
    names = [param.name for param in kernel.params]
    signature = {n: kind(n, known, dtype) for n in names}
    if name == "step_back":
        signature["kept"] = "*fp64" if dtype == "fp64" else "*fp32"
        signature |= {n: "*i32" for n in BOUNDS}
    else:
        floats = FLOATS | ({"norms"} if name.endswith("resident") else set())
        signature = {n: "*fp32" if n in floats else k for n, k in signature.items()}
        signature |= {n: "*i32" for n in COUNTERS & set(signature)}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, n in enumerate(names)
        if signature[n].startswith("*") or (n == "H" and H % 16 == 0)
    }
    source = ASTSource(
        kernel, signature, {(i,): known[n] for i, n in enumerate(names) if n in known}, aligned
    )
    warps = 4 if name == "step_back" else plan_for(cell, H, DTYPES[dtype]).warps
    options = {"num_warps": warps, "enable_fp_fusion": True}
    if name.endswith("resident"):
        options |= {"launch_cooperative_grid": True}
        options |= {"num_stages": 1, "num_warps": RESIDENT_WARPS}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    ptx = made.asm["ptx"]
    return {
        "shared": made.metadata.shared,
        "wgmma": ptx.count("wgmma.mma_async"),
        "mma": ptx.count("mma.sync"),
        # With a call in the kernel ptxas waits after every product of the tensor cores (C7510).
        "calls": ptx.count("call.uni"),
        "meets": meets(ptx) if name.endswith("resident") else None,
        **resources(made.asm["cubin"]),
    }


def meets(ptx: str) -> list[str]:
    """Return what a program does where it meets others, in order, from one step's loop.

    Stores and loads of the numbers, the barrier of its own threads, its arrival and its look at who
    has come; what comes in a row is named once.
    """
    named = {
        "st.global": "store", "bar.sync": "threads", "atom.global.gpu.release": "arrive",
        "atom.global.release": "arrive", "ld.global.gpu.acquire": "look",
        "ld.global.acquire": "look", "atom.global.gpu.acquire": "look", "ld.global.cg": "state",
        "trap;": "trap",
    }  # fmt: skip
    found: list[str] = []
    for line in ptx.splitlines():
        for sign, name in named.items():
            if sign in line and not line.lstrip().startswith(("//", ".")) and found[-1:] != [name]:
                found.append(name)
    return found


def resources(cubin: bytes) -> dict[str, int]:
    """Return registers and bytes of stack; a spilt register stands on the stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = [str(TOOLS / "cuobjdump"), "-res-usage", file.name]
        told = subprocess.run(tool, capture_output=True, text=True, check=True).stdout
    found = {key.lower(): int(n) for key, n in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    return {"registers": found["reg"], "stack": found["stack"] + found["local"]}


if __name__ == "__main__":
    for given in sys.argv[1:]:
        print(json.dumps([*json.loads(given), compiled(*json.loads(given))]), flush=True)
