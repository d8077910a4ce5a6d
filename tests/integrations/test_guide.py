"""The blocks of the monitor's guide that need a package, each run after those that need none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from .packages import package

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "monitor.md"
TEXT = GUIDE.read_text(encoding="utf-8")
PLAIN = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```py\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
# What an import's first name is called in the block's test.
NEEDS = [
    re.findall(r"^(?:import|from) (?!throughtime|torch\b(?!\.utils\.t))([\w.]+)", b, re.M)[0]
    for b in BLOCKS
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("needed", "block"), list(zip(NEEDS, BLOCKS, strict=True)), ids=NEEDS)
def test_a_block_of_the_guide_runs(needed, block, tmp_path, monkeypatch):
    package(needed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_SILENT", "true")
    names: dict[str, object] = {"__name__": "__document__"}
    threads = torch.get_num_threads()
    for code in (PLAIN[0], block):
        exec(compile(code, GUIDE.name, "exec"), names)
    torch.set_num_threads(threads)
