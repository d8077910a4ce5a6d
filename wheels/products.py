"""Compile the explorer's products to WebAssembly, into products.js: `make products`."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ENGINE = Path(__file__).parents[1] / "src" / "throughtime" / "explore" / "engine"
FLAGS = (
    "--target=wasm32-freestanding", "-mcpu=generic+simd128", "-O3", "-ffp-contract=off",
    "-nostdlib", "-Wl,--no-entry", "-Wl,--strip-all", "-Wl,-z,stack-size=65536",
    "-Wl,--initial-memory=1048576",
)  # fmt: skip


def main() -> None:
    """Compile, and put the bytes and the source's hash where the old ones stood."""
    source, script = ENGINE / "products.c", ENGINE / "products.js"
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "products.wasm"
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(compiled), str(source)]
        subprocess.run(command, check=True)
        code = base64.b64encode(compiled.read_bytes()).decode("ascii")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    text = script.read_text(encoding="utf-8")
    text = re.sub(r"(const COMPILED_FROM = )\"\w*\"", rf'\1"{digest}"', text)
    text = re.sub(r"(const COMPILED =\n  )\"[\w+/=]*\"", rf'\1"{code}"', text)
    script.write_text(text, encoding="utf-8")
    print(f"{script}: {len(code)} characters of WebAssembly.")


if __name__ == "__main__":
    main()
