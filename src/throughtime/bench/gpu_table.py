"""What a run on a GPU leaves: rows that are written as they come, times and peak memory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..files import write_whole

__all__ = ["Clock", "Table", "tf32"]


class Table:
    """Rows, written to a JSON and a Markdown file whenever one is added."""

    def __init__(self, folder: Path, about: dict[str, Any], minutes: float) -> None:
        """Begin with none.

        Args:
            folder: where gpu.json and gpu.md are written.
            about: what stands above the rows.
            minutes: how long until it is late.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.about = folder, about
        self.rows: list[dict[str, Any]] = []
        self.until = time.monotonic() + 60 * minutes

    def late(self) -> bool:
        """Check whether no other case should begin."""
        return time.monotonic() > self.until

    def add(self, **row: Any) -> None:
        """Add a row, whose ``table`` says below which heading it stands."""
        self.rows.append(row)
        print("  ".join(f"{k}: {shown(v)}" for k, v in row.items()), flush=True)
        told = {"about": self.about, "rows": self.rows}
        write_whole(self.folder / "gpu.json", json.dumps(told, indent=1))
        write_whole(self.folder / "gpu.md", self.markdown())

    def markdown(self) -> str:
        """Return all rows as tables."""
        lines = [f"{key}: {value}  " for key, value in self.about.items()]
        for what in dict.fromkeys(row["table"] for row in self.rows):
            rows = [row for row in self.rows if row["table"] == what]
            keys = list(dict.fromkeys(key for row in rows for key in row if key != "table"))
            lines += ["", f"## {what}", "", f"| {' | '.join(keys)} |", "|---" * len(keys) + "|"]
            lines += [f"| {' | '.join(shown(row.get(key)) for key in keys)} |" for row in rows]
        return "\n".join(lines) + "\n"


def shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "" if value is None else str(value)


class Clock:
    """Times and peak memory on a device; on a CPU the times are real and the memory is 0."""

    def __init__(self, device: torch.device) -> None:
        """Take the device that calls run on."""
        self.on_gpu = device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def least(self, call: Callable[[], object], rounds: int) -> tuple[float, float]:
        """Return the smallest time of a call in ms, and the most memory that it took in MB."""
        for _ in range(3 if self.on_gpu else 0):  # compiles, records, warms up
            call()
        self.wait()
        before = 0
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            call()
            self.wait()
            times.append(time.perf_counter() - began)
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
