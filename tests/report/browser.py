"""A headless Chromium that opens a page and says what it found there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from html import escape, unescape
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
)
# Pages lie in frames, so that one can be narrower than a window may be, and one browser opens all.
# Each frame is unfolded, and looked at once it has drawn its figures, or after the time is up.
FRAME = """<iframe srcdoc="{page}" style="border:0;width:{width}px;height:2000px"></iframe>"""
AROUND = """<!DOCTYPE html><body style="margin:0">{frames}<pre id="found"></pre><script>
var tries = 0, frames = Array.from(document.querySelectorAll("iframe"));
function ready(f) {{
  var doc = f.contentDocument, drawn = doc.documentElement.dataset.drawn;
  doc.querySelectorAll("details").forEach(function (folded) {{ folded.open = true; }});
  return drawn && Number(drawn) >= doc.querySelectorAll(".plot").length;
}}
function look(f) {{
  var doc = f.contentDocument, root = doc.documentElement;
  return {{
    drawn: root.dataset.drawn || null, plots: doc.querySelectorAll(".plot").length,
    svgs: doc.querySelectorAll(".plot .main-svg").length, width: root.clientWidth,
    scroll: Math.max(root.scrollWidth, doc.body.scrollWidth), text: doc.body.innerText
  }};
}}
function wait() {{
  if (!frames.every(ready) && ++tries < 200) return setTimeout(wait, 50);
  document.getElementById("found").textContent = JSON.stringify(frames.map(look));
  frames.forEach(function (f) {{ f.remove(); }});  // or their megabytes are printed too
}}
onload = wait;
</script></body>"""


def chromium() -> str:
    """Give the browser's path, or skip the test and say so."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    pytest.skip("no Chromium installed: the page is not opened in a browser")


def open_pages(folder: Path, *pages: tuple[str, int]) -> tuple[list[dict], list[str]]:
    """Open pages, each (HTML, width); give what each holds, and every console message."""
    frames = "".join(FRAME.format(page=escape(page), width=width) for page, width in pages)
    around = folder / "frames.html"
    around.write_text(AROUND.format(frames=frames), encoding="utf-8")
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [
                chromium(),
                *FLAGS,
                f"--user-data-dir={profile}",
                "--window-size=1600,2000",
                "--virtual-time-budget=15000",
                "--dump-dom",
                around.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.S)
    assert found, f"the pages did not load: {done.stdout[-300:]} {done.stderr[-800:]}"
    return json.loads(unescape(found[1])), console
