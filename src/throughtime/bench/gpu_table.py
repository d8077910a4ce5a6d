"""What a run on a GPU leaves: rows that are written as they come, whatever happens to one."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..files import write_whole
from .gpu_goals import goals

__all__ = ["Clock", "Table", "tf32"]

# Seconds after which a row is given up: a kernel that waits for ever cannot be stopped otherwise.
LONGEST = 150
# Set where a process goes on with what another one left.
RESUMED = "THROUGHTIME_BENCH_RESUMED"
Row = dict[str, Any]


class Table:
    """Rows, written to a JSON and a Markdown file whenever one is added."""

    def __init__(self, folder: Path, about: Row, minutes: float) -> None:
        """Begin with none; or, in a process that took over from another one, with its rows.

        Args:
            folder: where gpu.json and gpu.md are written.
            about: what stands above the rows.
            minutes: how long until it is late.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.about = folder, about | {"began": time.time()}
        self.rows: list[Row] = []
        if os.environ.pop(RESUMED, ""):
            told = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
            self.about, self.rows = told["about"], told["rows"]
        self.until = self.about["began"] + 60 * minutes

    def late(self) -> bool:
        """Check whether no other case should begin."""
        return time.time() > self.until

    def has(self, **key: Any) -> bool:
        """Check whether there is a row with these values, as JSON has them."""
        wanted = json.loads(json.dumps(key)).items()
        return any(wanted <= json.loads(json.dumps(row)).items() for row in self.rows)

    @contextmanager
    def row(self, **key: Any) -> Iterator[Row]:
        """Add a row that is filled in meanwhile; what goes wrong there is that row's failure.

        If the device is of no use afterwards, or nothing comes back from it, the program begins
        anew and goes on behind this row.
        """
        row = dict(key)
        watch = threading.Timer(LONGEST, self._give_up, (row,))
        watch.daemon = True
        watch.start()
        try:
            yield row
        except Exception as error:  # what does not compile, launch, fit or agree is a row too
            told = str(error).strip().splitlines() or [""]
            row["failed"] = f"{type(error).__name__}: {told[0]}"[:300]
        finally:
            watch.cancel()
        self.add(**row)
        if "failed" in row and not alive():
            begin_anew()

    def _give_up(self, row: Row) -> None:
        self.add(**row, failed=f"nothing came back within {LONGEST} s")
        begin_anew()

    def add(self, **row: Any) -> None:
        """Add a row, whose ``table`` says below which heading it stands."""
        self.rows.append(row)
        print("  ".join(f"{k}: {shown(v)}" for k, v in row.items()), flush=True)
        reached = goals(self.rows)
        told = {"about": self.about, "rows": self.rows, "goals": reached}
        write_whole(self.folder / "gpu.json", json.dumps(told, indent=1))
        write_whole(self.folder / "gpu.md", self.markdown(reached))

    def markdown(self, reached: list[Row]) -> str:
        """Return all rows as tables, the goals first."""
        lines = [f"{key}: {value}  " for key, value in self.about.items()]
        rows = [{"table": "Goals"} | row for row in reached] + self.rows
        for what in dict.fromkeys(row["table"] for row in rows):
            some = [row for row in rows if row["table"] == what]
            keys = list(dict.fromkeys(key for row in some for key in row if key != "table"))
            lines += ["", f"## {what}", "", f"| {' | '.join(keys)} |", "|---" * len(keys) + "|"]
            lines += [f"| {' | '.join(cell(row.get(key)) for key in keys)} |" for row in some]
        return "\n".join(lines) + "\n"


def alive() -> bool:
    """Check whether the device still answers this process: after a wrong address it does not."""
    if not torch.cuda.is_available():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def begin_anew() -> None:
    """Let a new process, whose device is sound, take over where this one stands."""
    os.environ[RESUMED] = "1"
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


def cell(value: object) -> str:
    """Return a value as it stands in a table of Markdown."""
    return shown(value).replace("|", "\\|")


class Clock:
    """Times and peak memory on a device; on a CPU the times are real and the memory is 0."""

    PATIENCE = 2.0  # seconds for the rounds of one row, and for each call that warms up

    def __init__(self, device: torch.device) -> None:
        """Take the device that calls run on."""
        self.on_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def once(self, call: Callable[[], object]) -> float:
        """Return the time of a call in seconds."""
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def least(self, call: Callable[[], object], rounds: int) -> tuple[float, float]:
        """Return the smallest time of a call in ms, and the most memory that it took in MB.

        What recordings keep counts as memory, since it is there while the step runs.
        """
        before = torch.cuda.memory_allocated() if self.on_gpu else 0
        for turn in range(4 if self.on_gpu else 0):  # compiles, records, warms up
            if self.once(call) > self.PATIENCE and turn:
                break
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        times, end = [], time.perf_counter() + self.PATIENCE
        while not times or (len(times) < rounds and time.perf_counter() < end):
            times.append(self.once(call))
        peak = torch.cuda.max_memory_allocated() - before if self.on_gpu else 0
        return 1e3 * min(times), peak / 2**20


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Let cuDNN and the products use TF32, or not; torch's own default is cuDNN's alone."""
    flags: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [flag.allow_tf32 for flag in flags]
    for flag in flags:
        flag.allow_tf32 = allowed
    try:
        yield
    finally:
        for flag, was in zip(flags, before, strict=True):
            flag.allow_tf32 = was
